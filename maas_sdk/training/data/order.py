"""The global order of a run, cut into batches: the rows of batch n.

The rule it keeps: the order is a pure function of the settings. It depends on no host, thread or
earlier batch, so every host works out the same order and any batch can be asked for first.

Dimension letters: N examples, R rows drawn in an epoch, B rows of a batch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.sampling import EachOnce, Sampling

__all__ = ["BatchRows", "Order"]

# Orders that are kept: threads that read ahead are in two epochs at a time.
_EPOCHS_KEPT: Final = 3


class BatchRows(NamedTuple):
    """Rows of one batch."""

    # 1 for the first.
    epoch: int
    # int64[B], row numbers of the source.
    rows: Array
    # int64[B], how often each row came before in this epoch: 0, unless it is drawn repeatedly.
    turns: Array
    # float32[B], 1 for a row and 0 for one that fills up the batch; None when none ever does.
    weights: Array | None


class _Epoch(NamedTuple):
    """An epoch's row numbers, and earlier occurrences of each within it; int64[R] both."""

    rows: Array
    turns: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Assignment of rows to batches."""

    # N
    count: int
    # B
    batch_size: int
    seed: int
    sampling: Sampling = field(default_factory=EachOnce)
    # Whether the R % B rows at the end of an epoch sit it out; otherwise they are a batch, filled
    # up with rows of weight 0.
    drop_remainder: bool = True
    # The epochs that were worked out last, since every batch asks.
    _epochs: dict[int, _Epoch] = field(default_factory=dict, init=False, repr=False, compare=False)
    # R
    rows_per_epoch: int = field(init=False)
    # Batches that an epoch is cut into.
    batches_per_epoch: int = field(init=False)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed: expected an integer ≥ 0, got {self.seed}")
        if self.count < 1:
            raise InputError("the data has no rows")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: expected 1 or more, got {self.batch_size}")
        rows = len(self._epoch(1).rows)
        if self.drop_remainder and self.batch_size > rows:
            raise ConfigError(
                f"batch_size: expected 1 to {rows} (the rows of an epoch), got {self.batch_size}: "
                "take smaller batches, or drop_remainder=False, which fills up"
            )
        full, rest = divmod(rows, self.batch_size)
        object.__setattr__(self, "rows_per_epoch", rows)
        object.__setattr__(self, "batches_per_epoch", full + (rest > 0 and not self.drop_remainder))

    def batch(self, number: int) -> BatchRows:
        """Return batch ``number`` of the run, 0 for the first; epochs follow one another."""
        epoch, position = divmod(number, self.batches_per_epoch)
        found = self._epoch(epoch + 1)
        here = slice(position * self.batch_size, (position + 1) * self.batch_size)
        rows, turns = found.rows[here], found.turns[here]
        weights = None
        if not self.drop_remainder:
            weights = (np.arange(self.batch_size) < len(rows)).astype(np.float32)
            rows, turns = np.resize(rows, self.batch_size), np.resize(turns, self.batch_size)
        return BatchRows(epoch + 1, rows, turns, weights)

    def fingerprint(self) -> dict[str, int]:
        """Return the settings that a position depends on; JSON-able.

        The checksum is of the first epoch's row numbers, so it also tells another kind of sampling
        or other weights, and a NumPy whose generators give other numbers.
        """
        return {
            "rows": self.count,
            "batch_size": self.batch_size,
            "drop_remainder": int(self.drop_remainder),
            "seed": self.seed,
            "order_crc32": zlib.crc32(self._epoch(1).rows.astype("<i8").tobytes()),
        }

    def _epoch(self, epoch: int) -> _Epoch:
        """Return the order of an epoch, 1 for the first."""
        found = self._epochs.get(epoch)
        if found is None:
            rows = self.sampling.epoch_rows(self.count, seed=self.seed, epoch=epoch)
            found = _Epoch(rows, _turns(rows, self.count))
            # Threads may do this at once; then both work out the same.
            self._epochs[epoch] = found
            for old in list(self._epochs)[:-_EPOCHS_KEPT]:
                self._epochs.pop(old, None)
        return found


def _turns(rows: Array, count: int) -> Array:
    """Return for each of ``rows``, int64[R], the number of its earlier occurrences, int64[R]."""
    if np.bincount(rows, minlength=count).max() <= 1:
        return np.zeros_like(rows)
    # Sorted by row, equal ones stay in the order in which they came.
    by_row = np.argsort(rows, kind="stable")
    ordered = rows[by_row]
    turns = np.empty_like(rows)
    turns[by_row] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    return turns
