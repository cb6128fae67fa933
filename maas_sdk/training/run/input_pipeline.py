"""Input pipeline of a run: the user's data as batches of one size, with a position to resume from.

Every batch that reaches a step has the same names, shapes and dtypes, so the
step is compiled once. Training leaves out the rows that do not fill a batch (another epoch leaves
out others); an evaluation sees every row once, the last batch filled up with rows of weight 0.

Dimension letters: N examples, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data import Batches, Split, batches
from maas_sdk.training.data.prefetch import Positioned
from maas_sdk.training.data.rows import as_source

__all__ = ["CountedBatches", "HostBatch", "InputPipeline", "eval_batches", "train_pipeline"]

# As ``step.Batch``, in host memory.
HostBatch = dict[str, Array]


class CountedBatches:
    """Any iterable of batches; its position is the number taken.

    Going to a position draws and drops what came before it: right for what is the same every time,
    and as slow as reading it.
    """

    def __init__(self, source: Iterable[Mapping[str, Any]]) -> None:
        self._source = source
        self._iterator = iter(source)
        self._taken = 0

    def __next__(self) -> HostBatch:
        batch = next(self._iterator)
        self._taken += 1
        return {name: np.asarray(array) for name, array in batch.items()}

    def get_state(self) -> dict[str, int]:
        """Return the position."""
        return {"taken": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Set the position; backwards only where the source can be iterated again.

        Raises:
            ConfigError: the source ends before it, or it lies behind and cannot be read again.
        """
        if state["taken"] < self._taken:
            again = iter(self._source)
            # An iterator returns itself: it cannot begin again, and must not be drained for that.
            if again is self._iterator:
                raise ConfigError(
                    f"the data cannot go back from batch {self._taken} to {state['taken']}: give "
                    "an iterable that can be gone through again, or Examples"
                )
            self._iterator, self._taken = again, 0
        while self._taken < state["taken"]:
            try:
                next(self)
            except StopIteration:
                raise ConfigError(
                    f"the data ends after {self._taken} batches; the checkpoint is at "
                    f"{state['taken']}: is it the same data?"
                ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class InputPipeline:
    """Batches to train on."""

    batches: Positioned
    # None where the data has no end or does not tell.
    steps_per_epoch: int | None
    # Every label there is, to be looked at before the first step; None for data that is not in
    # memory, whose labels are looked at batch by batch.
    labels: Array | None


def train_pipeline(
    data: object, *, batch_size: int, seed: int, host: tuple[int, int] = (0, 1)
) -> InputPipeline:
    """Return batches of ``batch_size`` rows over all hosts, epoch after epoch.

    Args:
        data: ``Examples``, a ``Split`` (its training part), any ``Source`` or ``MapDataset`` of
            rows: shuffled, by ``seed``. ``Batches`` made by ``training.data.batches``, a
            ``grain.IterDataset`` of rows, or any iterable of batches: in their own order.
        batch_size: B.
        seed: of the order.
        host: (index, count) of the part of each batch that this process reads.

    Raises:
        ConfigError: fewer rows than a batch has; rows without numbers for several processes.
        InputError: it is none of these.
    """
    if isinstance(data, Split):
        data = data.train
    if isinstance(data, Batches):
        if data.order.batch_size != batch_size:
            raise ConfigError(
                f"the data comes in batches of {data.order.batch_size} rows, batch_size is "
                f"{batch_size}: say the same in both places"
            )
        return InputPipeline(batches=data, steps_per_epoch=data.batches_per_epoch, labels=None)
    if isinstance(data, grain.IterDataset):
        # A smaller last batch would be another shape, which the compiled step refuses.
        rows: Any = _own_rows(data, host).batch(batch_size, drop_remainder=True)
        return InputPipeline(batches=iter(rows), steps_per_epoch=None, labels=None)
    if not isinstance(data, Mapping | grain.MapDataset) and not hasattr(data, "read"):
        # With positions of its own, such as grain's iterators, it goes to them without counting.
        if hasattr(data, "__next__") and hasattr(data, "get_state"):
            own: Any = data
            return InputPipeline(batches=own, steps_per_epoch=None, labels=None)
        if isinstance(data, Iterable):
            length = len(data) if isinstance(data, Sized) else None
            return InputPipeline(batches=CountedBatches(data), steps_per_epoch=length, labels=None)
    source = as_source(data)
    if batch_size > len(source):
        raise ConfigError(
            f"batch_size {batch_size} is more than the {len(source)} training examples",
            batch_size=batch_size,
            rows=len(source),
        )
    found = batches(source, batch_size=batch_size, seed=seed, host=host)
    labels = getattr(source, "labels", None)
    return InputPipeline(batches=found, steps_per_epoch=found.batches_per_epoch, labels=labels)


def eval_batches(
    data: object, *, batch_size: int, host: tuple[int, int] = (0, 1)
) -> Iterator[HostBatch]:
    """Yield every row once, in order, in batches of one size.

    Args:
        data: as for ``train_pipeline``; of a ``Split`` its held-out part. An iterable of batches is
            gone through again at each evaluation; a last batch that is smaller is filled up.
        batch_size: B.
        host: (index, count) of this process.

    Raises:
        ConfigError: rows without numbers for several processes.
        InputError: it is none of these, or can be gone through only once.
    """
    index, hosts = host
    size = batch_size // hosts
    if isinstance(data, Split):
        data = data.test
    if isinstance(data, Iterator):
        # ``Batches`` are one too, and without epochs= they never end.
        raise InputError(
            "evaluation: expected data that every evaluation can go through from its beginning, "
            f"got an iterator ({type(data).__name__}): give Examples, or a list of batches"
        )
    if isinstance(data, grain.IterDataset):
        data = _own_rows(data, host).batch(size)
    by_number = isinstance(data, Mapping | grain.MapDataset) or hasattr(data, "read")
    if isinstance(data, Iterable) and not by_number:
        for batch in data:
            yield _filled({name: np.asarray(array) for name, array in batch.items()}, size)
        return
    source = as_source(data)
    for start in range(0, len(source), batch_size):
        rows = np.arange(start + index * size, start + (index + 1) * size)
        real = rows < len(source)
        # Filled up with a row that is there; its weight 0 keeps it out of every mean.
        batch = dict(source.read(np.where(real, rows, start)))
        yield {**batch, "weights": real.astype(np.float32)}


def _own_rows(data: grain.IterDataset[Any], host: tuple[int, int]) -> grain.IterDataset[Any]:
    """Return the dataset itself, for a single process: several would each read all rows."""
    if host[1] > 1:
        raise ConfigError(
            f"a grain.IterDataset has no row numbers, so each of {host[1]} processes would read "
            "the same rows: give the grain.MapDataset that it was made from"
        )
    return data


def _filled(batch: HostBatch, size: int) -> HostBatch:
    """Pad a batch to ``size`` rows with weights; padding repeats the first rows at weight 0."""
    rows = len(next(iter(batch.values())))
    if not 1 <= rows <= size:
        raise InputError(f"evaluation: expected batches of 1 to {size} rows, got one of {rows}")
    weights = batch.get("weights", np.ones(rows, np.float32))
    # Full batches get weights as well: all batches of one program have the same names.
    if rows == size:
        return {**batch, "weights": weights}
    found = {name: np.resize(array, (size, *array.shape[1:])) for name, array in batch.items()}
    padded = np.zeros((size, *weights.shape[1:]), np.float32)
    padded[:rows] = weights
    return {**found, "weights": padded}
