"""Replay memory for online learning: a uniform sample of every row seen so far.

Reservoir sampling, Algorithm R of Vitter 1985 ("Random sampling with a reservoir", ACM TOMS 11):
row i, counted from 0, takes a place with probability min(1, capacity / (i + 1)), and then a random
one, so that at any time every row seen so far is in it with the same probability.

The rule it keeps: the content is a function of the seed and of the rows in their order, however
they were cut into batches; a draw is a function of the content and of a key.

Dimension letters: B rows of a batch, C the capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """At most C rows, each of several named arrays, stored as copies.

    Attributes:
        capacity: C.
        seen: rows that were ever added.
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        if capacity < 1:
            raise ConfigError(f"replay capacity: expected 1 row or more, got {capacity}")
        self.capacity = capacity
        self.seen = 0
        self._seed = seed
        self._rows: dict[str, Array] = {}

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, batch: Mapping[str, Array]) -> None:
        """Offer rows, arrays [B, …] by name; each is kept with reservoir sampling's probability.

        Raises:
            InputError: other names, shapes or dtypes than before, or arrays of unequal length.
        """
        arrays = {name: np.asarray(array) for name, array in batch.items()}
        rows = self._checked(arrays)
        numbers = np.arange(self.seen, self.seen + rows, dtype=np.uint64)
        # One draw of the generator per row ever seen: the row's number is its position in it.
        draws = np.random.PCG64(self._seed).advance(self.seen).random_raw(rows)
        full = numbers >= self.capacity
        places = np.where(full, draws % (numbers + np.uint64(1)), numbers)
        kept = places < self.capacity
        for name, array in arrays.items():
            if name not in self._rows:
                self._rows[name] = np.zeros((self.capacity, *array.shape[1:]), array.dtype)
            # Where two rows take one place, the later one has it, as one by one.
            self._rows[name][places[kept].astype(np.int64)] = array[kept]
        self.seen += rows

    def draw(self, rows: int, *, key: tuple[int, ...]) -> dict[str, Array]:
        """Draw stored rows, arrays [B, …] by name; rows repeat only if there are fewer than asked.

        The same sample for the same key, seed and contents: drawing changes nothing.

        Raises:
            InputError: nothing was added yet.
        """
        if not self.seen:
            raise InputError("the replay buffer is empty: add rows before drawing any")
        generator = np.random.default_rng((self._seed, *key))
        chosen = generator.choice(len(self), rows, replace=rows > len(self))
        return {name: array[chosen] for name, array in self._rows.items()}

    def get_state(self) -> dict[str, Any]:
        """Return the complete state, as numbers and copied arrays."""
        return {
            "seen": self.seen,
            "rows": {name: array[: len(self)].copy() for name, array in self._rows.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of ``get_state``, of a buffer with the same seed and capacity."""
        self.seen = int(state["seen"])
        self._rows = {}
        for name, array in state["rows"].items():
            self._rows[name] = np.zeros((self.capacity, *array.shape[1:]), array.dtype)
            self._rows[name][: len(array)] = array

    def _checked(self, arrays: Mapping[str, Array]) -> int:
        lengths = {name: len(array) for name, array in arrays.items()}
        if not lengths or len(set(lengths.values())) > 1:
            raise InputError(f"replay: expected arrays with the same rows, got {lengths}")
        if self._rows:
            expected = {name: (a.dtype, a.shape[1:]) for name, a in self._rows.items()}
            found = {name: (a.dtype, a.shape[1:]) for name, a in arrays.items()}
            if expected != found:
                raise InputError(
                    f"replay: expected rows like the first ones, {_words(expected)}, got "
                    f"{_words(found)}"
                )
        return next(iter(lengths.values()))


def _words(specs: Mapping[str, tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in specs.items())
