"""Storage of a quantized weight, and quantization of its inputs, as a program sees them.

The rule it keeps: a plan is a value with everything that a product with the weight depends on,
except the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import jax.numpy as jnp

from maas_sdk.bundle.encoding.spec import Encoding
from maas_sdk.compress.methods.grids import largest
from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.errors import ConfigError

__all__ = ["ROLES", "Activations", "WeightPlan", "whole_encodings"]

# What belongs to a weight besides its encoding, each a leaf ``<weight>/<role>``: float32.
#   shift        [O]   added to the product: what followed it and was folded in
#   smooth       [I]   the input is divided by it; the weight has been multiplied
#   input_scale  []    the static scale of the input
ROLES: Final = ("shift", "smooth", "input_scale")

# Inputs that products are computed with.
_INPUTS: Final = ("int8", "float8_e4m3fn", "levels1", "levels2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """Quantization of a product's inputs."""

    # "int8", "float8_e4m3fn"; or "levels1", "levels2": first and second order (``levels.py``).
    dtype: str = "int8"
    # Scales from each row, or from calibration.
    ranges: Literal["dynamic", "static"] = "dynamic"

    def __post_init__(self) -> None:
        if self.dtype not in _INPUTS:
            raise ConfigError(
                f"Activations.dtype: expected one of {', '.join(_INPUTS)}, got {self.dtype!r}",
                dtype=self.dtype,
            )
        if self.ranges not in ("dynamic", "static"):
            raise ConfigError(
                f"Activations.ranges: expected 'dynamic' or 'static', got {self.ranges!r}"
            )
        if self.ranges == "static" and self.dtype.startswith("levels"):
            raise ConfigError(
                f"Activations: {self.dtype} finds its factors row by row, so it has no static "
                "ranges: leave ranges='dynamic'"
            )

    @property
    def top(self) -> float:
        """The largest number of the grid."""
        return 127.0 if self.dtype == "int8" else largest(self.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPlan:
    """One quantized weight, as a program sees it."""

    name: str
    layout: MatrixView
    # Dtype of the float weight.
    dtype: str
    # Of the weight and of what it is made from; of one layer where it is a stack.
    encodings: Mapping[str, Encoding]
    # Names of the stored tensors.
    tensors: tuple[str, ...]
    activations: Activations | None = None
    # Which of ``ROLES`` are there.
    roles: tuple[str, ...] = ()
    # Operations of the program behind the product that ``shift`` stands for.
    operations: int = 0
    # Whether a stack's tensors can be cut into its layers.
    cuts: bool = True
    # The weight's axes in the order in which they are stored; None: as they are. Dense weights are
    # stored with their inputs last: that is what products of int8 and float8 want on GPUs, and what
    # XLA:CPU multiplies faster.
    order: tuple[int, ...] | None = None

    def as_used(self, array: Any, *, whole: bool = False) -> Any:
        """Return a layer's or a whole stack's stored array, in the weight's own axis order."""
        if self.order is None:
            return array
        inverse = [self.order.index(axis) for axis in range(len(self.order))]
        return jnp.transpose(array, [0, *(axis + 1 for axis in inverse)] if whole else inverse)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of all arrays that the program takes for it."""
        return (*self.tensors, *(f"{self.name}/{role}" for role in self.roles))

    def encoded(self) -> Encoding | None:
        """The weight's own encoding; None where it is stored as it is."""
        return self.encodings.get(self.name)

    def per_channel(self) -> bool:
        """Return True for integer or float8 weights with one scale per output channel."""
        own = self.encoded()
        if own is None or own.scheme != "scaled" or "zero" in own.parts:
            return False
        codes = self.encodings.get(own.parts["codes"])
        if codes is not None and codes.scheme not in ("packed", "joined"):
            return False
        order = self.order or tuple(range(len(self.layout.shape)))
        return self.scale_shape is not None and all(
            self.scale_shape[order.index(axis)] == 1 for axis in self.layout.in_axes
        )

    # Shape of the scales, of one layer; None where there are none.
    scale_shape: tuple[int, ...] | None = None


def whole_encodings(plan: WeightPlan) -> dict[str, Encoding]:
    """Return the encodings of the whole weight: of a stack, all of its layers."""
    stack = plan.layout.stack
    if stack is None:
        return dict(plan.encodings)
    return {name: _stacked(found, stack) for name, found in plan.encodings.items()}


def _stacked(encoding: Encoding, stack: int) -> Encoding:
    """Return the encoding of a whole stack from that of one layer."""
    params = dict(encoding.params)
    if "axis" in params and params["axis"] >= 0:
        params["axis"] += 1
    return replace(encoding, shape=(stack, *encoding.shape), params=params)
