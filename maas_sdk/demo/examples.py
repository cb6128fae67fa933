"""Built-in models with their data, for trying commands before having a model.

The rule it keeps: an example is made anew at every call, from fixed seeds, and needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError
from maas_sdk.models.convnet import ConvNet
from maas_sdk.training.data import Split

__all__ = ["EXAMPLES", "example"]


def _digits() -> tuple[nnx.Module, Split]:
    """Return a convnet of 38,282 parameters, and the digits that it learns in a few passes."""
    model = ConvNet(features=(16, 32), hidden_features=64, rngs=nnx.Rngs(0))
    return model, load_split()


EXAMPLES: Final[Mapping[str, Callable[[], tuple[nnx.Module, Split]]]] = {"digits": _digits}


def example(name: str) -> tuple[nnx.Module, Split]:
    """Return a model with initial weights, and its data.

    Raises:
        ConfigError: no such example.
    """
    if name not in EXAMPLES:
        raise ConfigError(f"unknown example {name!r}; there is {', '.join(EXAMPLES)}")
    return EXAMPLES[name]()
