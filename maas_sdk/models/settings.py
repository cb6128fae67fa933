"""Checks common to all configurations of models, and the reading of presets.

The rule it keeps: a mistake is reported with the name of the field, before a model is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maas_sdk.errors import ConfigError
from maas_sdk.models.activations import activation

__all__ = ["check_choice", "check_settings", "settings_of"]


def check_settings(config: Any, *, positive: tuple[str, ...]) -> None:
    """Check the fields that configurations have in common: ``activation`` and ``dropout``.

    Args:
        config: the configuration.
        positive: fields that hold a number, or several, of which each must be 1 or more.

    Raises:
        ConfigError: one of them is not.
    """
    for name in positive:
        found = getattr(config, name)
        if any(number < 1 for number in (found if isinstance(found, tuple) else (found,))):
            raise ConfigError(f"{name}: expected 1 or more, got {found}")
    activation(getattr(config, "activation", "identity"))
    dropout = getattr(config, "dropout", 0.0)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout: expected 0 ≤ x < 1, got {dropout}")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Check that a field holds one of some names.

    Raises:
        ConfigError: it does not.
    """
    found = getattr(config, name)
    if found not in choices:
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {found!r}")


def settings_of(
    kind: Any, presets: Mapping[str, Mapping[str, Any]], name: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of a preset with some changed.

    Args:
        kind: the configuration's class.
        presets: fields by the preset's name.
        name: the preset.
        changes: fields that replace the preset's.

    Raises:
        ConfigError: no such preset, or no such field.
    """
    if name not in presets:
        raise ConfigError(
            f"{kind.__name__}: unknown preset {name!r}; known are {', '.join(presets)}",
            preset=name,
        )
    fields = kind.__dataclass_fields__
    if unknown := sorted(changes.keys() - fields.keys()):
        raise ConfigError(
            f"{kind.__name__}: unknown fields {', '.join(unknown)}; known are {', '.join(fields)}"
        )
    return {**presets[name], **changes}
