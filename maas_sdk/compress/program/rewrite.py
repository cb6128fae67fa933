"""Evaluation of a traced program with its products with weights replaced.

Any model that jax can trace is a list of equations (a jaxpr) over its weights and inputs. Walking
that list and answering for the products with weights ourselves quantizes nnx modules, linen modules
and plain functions alike, with nothing patched and no second copy of the model.

The rule it keeps: an unknown equation is computed unchanged. A weight travels through the
program as a ``Weight``, a name beside the layout operations that were done to it; where it meets a
dense product, a convolution or a row lookup the ``Products`` are asked; where it meets anything
else it is made a float array first.

Norms that follow a product are folded the same way: a product whose result is only used by an
addition or multiplication with numbers that depend on weights alone, one per channel, may answer
for the whole chain (``y = (x·w + b - m)·k + c`` is ``x·(w·k) + ((b - m)·k + c)``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jax
import numpy as np
from jax.extend.core import Literal

from maas_sdk.compress.program.traced_weight import LAYOUT, Known, Weight, moved
from maas_sdk.compress.program.weight_uses import Products, Use, use_of

__all__ = ["evaluate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    """A product's result while the operations that follow may still be folded into it."""

    use: Use
    # What the program holds here.
    value: Any
    # Operations seen so far, for ``Products.followed``; None when the product answers for them.
    steps: tuple[tuple[str, Any], ...] | None
    # Operations still to come that the product answers for.
    left: int = 0


# Equations that only wrap others; the name of the parameter that holds them.
_WRAPPERS: Final = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
_FOLDABLE: Final = frozenset({"add", "sub", "mul", "div"})


def evaluate(
    closed: Any, arguments: Sequence[Any], products: Products, *, place: tuple[int, ...] = ()
) -> list[Any]:
    """Evaluate a closed jaxpr.

    Args:
        closed: what ``jax.make_jaxpr`` gives.
        arguments: one each: an array, a ``Weight``, or a ``Known``.
        products: what products with weights mean.
        place: where this program stands in the one around it.

    Returns:
        The results, arrays all.
    """
    known = [Known(value) for value in closed.consts]
    found = _run(closed.jaxpr, [*known, *arguments], products, place)
    return [_settle(value, products) for value in found]


def _run(
    jaxpr: Any, values: Sequence[Any], products: Products, place: tuple[int, ...]
) -> list[Any]:
    """Return results of an open jaxpr, constants first among ``values``; they may be special."""
    env: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], values, strict=True))
    uses = Counter(v for eqn in jaxpr.eqns for v in eqn.invars if not isinstance(v, Literal))
    uses.update(v for v in jaxpr.outvars if not isinstance(v, Literal))

    def read(var: Any) -> Any:
        if isinstance(var, Literal):
            return Known(np.asarray(var.val, getattr(var.aval, "dtype", None)))
        value = env[var]
        # Somebody else needs what stands here, so nothing behind it may be folded away.
        if isinstance(value, _Pending) and uses[var] > 1:
            value = env[var] = _settle(value, products)
        return value

    for index, eqn in enumerate(jaxpr.eqns):
        given = [read(var) for var in eqn.invars]
        results = _equation(eqn, given, products, (*place, index))
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _equation(
    eqn: Any, given: Sequence[Any], products: Products, place: tuple[int, ...]
) -> list[Any]:
    name = eqn.primitive.name
    special = [value for value in given if isinstance(value, (Weight, _Pending))]
    if not special:
        if all(isinstance(value, Known) for value in given) and given:
            return [Known(value) for value in _plain(eqn, given, products, known=True)]
        if name not in _WRAPPERS and name != "scan":
            return _plain(eqn, given, products)
    if name in _WRAPPERS:
        inner = eqn.params[_WRAPPERS[name]]
        jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, [])
        return _run(jaxpr, [*map(Known, consts), *given], products, place)
    if name == "scan":
        return _scan(eqn, given, products, place)
    if name in LAYOUT and isinstance(given[0], Weight) and len(given) == 1:
        followed = moved(eqn, given[0])
        if followed is not None:
            return [followed]
    if (
        name == "convert_element_type"
        and isinstance(given[0], Weight)
        and jax.numpy.issubdtype(eqn.params["new_dtype"], jax.numpy.floating)
    ):
        return [replace(given[0], dtype=eqn.params["new_dtype"])]
    if name in _FOLDABLE and any(isinstance(value, _Pending) for value in given):
        result = _followed(eqn, given, products)
        if result is not None:
            return [result]
    use = use_of(eqn, given, place)
    if use is not None:
        other = _settle(given[0 if not use.first else 1], products)
        value, chain = products.product(use, other), products.chain(use)
        if chain == 0:
            return [value]
        return [_Pending(use=use, value=value, steps=None if chain else (), left=chain or 0)]
    return _plain(eqn, given, products)


