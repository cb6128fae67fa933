"""Precision policies: the dtypes in which a model is trained.

The rule it keeps: parameters and optimizer state are masters and stay in ``params`` (float32 unless
said otherwise: an update that is small against a bfloat16 weight is lost in rounding); each step
computes on copies in ``compute``; what leaves the model is cast to ``output``, and losses are taken
in float32. bfloat16 has float32's exponent range, so no loss scaling is needed for it.

Flax takes the statistics of its norms and the softmax of its attention in float32 whatever
``compute`` is. One of its layers needs help: the running statistics of ``nnx.BatchNorm`` are
float32, and its output with them, so all that follows the first one would be computed in float32.
``keep_compute_dtype`` mends that; the statistics themselves stay float32.

The grammar is jmp's: ``"params=float32,compute=bfloat16,output=float32"``, or one name for compute.
The name of a quantized format, ``"int8"`` or ``"int8,compute=bfloat16"``, says in what the products
with weights are computed; ``training.qtraining`` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from maas_sdk.errors import ConfigError

__all__ = ["DTYPES", "QUANTIZED", "Policy", "keep_compute_dtype"]

T = TypeVar("T")
Module = TypeVar("Module", bound=nnx.Module)

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

# Formats that products with weights may be computed in, each with what it means.
QUANTIZED: Final[dict[str, str]] = {
    "int8": "weights and activations in int8; gradients in the compute dtype",
    "int8_full": "the same, and the gradients' products in int8 too",
    "fp8": "weights and activations in float8 e4m3; gradients in the compute dtype",
    "fp8_full": "the same, and gradients in float8 e5m2 in the products of dense layers",
}

_FIELDS: Final[dict[str, str]] = {
    "p": "params",
    "params": "params",
    "c": "compute",
    "compute": "compute",
    "o": "output",
    "output": "output",
    "q": "quantized",
    "quantized": "quantized",
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
    # A name out of QUANTIZED for the products with weights; None computes them in ``compute`` too.
    quantized: str | None = None

    def __post_init__(self) -> None:
        for name in ("params", "compute", "output"):
            object.__setattr__(self, name, _dtype(getattr(self, name), f"{name}="))
        if self.quantized is not None and self.quantized not in QUANTIZED:
            raise ConfigError(
                f"precision: unknown format quantized={self.quantized!r}; "
                f"known are {', '.join(sorted(QUANTIZED))}",
                dtype=self.quantized,
            )

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Parse ``"bf16"``, ``"int8"`` or ``"params=float32,compute=bfloat16,output=float32"``.

        A dtype without a field is for ``compute``, a name out of ``QUANTIZED`` for ``quantized``,
        so that ``"int8,bf16"`` and ``"quantized=int8,compute=bfloat16"`` are one policy. Fields may
        be shortened to their first letter, and those left out keep their default.

        Raises:
            ConfigError: an unknown field, dtype or format, or a field given twice.
        """
        fields: dict[str, str] = {}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                key, value = ("quantized" if key in QUANTIZED else "compute"), key
            name = _FIELDS.get(key)
            if name is None:
                raise ConfigError(
                    f"precision {text!r}: unknown field {key!r}; "
                    "expected params=, compute=, output= or quantized="
                )
            if name in fields:
                raise ConfigError(f"precision {text!r}: {name} is given twice")
            fields[name] = value
        return cls(**fields)

    def __str__(self) -> str:
        dtypes = f"params={self.params},compute={self.compute},output={self.output}"
        return dtypes if self.quantized is None else f"{dtypes},quantized={self.quantized}"

    def cast_params(self, tree: T) -> T:
        """Cast the floating-point arrays of ``tree`` to the masters' dtype."""
        return _cast(tree, self.params)

    def cast_compute(self, tree: T) -> T:
        """Cast the floating-point arrays of ``tree`` to the dtype that the model computes in."""
        return _cast(tree, self.compute)

    def cast_output(self, tree: T) -> T:
        """Cast the floating-point arrays of ``tree`` to the dtype that the model returns."""
        return _cast(tree, self.output)


def keep_compute_dtype(model: Module) -> Module:
    """Return a copy of ``model`` whose batch norms keep their inputs' dtype, as in bfloat16.

    It has variables of its own over the same arrays. Statistics are taken and kept in float32; a
    batch norm that was made with a ``promote_dtype`` of its own is left alone.
    """
    kept = nnx.clone(model)
    for _, module in nnx.iter_modules(kept):
        if isinstance(module, nnx.BatchNorm) and module.promote_dtype is promote_dtype:
            kept_dtype: Any = _promote_all_but_statistics
            module.promote_dtype = kept_dtype
    return kept


def _promote_all_but_statistics(
    values: tuple[Any, ...], /, *, dtype: Any = None, inexact: bool = True
) -> tuple[Any, ...]:
    """Promote dtypes for ``nnx.BatchNorm``: inputs, running mean and variance, scale and bias."""
    x, mean, variance, scale, bias = values
    x, scale, bias = promote_dtype((x, scale, bias), dtype=dtype, inexact=inexact)
    return x, mean, variance, scale, bias


def _dtype(name: str, where: str) -> str:
    if name not in DTYPES:
        raise ConfigError(
            f"precision: unknown dtype {where}{name!r}; known are {', '.join(sorted(DTYPES))}, "
            f"and for products with weights {', '.join(sorted(QUANTIZED))}",
            dtype=name,
        )
    return DTYPES[name]


def _cast(tree: T, dtype: str) -> T:
    """Cast floating-point arrays; integers, booleans and random keys pass unchanged."""

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    cast_tree: T = jax.tree.map(cast, tree)
    return cast_tree
