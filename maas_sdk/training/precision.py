"""In which dtypes a model is trained.

The rule it keeps: parameters and optimizer state are masters and stay in ``params`` (float32 unless
said otherwise: an update that is small against a bfloat16 weight is lost in rounding); each step
computes on copies in ``compute``; what leaves the model is cast to ``output``, and losses are taken
in float32. bfloat16 has float32's exponent range, so no loss scaling is needed for it.

The grammar is jmp's: ``"params=float32,compute=bfloat16,output=float32"``, or one name for compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import jax
import jax.numpy as jnp

from maas_sdk.errors import ConfigError

__all__ = ["DTYPES", "Policy"]

T = TypeVar("T")

# Canonical name by every name in use for it.
DTYPES: Final[dict[str, str]] = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "f16": "float16",
    "float16": "float16",
    "half": "float16",
    "f32": "float32",
    "float32": "float32",
    "full": "float32",
}

_FIELDS: Final[dict[str, str]] = {
    "p": "params",
    "params": "params",
    "c": "compute",
    "compute": "compute",
    "o": "output",
    "output": "output",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The dtypes of a training run, by canonical name."""

    # Master weights, and with them the gradients and the optimizer's moments.
    params: str = "float32"
    # Weights and activations inside the model's call.
    compute: str = "float32"
    # What the model returns.
    output: str = "float32"

    def __post_init__(self) -> None:
        for name in ("params", "compute", "output"):
            object.__setattr__(self, name, _dtype(getattr(self, name), f"{name}="))

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read ``"bf16"``, ``"f32"`` or ``"params=float32,compute=bfloat16,output=float32"``.

        One dtype alone is for ``compute``; parameters and outputs stay float32. Fields may be
        shortened to their first letter, and those left out keep their default.

        Raises:
            ConfigError: an unknown field or dtype, or a field given twice.
        """
        if "=" not in text:
            return cls(compute=text.strip())
        fields: dict[str, str] = {}
        for part in text.split(","):
            key, _, dtype = (piece.strip() for piece in part.partition("="))
            name = _FIELDS.get(key)
            if name is None:
                raise ConfigError(
                    f"precision {text!r}: unknown field {key!r}; "
                    "expected params=, compute= or output="
                )
            if name in fields:
                raise ConfigError(f"precision {text!r}: {name} is given twice")
            fields[name] = dtype
        return cls(**fields)

    def __str__(self) -> str:
        return f"params={self.params},compute={self.compute},output={self.output}"

    def cast_params(self, tree: T) -> T:
        """The floating-point arrays of ``tree`` in the masters' dtype."""
        return _cast(tree, self.params)

    def cast_compute(self, tree: T) -> T:
        """The floating-point arrays of ``tree`` in the dtype that the model computes in."""
        return _cast(tree, self.compute)

    def cast_output(self, tree: T) -> T:
        """The floating-point arrays of ``tree`` in the dtype that the model returns."""
        return _cast(tree, self.output)


def _dtype(name: str, where: str) -> str:
    if name not in DTYPES:
        raise ConfigError(
            f"precision: unknown dtype {where}{name!r}; known are {', '.join(sorted(DTYPES))}",
            dtype=name,
        )
    return DTYPES[name]


def _cast(tree: T, dtype: str) -> T:
    """Integers, booleans and random keys pass as they are."""

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    cast_tree: T = jax.tree.map(cast, tree)
    return cast_tree
