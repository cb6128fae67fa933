"""Products with weights, recognised in a traced program, and their evaluators.

The rule it keeps: an equation counts as a product only where every axis of the weight is, as a
whole, either summed over or an output; any other is computed unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maas_sdk.compress.program.traced_weight import Weight

__all__ = ["Products", "Use", "use_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """One product of a weight with another operand."""

    # "dense", "conv" or "lookup".
    kind: str
    # Where it stands in the program: indices of equations, outer ones first.
    place: tuple[int, ...]
    weight: Weight
    # Axes of the weight's own shape that are put out; the others are summed over.
    out_axes: tuple[int, ...]
    # The equation's own parameters.
    params: Mapping[str, Any]
    # Of a dense product, whether the weight is the first operand.
    first: bool
    # Of the weight as it is laid out: dimensions that are summed over, and dimensions that are put
    # out, in the order of ``channel_dims``, the dimensions of the result where they end up.
    summed: tuple[int, ...]
    kept: tuple[int, ...]
    channel_dims: tuple[int, ...]
    # Shape and dtype of the result.
    shape: tuple[int, ...]
    dtype: Any
    # The equation with other operands: (first, second) → result.
    bind: Callable[..., Any]


class Products(ABC):
    """Evaluator of products with weights."""

    @abstractmethod
    def array(self, weight: Weight) -> Any:
        """Return the weight as a float array of its own shape, before layout operations."""

    @abstractmethod
    def product(self, use: Use, other: Any) -> Any:
        """Compute a product; ``other`` is the input, or the row numbers of a lookup."""

    # Whether what depends on weights alone is computed at once, so that ``followed`` gets numbers.
    eager: bool = False

    def chain(self, use: Use) -> int | None:
        """Return the number of following operations that ``product`` includes; None to be told."""
        return 0

    def followed(self, use: Use, steps: Sequence[tuple[str, Any]]) -> None:  # noqa: B027
        """Receive the operations after a product that might be folded into it.

        Each is "add", "sub", "rsub" (numbers - x), "mul" or "div", and its numbers: one per
        channel, or one for all.
        """

    def scope(self) -> Any:
        """Enter the body of a scan before it is traced; the result goes to ``leave``."""
        return None

    def leave(self, scope: Any) -> Any:
        """Leave a traced scan body; returned values leave the scan with its results."""
        return ()

    def gathered(self, values: Any, *, looped: bool) -> None:  # noqa: B027
        """Receive the values of ``leave``, stacked over the steps of the scan."""


def use_of(eqn: Any, given: Sequence[Any], place: tuple[int, ...]) -> Use | None:
    """Return the product that an equation is, where exactly one of its operands is a weight."""
    at = [index for index, value in enumerate(given[:2]) if isinstance(value, Weight)]
    name = eqn.primitive.name
    if len(at) != 1 or name not in ("dot_general", "conv_general_dilated", "gather"):
        return None
    weight: Weight = given[at[0]]
    params = eqn.params
    rank = len(eqn.outvars[0].aval.shape)
    if name == "dot_general":
        (contract, batch) = (tuple(sides[at[0]]) for sides in params["dimension_numbers"])
        free = [dim for dim in range(len(weight.dims)) if dim not in (*contract, *batch)]
        begin = len(batch) if at[0] == 0 else rank - len(free)
        channels = (*range(len(batch)), *range(begin, begin + len(free)))
        kept, kind = (*batch, *free), "dense"
    elif name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        if at[0] != 1 or params["batch_group_count"] != 1:
            return None
        contract, kept = tuple(numbers.rhs_spec[1:]), (numbers.rhs_spec[0],)
        channels, kind = (numbers.out_spec[1],), "conv"
    else:
        numbers = params["dimension_numbers"]
        if (
            at[0] != 0
            or weight.steps
            or len(weight.shape) != 2
            or numbers.collapsed_slice_dims != (0,)
            or numbers.start_index_map != (0,)
            or numbers.operand_batching_dims
            or tuple(params["slice_sizes"]) != (1, weight.shape[1])
            or numbers.offset_dims != (rank - 1,)
        ):
            return None
        contract, kept, channels, kind = (1,), (0,), (), "lookup"
    summed = {axis for dim in contract for axis in weight.dims[dim]}
    out_axes = tuple(axis for axis in range(len(weight.shape)) if axis not in summed)
    put_out = {axis for dim in kept for axis in weight.dims[dim]}
    if put_out & summed or (kind == "dense" and len(weight.shape) < 2):
        return None
    parameters = dict(params)

    def bind(first: Any, second: Any, **changes: Any) -> Any:
        return eqn.primitive.bind(first, second, **{**parameters, **changes})

    return Use(
        kind=kind,
        place=place,
        weight=weight,
        out_axes=out_axes,
        params=parameters,
        first=at[0] == 0,
        summed=contract,
        kept=kept,
        channel_dims=channels,
        shape=tuple(eqn.outvars[0].aval.shape),
        dtype=eqn.outvars[0].aval.dtype,
        bind=bind,
    )
