"""GPTQ: rounding weights one input at a time, compensating each error in the inputs to come.

The rule it keeps: what is minimised is the error of the layer's output on calibration rows, not
that of the weights, and every output channel is solved by itself with what all of them share.

    minimise  ‖(W − Ŵ) X‖²,  H = X Xᵀ              (Frantar et al. 2023, equation 1, algorithm 1)
    per input j:  e = (w_j − ŵ_j) / U_jj,  w_k ← w_k − e · U_jk  for all k > j
    with  H⁻¹ = Uᵀ U,  U upper triangular

U comes from one factorization instead of the paper's inversion between two: with H = R Rᵀ, R upper
triangular (Cholesky's factor of H read backwards), U is R⁻¹.

The loop over inputs runs over all output channels at once. Updates beyond a block of inputs are
put off and made by one product of matrices per block, as the paper does ("lazy batch updates").

Dimension letters: O output channels, I inputs, g inputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import numpy as np
from scipy.linalg import lapack  # type: ignore[import-untyped]

from maas_sdk.compress.methods.grids import Clip, Codes, check_bits, scales
from maas_sdk.compress.methods.tiles import Granularity, check_matrix, shared_shape
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["check_gram", "gptq"]

# Output channels are taken so many weights at a time: two copies of them are made.
_WEIGHTS: Final = 2**21

# By what damping grows, and how often, when H plus damping is still not positive definite.
_MORE_DAMPING: Final = 10.0
_TRIES: Final = 4
_LEAST_DAMPING: Final = 1e-4


def gptq(
    w: Any,
    hessian: Any,
    *,
    bits: int,
    granularity: Granularity = "channel",
    damping: float = 0.01,
    block: int = 128,
    order: Literal["given", "activation"] = "activation",
    clip: Clip = "max",
) -> Codes:
    """Return codes of the grid of ``grids.symmetric`` that keep the layer's output.

    An input that no calibration row used (H_jj = 0) says nothing about its weights: they are
    rounded to the nearest, and nothing makes up for it. Where H is singular, as with fewer rows
    than inputs, damping decides; if it is too small for a factorization it is raised tenfold.

    Args:
        w: float [O, I], finite.
        hessian: float [I, I], Σ x xᵀ over calibration rows x; any positive factor will do.
        bits: 2, 3, 4 or 8.
        granularity: who shares a scale. Those of a group are found when its first input is reached,
            from weights that already make up for others; with order "activation", from the
            weights as they came.
        damping: is added to H's diagonal, as a share of its mean.
        block: inputs after which put off updates are made.
        order: "given" takes inputs as they come; "activation" those with the largest H_jj first,
            while there are many left to make up for them (their code's "act-order").
        clip: how ranges are found, as of ``grids.symmetric``.

    Returns:
        Codes int8 [O, I] and scale [1, 1], [O, 1] or [O, I/g], as of ``grids.symmetric``.

    Raises:
        ConfigError: bits, granularity, clip, order, damping or block that there are not.
        InputError: not a matrix of finite floats; a Hessian of another shape, not finite, or with
            a negative number on its diagonal.
    """
    w = check_matrix(w)
    check_bits(bits)
    if order not in ("given", "activation"):
        raise ConfigError(f"order: expected 'given' or 'activation', got {order!r}", order=order)
    if damping < 0:
        raise ConfigError(f"damping: expected 0 or more, got {damping}", damping=damping)
    if block < 1:
        raise ConfigError(f"block: expected 1 or more inputs, got {block}", block=block)
    hessian = check_gram(hessian, w.shape[1])
    inputs = np.arange(w.shape[1])
    if order == "activation":
        inputs = np.argsort(-np.diag(hessian), kind="stable")
    upper = _factor(hessian[np.ix_(inputs, inputs)], damping)
    groups = shared_shape(w.shape, granularity)[1]
    group = inputs // (w.shape[1] // groups)
    # Also looks at all weights, and raises if one is not finite.
    scale = scales(w, bits=bits, granularity=granularity, clip=clip)

    def find(weights: Array) -> Array:
        return scales(weights, bits=bits, clip=clip)[:, 0]

    codes = np.empty(w.shape, np.int8)
    step = max(1, _WEIGHTS // w.shape[1])
    for start in range(0, len(w), step):
        rows = slice(start, start + step)
        codes[rows, inputs] = _solve(
            np.ascontiguousarray(np.asarray(w[rows], np.float32).T[inputs]),
            upper,
            # A view where every channel has its own: what is found anew is written there.
            scale if len(scale) == 1 else scale[rows],
            group,
            find if groups > 1 and order == "given" else None,
            block,
            check_bits(bits),
        ).T
    return Codes(codes=codes, scale=scale)


def check_gram(gram: Any, inputs: int) -> Array:
    """Return Σ x xᵀ as float64 [I, I], not copied if it is that already.

    Raises:
        InputError: another shape, numbers that are not finite, or a negative one on the diagonal.
    """
    found: Array = np.asarray(gram)
    if found.shape != (inputs, inputs):
        raise InputError(
            f"gram: expected [{inputs}, {inputs}] for weights of {inputs} inputs, got "
            f"{list(found.shape)}; it is x.T @ x of calibration rows x [n, {inputs}]",
            expected=(inputs, inputs),
            found=found.shape,
        )
    found = found.astype(np.float64, copy=False)
    diagonal = np.diag(found)
    if not np.isfinite(found).all() or diagonal.min() < 0:
        what = "numbers that are not finite" if diagonal.min() >= 0 else "a negative square"
        if not np.isfinite(diagonal).all():
            what = "numbers that are not finite"
        raise InputError(
            f"gram: expected finite sums with squares on the diagonal, got {what}; add x.T @ x up "
            "in float64, over calibration rows that are finite"
        )
    return found


def _factor(hessian: Array, damping: float) -> Array:
    """Return U of H⁻¹ = Uᵀ U, times any factor: float32 [I, I], upper triangular. Destroys H."""
    diagonal = np.diag(hessian).copy()
    dead = diagonal == 0
    mean = diagonal.mean()
    if mean == 0:
        return np.eye(len(hessian), dtype=np.float32)
    # Only ratios count. With squares around 1, neither float64 nor float32 overflows.
    hessian /= mean
    hessian[dead] = hessian[:, dead] = 0
    diagonal = np.where(dead, 1.0, diagonal / mean)
    for attempt in range(_TRIES + 1):
        more = damping if attempt == 0 else max(damping, _LEAST_DAMPING) * _MORE_DAMPING**attempt
        np.fill_diagonal(hessian, diagonal + more)
        lower, info = lapack.dpotrf(hessian[::-1, ::-1], lower=1, clean=1)
        # A pivot that is made of rounding errors would blow up what is made up for.
        if info == 0 and np.diag(lower).min() ** 2 > len(hessian) * np.finfo(np.float64).eps:
            inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
            return np.ascontiguousarray(inverse[::-1, ::-1], np.float32)
    raise InputError(
        f"gram: not positive semidefinite, not even with {more:g} of its mean square added; "
        "it is x.T @ x of calibration rows: add it up in float64",
        damping=more,
    )


def _solve(
    left: Array,
    upper: Array,
    scale: Array,
    group: Array,
    find: Callable[[Array], Array] | None,
    block: int,
    top: int,
) -> Array:
    """Run algorithm 1 for some output channels.

    Args:
        left: float32 [I, O], what is still to be rounded; changed on the way.
        upper: float32 [I, I], U.
        scale: float32 [O, I/g] or [1, I/g]; where ``find`` is given, changed on the way.
        group: [I], the group of each input.
        find: weights [O, g] of a group → its scales [O]; None takes those that are there.
        block: inputs after which put off updates are made.
        top: the largest code.

    Returns:
        Codes int8 [I, O].
    """
    codes = np.empty(left.shape, np.int8)
    size = len(left) // scale.shape[1]
    for begin, end in _blocks(len(left), size if find else len(left), block):
        errors = np.empty((end - begin, left.shape[1]), np.float32)
        for index in range(begin, end):
            if find is not None and index % size == 0:
                scale[:, group[index]] = find(left[index : index + size].T)
            shared = scale[:, group[index]]
            rounded = np.clip(np.rint(left[index] / shared), -top, top)
            codes[index] = rounded
            error = (left[index] - rounded * shared) / upper[index, index]
            left[index + 1 : end] -= upper[index, index + 1 : end, None] * error
            errors[index - begin] = error
        left[end:] -= upper[begin:end, end:].T @ errors
    return codes


def _blocks(inputs: int, group: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield runs of at most ``block`` inputs, or one larger group, that end where groups do.

    A group's scales are found from weights that have been made up to date.
    """
    step = max(block // group, 1) * group if group < inputs else block
    for begin in range(0, inputs, step):
        yield begin, min(begin + step, inputs)
