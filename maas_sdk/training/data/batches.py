"""Batches of a source, in an order whose position can be saved and resumed.

The rule it keeps: batch n of a run is a pure function of the source and the settings. The global
order does not know how many hosts there are: host i of H reads rows i·B/H to (i+1)·B/H of every
global batch, so the hosts' parts side by side are exactly what one host alone would read, and a
run taken up on another number of hosts sees the same global batches. The position is one number.

grain carries the pipeline: the elements of its dataset are whole batches, numbered from 0, so that
in memory a batch is one fancy index for each array, and lazily read data are read by its threads.

Dimension letters: B rows of a global batch, H hosts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import grain

from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Batch, Examples, Source, check_finite
from maas_sdk.training.data.order import Order
from maas_sdk.training.data.row_keys import row_keys, stream
from maas_sdk.training.data.rows import Arrays, as_source, in_memory
from maas_sdk.training.data.sampling import EachOnce, Sampling

__all__ = ["Batches", "Normalizer", "Transform", "batches"]

# Batches of lazily read data that are read at a time, by as many threads.
_READ_AHEAD = 4


class Transform(Protocol):
    """A change to a batch, such as an augmentation.

    One that looks at several rows at a time has an attribute ``rows_together``: it treats each run
    of so many rows by itself, so that a batch may be cut between them.
    """

    def __call__(self, batch: Batch, keys: Array) -> Batch:
        """Return a changed batch of B rows; ``keys`` is uint64[B], see ``row_keys``."""
        ...


class Normalizer(Protocol):
    """Interface of the ``normalize`` argument; ``Normalization`` is one."""

    def apply(self, inputs: Array) -> Array:
        """Normalize inputs [B, …] → float32[B, …]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reader:
    """One host's part of any batch, by the batch's number."""

    source: Source
    order: Order
    host: tuple[int, int]
    augment: tuple[Transform, ...]
    normalize: Normalizer | None

    def __call__(self, number: int) -> Batch:
        index, hosts = self.host
        size = self.order.batch_size // hosts
        here = slice(index * size, (index + 1) * size)
        epoch, rows, turns, weights = self.order.batch(number)
        batch = dict(self.source.read(rows[here]))
        if weights is not None:
            batch["weights"] = weights[here]
        if self.augment:
            keys = row_keys(rows[here], seed=self.order.seed, epoch=epoch, turn=turns[here])
            for place, change in enumerate(self.augment):
                batch = change(batch, stream(keys, place))
        if self.normalize is not None:
            batch["inputs"] = self.normalize.apply(batch["inputs"])
        return batch


