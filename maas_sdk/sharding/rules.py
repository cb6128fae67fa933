"""Sharding rules: the mesh axis for each dimension of a parameter, by its path.

The rule it keeps: rules are an ordered list and the first that matches a parameter decides. A
pattern is a regular expression searched for in the parameter's path, such as
``layers/0/attention/query/kernel``; a partition names, for each dimension of the parameter, the
mesh axis (or several, or None) that it is cut over.

A parameter with more dimensions than the partition is a stack of equal layers: the dimensions that
come first are left whole, so the same rule holds for a list of layers and for scanned ones.

Dimension letters: D features, N heads, K heads of keys and values, H features of a head, F features
of the feed-forward layers, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.mesh import ALIASES, AXES

__all__ = [
    "LOGICAL_AXES",
    "RULES",
    "Partition",
    "Rule",
    "axes_of",
    "first_match",
    "matches",
    "partition_text",
    "rules_by_name",
]

_QUANTIZED: Final = re.compile(r"(/array)?/qvalue$")

# Per dimension: an axis, several (the first varies slowest), or None.
Partition = tuple[str | tuple[str, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: parameters whose path matches ``pattern`` are cut by ``partition``."""

    # Searched with ``re.search``: "kernel" matches anywhere, "kernel$" at the end.
    pattern: str
    # One entry per dimension, the last belonging to the last; () keeps the parameter whole.
    partition: Partition

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"rule {self.pattern!r}: not a regular expression ({error})", pattern=self.pattern
            ) from None
        object.__setattr__(self, "partition", tuple(self._entry(entry) for entry in self.partition))
        used = [axis for entry in self.partition for axis in axes_of(entry)]
        twice = sorted({axis for axis in used if used.count(axis) > 1})
        if twice:
            raise ConfigError(
                f"rule {self.pattern!r}: axis {twice[0]!r} cuts two dimensions of one parameter; "
                "name it once",
                pattern=self.pattern,
            )

    def __str__(self) -> str:
        return f"{self.pattern} → {partition_text(self.partition)}"

    def _entry(self, entry: object) -> str | tuple[str, ...] | None:
        if entry is None:
            return None
        names = (entry,) if isinstance(entry, str) else entry
        if not isinstance(names, Iterable):
            raise ConfigError(
                f"rule {self.pattern!r}: expected an axis, a tuple of axes or None, got {entry!r}"
            )
        found = tuple(ALIASES.get(str(name), str(name)) for name in names)
        unknown = [name for name in found if name not in AXES]
        if unknown:
            raise ConfigError(
                f"rule {self.pattern!r}: unknown axis {unknown[0]!r}; known are "
                f"{', '.join((*AXES, *ALIASES))}",
                pattern=self.pattern,
                axis=unknown[0],
            )
        return found[0] if len(found) == 1 else (found or None)


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the axes of one entry of a partition."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else entry


def partition_text(partition: Iterable[str | tuple[str, ...] | None]) -> str:
    """Format ``("fsdp", None, ("data", "tensor"))`` as ``fsdp, -, data+tensor``; whole: ``-``."""
    return ", ".join("+".join(axes_of(entry)) or "-" for entry in partition) or "-"


def matches(rule: Rule, path: str) -> bool:
    """Return True when a rule's pattern is found in a parameter's path.

    The int8 numbers of a quantized weight (``head/kernel/qvalue``) go by the weight's own name, so
    one rule holds for both.
    """
    return re.search(rule.pattern, _QUANTIZED.sub("", path)) is not None


def first_match(rules: Iterable[Rule], path: str) -> Rule | None:
    """Return the first rule that matches a parameter."""
    return next((rule for rule in rules if matches(rule, path)), None)


def rules_by_name(name: str) -> tuple[Rule, ...]:
    """Return a preset out of ``RULES``.

    Raises:
        ConfigError: no such preset.
    """
    if name not in RULES:
        raise ConfigError(f"unknown rules {name!r}; known are {', '.join(sorted(RULES))}")
    return RULES[name]


# A column-parallel layer (its output cut) is followed by a row-parallel one (its input cut), so
# that one all-reduce per pair is all that tensor parallelism costs (Shoeybi et al. 2019,
# "Megatron-LM", section 3). "fsdp" takes the dimension that is left.
_TRANSFORMER: Final = (
    Rule(r"attention/(query|key|value)/kernel$", ("fsdp", "tensor")),  # [D, N·H], [D, K·H]
    Rule(r"attention/(query|key|value)/bias$", ("tensor",)),
    Rule(r"attention/out/kernel$", ("tensor", "fsdp")),  # [N·H, D]
    Rule(r"mlp/(up|gate)/kernel$", ("fsdp", "tensor")),  # [D, F]
    Rule(r"mlp/(up|gate)/bias$", ("tensor",)),
    Rule(r"mlp/down/kernel$", ("tensor", "fsdp")),  # [F, D]
    Rule(r"(^|/)embed/embedding$", ("tensor", "fsdp")),  # [V, D]
    Rule(r"(position|type)_embed/embedding$", (None, "fsdp")),
    Rule(r"(^|/)head/kernel$", ("fsdp", "tensor")),  # [D, V]
    Rule(r"(^|/)head/bias$|(^|/)head_bias$", ("tensor",)),
)
_MLP: Final = (
    Rule(r"hidden/\d*[02468]/kernel$", ("fsdp", "tensor")),
    Rule(r"hidden/\d*[02468]/bias$", ("tensor",)),
    Rule(r"hidden/\d*[13579]/kernel$", ("tensor", "fsdp")),
)

# By the names of the models of this package (see ``maas_sdk.models``). Convolutions and recurrent
# layers have no tensor-parallel form worth its traffic; automatic FSDP cuts them.
RULES: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {"transformer": _TRANSFORMER, "mlp": _MLP, "standard": (*_TRANSFORMER, *_MLP)}
)

# What authors call dimensions (t5x, MaxText, the Flax guides) → the mesh axes that cut them. Of two
# dimensions that want the same axis the first gets it.
LOGICAL_AXES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "batch": ("data", "fsdp"),
        "length": (),
        "embed": ("fsdp",),
        "embed_vocab": ("fsdp",),
        "mlp": ("tensor",),
        "heads": ("tensor",),
        "q_heads": ("tensor",),
        "kv_heads": ("tensor",),
        "kv": (),
        "kv_head_dim": (),
        "head_dim": (),
        "joined_kv": ("tensor",),
        "vocab": ("tensor",),
        "expert": ("expert",),
        "exp": ("expert",),
        "layers": ("stage",),
        "stack": (),
        "norm": (),
        "relpos_buckets": (),
    }
)
