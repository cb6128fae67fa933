"""Arithmetic of a function, counted from the shapes of its matrix products.

The rule it keeps: only products count (``dot_general`` and convolutions), two operations per
multiply-add; loops count as often as they turn; an attention's square counts in full, also where a
mask throws half of it away. Nothing is run.

What the count includes is what the function does: of a training step with rematerialization it
includes the recomputation (a step does more than its model asks for); of a forward pass it is the
model's own, and three times it is the model's share of a training step, since the backward pass has
two products for each of the forward pass (Kaplan et al. 2020, section 2.1).

Formulas: XLA's HloCostAnalysis, HandleDot and HandleConvolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["jaxpr_flops", "matmul_flops"]


def matmul_flops(fn: Callable[..., Any], *arguments: Any) -> float:
    """Operations of one call of ``fn`` on arguments of these shapes."""
    return jaxpr_flops(jax.make_jaxpr(fn)(*arguments))


def jaxpr_flops(closed: ClosedJaxpr) -> float:
    """Operations of a traced function."""
    return _count(closed.jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            total += max(
                (_count(branch.jaxpr) for branch in equation.params["branches"]), default=0
            )
        else:
            # A scan runs its body ``length`` times; how often a while turns is not in the jaxpr.
            factor = equation.params["length"] if name == "scan" else 1
            if name == "shard_map":  # Its body is what one device does.
                factor = math.prod(dict(equation.params["mesh"].shape).values())
            total += factor * sum(_count(inner) for inner in _inner(equation.params))
    return total


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yield the functions that an equation calls, except those for differentiating it."""
    for key, value in params.items():
        if key in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd"):
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * _size(equation.outvars[0]) * math.prod(int(left[d]) for d in contracted)


def _convolution(equation: Any) -> float:
    # Each output element sums over a kernel's inputs and its window. What falls into the padding
    # counts too, as it does on the matrix unit.
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    return 2.0 * _size(equation.outvars[0]) * _size(equation.invars[1]) / int(kernel[outputs])


def _size(variable: Any) -> int:
    return math.prod(int(size) for size in variable.aval.shape)