class Batches(Iterator[Batch]):
    """An iterator over batches with a position, grain's protocol; made by ``batches``.

    Close it, or use it in a ``with`` block, when the data is read by threads.
    """

    def __init__(self, reader: _Reader, *, epochs: int | None, threads: int) -> None:
        # The order that the batches come in.
        self.order = reader.order
        per_epoch = self.order.batches_per_epoch
        self._length = sys.maxsize if epochs is None else epochs * per_epoch
        dataset = grain.MapDataset.range(self._length).map(reader)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        self._iterator: Any = iter(dataset.to_iter_dataset(options))
        self._fingerprint = self.order.fingerprint()

    def __next__(self) -> Batch:
        try:
            batch: Batch = next(self._iterator)
        except StopIteration:
            raise
        except Exception:
            # Threads have read on, and would give the batch behind as the one that failed.
            self._iterator.set_state({"next_index": self.number})
            raise
        return batch

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch; batch n is in epoch n // this + 1."""
        return self.order.batches_per_epoch

    @property
    def number(self) -> int:
        """Number of the next batch, from the start of the run."""
        return int(self._iterator.get_state()["next_index"])

    def get_state(self) -> dict[str, int]:
        """Return the position, JSON-able, the same on every host."""
        return {"next_index": self.number, **self._fingerprint}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Set the position from ``get_state``, on any host of any number of hosts.

        Raises:
            ConfigError: the position is in another order, or behind the last epoch.
        """
        found = {name: state.get(name) for name in self._fingerprint}
        if found != self._fingerprint:
            differ = [name for name, value in self._fingerprint.items() if found[name] != value]
            raise ConfigError(
                "the saved position is in another order of the data: "
                + ", ".join(f"{n} was {found[n]}, is {self._fingerprint[n]}" for n in differ)
                + "; go on with the data, batch size, seed and sampling that it was saved with",
                differ=differ,
            )
        number = state.get("next_index")
        if type(number) is not int or not 0 <= number <= self._length:
            raise ConfigError(
                f"the saved position, batch {number}, is not among the {self._length} batches of "
                "this run: give it as many epochs as the run that saved it"
            )
        self._iterator.set_state({"next_index": number})

    def close(self) -> None:
        """End the reading threads."""
        self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def batches(
    source: object,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    shuffle: bool = True,
    sampling: Sampling | None = None,
    augment: Sequence[Transform] = (),
    normalize: Normalizer | None = None,
    host: tuple[int, int] = (0, 1),
    drop_remainder: bool = True,
    threads: int | None = None,
) -> Batches:
    """Return an iterator over batches of rows, epoch after epoch.

    Args:
        source: ``Examples``, any ``Source``, a dict of arrays, or a ``grain.MapDataset`` of dicts.
        batch_size: B, the rows of a global batch, over all hosts together.
        seed: decides the order and the augmentation.
        epochs: passes over the data; None never ends.
        shuffle: False keeps the order of the data in every epoch.
        sampling: which rows an epoch draws; None is each row once.
        augment: changes to each batch, in their order, each with random numbers of its own.
        normalize: applied to ``inputs`` after the augmentation.
        host: (index, count): this host's place among those that read, each B / count rows.
        drop_remainder: False makes a batch of the rows left over at the end of an epoch, filled up
            to B rows; then every batch has ``weights`` float32[B], 0 for rows that fill up.
        threads: how many batches are read at a time; None is 4, or 0 for data in memory.

    Returns:
        an iterator of dicts of arrays with B / count rows each, with a position.

    Raises:
        ConfigError: settings that contradict each other or the size of the data.
        InputError: no rows; NaN or infinity in inputs that are in memory.
    """
    rows = as_source(source)
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs: expected 1 or more, or None for no end, got {epochs}")
    if sampling is not None and not shuffle:
        raise ConfigError(
            "shuffle=False keeps the order of the data, sampling= makes one: drop one"
        )
    _check_host(host, batch_size, augment)
    order = Order(
        count=len(rows),
        batch_size=batch_size,
        seed=seed,
        sampling=EachOnce(shuffle=shuffle) if sampling is None else sampling,
        drop_remainder=drop_remainder,
    )
    if isinstance(rows, Examples | Arrays):
        check_finite(rows)
    if threads is None:
        threads = 0 if in_memory(rows) else _READ_AHEAD
    reader = _Reader(
        source=rows, order=order, host=host, augment=tuple(augment), normalize=normalize
    )
    return Batches(reader, epochs=epochs, threads=threads)


def _check_host(host: tuple[int, int], batch_size: int, augment: Sequence[Transform]) -> None:
    """Check that hosts' parts are equal, and hold together the rows augmented together."""
    index, count = host
    if not 0 <= index < count:
        raise ConfigError(
            f"host: expected (index, count) with 0 ≤ index < count, got {(index, count)}"
        )
    if batch_size % count:
        raise ConfigError(
            f"batch_size: {batch_size} rows do not divide among {count} hosts; take a multiple"
        )
    for change in augment:
        together = getattr(change, "rows_together", 1)
        if count > 1 and (batch_size // count) % together:
            raise ConfigError(
                f"batch_size: {type(change).__name__} needs a multiple of {together} rows on each "
                f"of {count} hosts, got {batch_size // count}; take a multiple of "
                f"{together * count} as the batch size"
            )