def _plain(eqn: Any, given: Sequence[Any], products: Products, *, known: bool = False) -> list[Any]:
    """Evaluate the equation unchanged."""
    values = [_settle(value, products) for value in given]
    parameters = eqn.primitive.get_bind_params(eqn.params)
    # jax 0.10 gives (functions, parameters), later ones may give the parameters alone.
    functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
    if known and products.eager and not any(isinstance(v, jax.core.Tracer) for v in values):
        with jax.ensure_compile_time_eval():
            found = eqn.primitive.bind(*functions, *values, **parameters)
    else:
        found = eqn.primitive.bind(*functions, *values, **parameters)
    return list(found) if eqn.primitive.multiple_results else [found]


def _settle(value: Any, products: Products) -> Any:
    """Return a special value as the array that the original program would hold."""
    match value:
        case Weight():
            return value.laid_out(products.array(value)).astype(value.dtype)
        case Known():
            return value.value
        case _Pending(steps=None):
            if value.left:
                raise AssertionError(f"{value.use.weight.name}: a folded operation did not come")
            return value.value
        case _Pending():
            if value.steps:
                products.followed(value.use, value.steps)
            return value.value
    return value


def _followed(eqn: Any, given: Sequence[Any], products: Products) -> Any:
    """Fold one more operation into a pending product; None where that is impossible."""
    mine = [index for index, value in enumerate(given) if isinstance(value, _Pending)]
    if len(mine) != 1 or not isinstance(given[1 - mine[0]], Known):
        return None
    pending: _Pending = given[mine[0]]
    numbers = given[1 - mine[0]].value
    name = eqn.primitive.name
    if name == "div" and mine[0] == 1:
        return None
    if not _per_channel(pending, numbers):
        return None
    if pending.steps is None:
        return replace(pending, left=pending.left - 1) if pending.left else None
    word = "rsub" if name == "sub" and mine[0] == 1 else name
    plain = [pending.value if value is pending else value for value in given]
    value = _plain(eqn, plain, products)[0]
    return replace(pending, value=value, steps=(*pending.steps, (word, numbers)))


def _per_channel(pending: _Pending, numbers: Any) -> bool:
    """Return True when numbers differ along the product's channels only."""
    shape = np.shape(numbers)
    if not shape:
        return True
    result = np.shape(pending.value)
    return len(shape) == len(result) and all(
        size == 1 or dim in pending.use.channel_dims for dim, size in enumerate(shape)
    )


def _scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many of a scan's inputs are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # jax 0.12 has the three groups of inputs as trees instead.
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def _scan(eqn: Any, given: Sequence[Any], products: Products, place: tuple[int, ...]) -> list[Any]:
    """Evaluate a scan with weights kept as weights: shared in its body, or cut per step."""
    params = eqn.params
    closed, (consts, carried) = params["jaxpr"], _scan_counts(params)
    shared = [
        value if isinstance(value, Weight) else _settle(value, products) for value in given[:consts]
    ]
    carry = [_settle(value, products) for value in given[consts : consts + carried]]
    rows = [
        value
        if isinstance(value, Weight) and value.cuts and not value.steps and not value.layer
        else _settle(value, products)
        for value in given[consts + carried :]
    ]
    stacked = any(isinstance(row, Weight) for row in rows)

    def body(state: Any, cut: Any) -> Any:
        scope = products.scope()
        layers = [
            Weight.of(row.name, part, row.shape[1:], row.dtype) if isinstance(row, Weight) else part
            for row, part in zip(rows, cut, strict=True)
        ]
        layers = [replace(x, layer=True) if isinstance(x, Weight) else x for x in layers]
        arguments = [*shared, *state, *layers]
        results = evaluate(closed, arguments, products, place=place)
        return results[:carried], (results[carried:], products.leave(scope))

    cut = [row.parts if isinstance(row, Weight) else row for row in rows]
    final, (outputs, extra) = jax.lax.scan(
        body,
        carry,
        cut,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    products.gathered(extra, looped=not stacked)
    return [*final, *outputs]
