"""Weights and activations as sums of signs: two levels of first order, four of second order.

The rule it keeps: levels are symmetric around zero, and a weight's signs name the level nearest to
it, once its factors were found by a round of least squares. Rounds never raise the squared error.

    first order    w ≈ β₁ s₁             β₁ = mean|w|, s₁ = sign(w)
                   (Rastegari et al. 2016, XNOR-Net, equation 6: the least-squares optimum)
    second order   w ≈ β₁ s₁ + β₂ s₂     β₂ = mean|r|, s₂ = sign(r), r = w − β₁ s₁
                   (Li et al. 2017, HORQ, section 3)

HORQ's β₁ is the optimum for one order; with two, both can be had better. The levels are ±(β₁ + β₂)
and ±(β₁ − β₂), so over a = |w| they are two: those a above β₁ belong to the upper one, and given
the signs the least-squares β make each level the mean of its a. Finding signs and β in turn is
k-means with two values (Lloyd 1982).

Dimension letters: O output channels, I inputs, M orders, D elements that share their levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from maas_sdk.compress.methods.tiles import (
    Cell,
    Granularity,
    cells,
    check_matrix,
    read,
    shared_shape,
)
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array

__all__ = ["ORDERS", "Levels", "activations", "signs"]

ORDERS: Final = (1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """A matrix as sums of signs, Σ_i betas_i · (2 · bit_i − 1)."""

    # uint8 [O, I]: bit i is the sign of order i, 1 for plus.
    codes: Array
    # float32 [1, 1, M], [O, 1, M] or [O, I/g, M], none negative; β₁ ≥ β₂ after a round or more.
    betas: Array

    def decode(self) -> Array:
        """The matrix that the codes stand for, float32 [O, I]."""
        total = np.zeros(self.codes.shape, np.float32)
        folded = total.reshape(total.shape[0], self.betas.shape[1], -1)
        codes = self.codes.reshape(folded.shape)
        for order in range(self.betas.shape[-1]):
            beta = self.betas[:, :, None, order]
            folded += np.where(codes >> order & 1, beta, -beta)
        return total


def signs(w: Any, *, order: int, granularity: Granularity = "channel", rounds: int = 10) -> Levels:
    """Compute signs and their factors.

    Args:
        w: float [O, I], finite.
        order: 1 for two levels, one bit a weight; 2 for four levels, two bits.
        granularity: who shares levels: "tensor", "channel" or g neighbouring inputs.
        rounds: of finding β₁ and β₂ anew by least squares and signs anew by the nearest level; 0
            is HORQ as published. Of no meaning to the first order.

    Returns:
        Codes uint8 [O, I], betas float32 [1, 1, M], [O, 1, M] or [O, I/g, M].

    Raises:
        ConfigError: an order or granularity that there is not, or fewer rounds than 0.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    _check_order(order)
    if rounds < 0:
        raise ConfigError(f"rounds: expected 0 or more, got {rounds}", rounds=rounds)
    betas = np.empty((*shared_shape(w.shape, granularity), order), np.float32)
    codes = np.empty(w.shape, np.uint8)
    for cell in cells(w.shape, granularity):
        first = _mean(w, cell, None)
        betas[cell.at][..., 0] = first
        if order == 2:
            second = _mean(w, cell, first)
            for _ in range(rounds):
                first, second = _refit(w, cell, first, second)
            betas[cell.at] = np.stack([first, second], axis=-1)
        for tile in cell.tiles:
            values = read(w, tile)
            bits = (values >= 0).astype(np.uint8)
            if order == 2:
                # s₂ is the sign of the residue: that of w, turned round below β₁.
                above = np.abs(values) >= betas[cell.at][..., :1]
                bits |= ((bits == 1) == above).astype(np.uint8) << 1
            codes[tile.at] = bits.reshape(tile.shape)
    return Levels(codes=codes, betas=betas)


def activations(x: Any, order: int, axis: int = -1, xp: Any = np) -> tuple[Any, Any]:
    """Compute signs and factors of activations at run time, by the published formulas.

    Traces under jax.jit with ``xp`` jax.numpy: no value decides about a shape or a branch.

    Args:
        x: float array; what lies along ``axis``, D elements, shares its levels.
        order: 1 or 2.
        axis: the axis that is summed over, such as the features of a row.
        xp: numpy or jax.numpy.

    Returns:
        (betas, signs): betas of the dtype of ``x`` and its shape, with 1 for D, and M appended;
        signs int8 ±1 of the shape of ``x`` with M appended. x ≈ Σ_i betas[…, i] · signs[…, i].

    Raises:
        ConfigError: an order that there is not.
    """
    _check_order(order)
    betas, found, rest = [], [], x
    for _ in range(order):
        sign = xp.where(rest >= 0, 1, -1).astype(xp.int8)
        beta = xp.mean(xp.abs(rest), axis=axis, keepdims=True)
        rest = rest - beta * sign.astype(x.dtype)
        betas.append(beta)
        found.append(sign)
    return xp.stack(betas, axis=-1), xp.stack(found, axis=-1)


def _check_order(order: int) -> None:
    if order not in ORDERS:
        raise ConfigError(
            f"order: expected 1 (two levels) or 2 (four levels), got {order!r}; for more levels "
            "take a codebook, of compress.cluster",
            order=order,
        )


def _mean(w: Array, cell: Cell, beta: Array | None) -> Array:
    """Return mean|w|, or mean||w| − β|, of each group of a cell: float32 [R, G]."""
    total, count = np.zeros(cell.shape), 0
    for tile in cell.tiles:
        values = np.abs(read(w, tile))
        if beta is not None:
            values = np.abs(values - beta[..., None])
        total += values.sum(axis=-1, dtype=np.float64)
        count += tile.folded[-1]
    return np.asarray((total / count).astype(np.float32))


def _refit(w: Array, cell: Cell, first: Array, second: Array) -> tuple[Array, Array]:
    """Return the best β₁ and β₂ for the signs that follow from β₁: [R, G] each."""
    upper, lower = np.zeros(cell.shape), np.zeros(cell.shape)
    count, above_count = 0, np.zeros(cell.shape)
    for tile in cell.tiles:
        values = np.abs(read(w, tile))
        above = values >= first[..., None]
        upper += np.where(above, values, 0).sum(axis=-1, dtype=np.float64)
        lower += np.where(above, 0, values).sum(axis=-1, dtype=np.float64)
        above_count += above.sum(axis=-1)
        count += tile.folded[-1]
    below_count = count - above_count
    # A level that no weight is nearest to stays.
    high = np.where(above_count > 0, upper / np.maximum(above_count, 1), first + second)
    low = np.where(below_count > 0, lower / np.maximum(below_count, 1), first - second)
    return ((high + low) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)
