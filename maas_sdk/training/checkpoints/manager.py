"""Checkpoints of a training run: saved during it, kept by policy, restored onto any mesh.

    checkpoints = Checkpoints(CheckpointConfig(folder="run/checkpoints", every_steps=100))
    checkpoints.save(step, state, data_state, {"loss": loss})
    state, data_state, step = checkpoints.restore(abstract_state)

Orbax writes and reads the arrays, asynchronously and sharded; a step is a folder of its own,
``<folder>/<step>/``, which appears by a rename when all of it is on the disk, so that one whose
writer was killed is never taken for a checkpoint. This file adds leaves by name (so that a
mismatch is reported leaf by leaf, before anything is read), checksums, the position in the data,
and a best checkpoint that is never NaN.

The rule it keeps: a restored state equals the saved one bit for bit, or an error names the leaf or
the file.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import jax
import orbax.checkpoint.experimental.v1 as ocp

from maas_sdk.errors import ConfigError, CorruptError, MaasError, NotFoundError, StorageError
from maas_sdk.training.checkpoints.checksums import write_checksums
from maas_sdk.training.checkpoints.device_copy import Snapshot, snapshot_pays
from maas_sdk.training.checkpoints.named_state import former_names, named_arrays, named_specs
from maas_sdk.training.checkpoints.retention import CheckpointConfig, Retention, score
from maas_sdk.training.checkpoints.stored_step import (
    data_state_of,
    described,
    metrics_of,
    read_step,
    storable,
)

__all__ = ["CheckpointConfig", "Checkpoints", "Restored"]


class Restored(NamedTuple):
    """Result of ``Checkpoints.restore``."""

    # A tree like the abstract one that was asked for, of arrays of its own, safe to donate.
    state: Any
    # The position in the data, as it was given to ``save``.
    data_state: Any
    step: int


class Checkpoints:
    """The checkpoints of one run. Not for several threads at once; a context manager.

    With several processes (``jax.distributed``), each makes one over the same shared folder and
    calls every method in the same order.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self.folder = Path(config.folder).absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"{self.folder} is a file, checkpoints need a folder: name another")
        self._retention = Retention(config)
        self._writing = False
        self._snapshot = Snapshot()
        self._manager = self._open()
        # Checksums are made behind the commit, one checkpoint at a time.
        self._behind = ThreadPoolExecutor(max_workers=1, thread_name_prefix="maas-checkpoint")
        self._pending: Future[None] | None = None
        self._last: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def due(self, step: int) -> bool:
        """Return True when ``config.every_steps`` asks for a checkpoint after step ``step``."""
        return self.config.every_steps is not None and step % self.config.every_steps == 0

    def save(
        self,
        step: int,
        state: Any,
        data_state: Any = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Save a checkpoint, or begin to: the state may be donated as soon as this returns.

        One checkpoint is written at a time: where the last one is still being written, this waits.

        Args:
            step: how many steps the state has seen; ascending.
            state: a pytree of ``jax.Array``; typed random keys are welcome.
            data_state: the position in the data, JSON-able; the same in every process.
            metrics: numbers to keep and judge by, such as ``{"loss": 0.3}``.

        Returns:
            False where this object saved or restored that very step already.

        Raises:
            ConfigError: a leaf that is no array; the folder holds that step or a later one of
                another run.
            StorageError: the last checkpoint could not be written.
        """
        arrays = named_arrays(state)
        self.wait()
        if step == self._last:
            return False
        # What is there is looked up once; after that it is what this object saves, ascending.
        latest = self._last if self._writing else self.latest_step()
        if latest is not None and step <= latest:
            raise ConfigError(
                f"{self.folder} holds step {latest}, and step {step} is to be saved: what is there "
                "is of another run, or of one that was taken up at an earlier step. Resume from "
                f"it, choose another folder, or drop it with discard_after({step - 1})",
                step=step,
                latest=latest,
            )
        about = described(arrays, data_state, metrics or {})
        copied = self.config.asynchronous and (
            snapshot_pays(arrays) if self.config.snapshot is None else self.config.snapshot
        )
        arrays = self._snapshot.take(arrays) if copied else arrays
        self._claim()
        self._retention.metrics[step] = about["metrics"]
        begin = functools.partial(
            self._manager.save_async,
            step,
            storable(arrays),
            force=True,
            custom_metadata=about,
        )
        if copied and jax.process_count() == 1:
            # Nothing that this thread does can reach the copies; even the start is left to another.
            self._pending = self._behind.submit(self._write, step, begin)
        else:
            with _translated(self._could_not_write(step)):
                response = begin()
            self._pending = self._behind.submit(self._write, step, lambda: response)
        self._last = step
        if not self.config.asynchronous:
            self.wait()
        return True

    def restore(
        self,
        abstract_state: Any,
        step: int | Literal["best"] | None = None,
        *,
        partial: bool = False,
    ) -> Restored:
        """Read a checkpoint into arrays with the shardings of ``abstract_state``.

        Args:
            abstract_state: a pytree of ``jax.ShapeDtypeStruct`` with the shardings to restore to
                (any mesh; it need not be the one that was saved from), or of arrays, whose shapes,
                dtypes and shardings are taken. A leaf without a sharding goes to the first device.
            step: None: the latest. "best": by ``config.best_metric``.
            partial: leave out what the checkpoint has and ``abstract_state`` does not ask for.

        Raises:
            NotFoundError: no such checkpoint; lists the steps there are.
            ConfigError: the checkpoint does not fit; says which leaf, what was expected, what came.
            CorruptError: a file is damaged; names it, and the steps that may be taken instead.
        """
        expected = named_specs(abstract_state)
        wanted = self._resolve(step)
        try:
            named, data_state = read_step(
                self.folder / str(wanted),
                expected,
                former=former_names(abstract_state),
                partial=partial,
            )
        except CorruptError as error:
            others = [other for other in self.steps() if other != wanted]
            remedy = "the folder holds no other"
            if others:
                remedy = f"restore another step: there are {_listing(others)}"
            if others and max(others) < wanted:
                remedy += (
                    f" (discard_after({max(others)}) lets a run go on from the newest of them)"
                )
            raise CorruptError(
                f"{error.message}; {remedy}",
                step=wanted,
                others=others,
                file=error.evidence.get("file"),
            ) from error
        self._last = wanted
        tree = jax.tree.structure(abstract_state)
        state = jax.tree.unflatten(tree, [named[name] for name in expected])
        return Restored(state, data_state, wanted)

    def steps(self) -> list[int]:
        """Return steps of all whole checkpoints, ascending; waits for one being written."""
        self.wait()
        return sorted(
            int(found.name)
            for found in self.folder.iterdir()
            if found.name.isdigit() and found.is_dir()
        )

    def latest_step(self) -> int | None:
        """Return the step of the newest whole checkpoint; None where there is none."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Return the step of the best checkpoint by metric, the newest of equals; None for none."""
        found = [(score(self.config, self._metrics_of(step)), step) for step in self.steps()]
        return max((pair for pair in found if pair[0] > -math.inf), default=(0.0, None))[1]

    def metrics(self, step: int) -> dict[str, float]:
        """Return the metrics that a checkpoint was saved with. Raises ``NotFoundError``."""
        return dict(self._metrics_of(self._resolve(step)))

    def data_state(self, step: int | Literal["best"] | None = None) -> Any:
        """Return the data state of ``restore`` without reading arrays. Raises as it does."""
        return data_state_of(self.folder / str(self._resolve(step)))

    def discard_after(self, step: int) -> None:
        """Remove every checkpoint of a later step, to continue the run from ``step``."""
        for later in [found for found in self.steps() if found > step]:
            with _translated(f"{self.folder}: step {later} could not be removed"):
                self._manager.delete(later)

    def wait(self) -> None:
        """Wait until every save begun is on the disk.

        Raises:
            StorageError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except BaseException:
                # What is there is looked at anew.
                self._last, self._writing = None, False
                raise

    def close(self) -> None:
        """Finish the saves begun and release the folder."""
        try:
            self.wait()
        finally:
            self._snapshot.drop()
            self._behind.shutdown()
            self._let_go()

    def _open(self) -> Any:
        context = ocp.Context()
        # Weights hardly compress, and zstd took several times as long as writing them.
        context.array.saving.use_compression = False
        with _translated(f"{self.folder} cannot be used for checkpoints"):
            return ocp.training.Checkpointer(
                self.folder,
                context=context,
                preservation_policy=self._retention,
                # ``save`` is only called when a checkpoint is wanted, and forces it.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                # Left-overs of a killed writer are removed by the next writer, never by a reader.
                cleanup_tmp_directories=self._writing,
            )

    def _claim(self) -> None:
        """Become the folder's writer."""
        if not self._writing:
            self._writing = True
            self._let_go()
            for step in self.steps():
                self._metrics_of(step)
            self._manager = self._open()

    def _let_go(self) -> None:
        with contextlib.suppress(Exception):  # of a write that failed, which ``wait`` has told
            self._manager.close()

    def _metrics_of(self, step: int) -> Mapping[str, float]:
        known = self._retention.metrics
        if step not in known:
            known[step] = metrics_of(self.folder / str(step))
        return known[step]

    def _write(self, step: int, begin: Callable[[], Any]) -> None:
        with _translated(self._could_not_write(step)):
            begin().result()
            if jax.process_index() == 0:
                write_checksums(self.folder / str(step))

    def _could_not_write(self, step: int) -> str:
        return f"{self.folder}: step {step} could not be written"

    def _resolve(self, step: int | Literal["best"] | None) -> int:
        steps = self.steps()
        if not steps:
            raise NotFoundError(f"{self.folder} holds no checkpoint", folder=str(self.folder))
        if step is None:
            return steps[-1]
        if step == "best":
            best = self.best_step()
            if best is None:
                raise NotFoundError(
                    f"{self.folder}: no checkpoint has the metric {self.config.best_metric!r}; "
                    f"it holds the steps {_listing(steps)}"
                )
            return best
        if step not in steps:
            raise NotFoundError(
                f"{self.folder} has no checkpoint of step {step}; it holds {_listing(steps)}",
                step=step,
            )
        return step


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate errors of orbax and the disk into a ``StorageError``."""
    try:
        yield
    except MaasError:
        raise
    except Exception as error:
        raise StorageError(
            f"{what}: {type(error).__name__}: {error}; check that the disk has room and "
            "that the folder may be written"
        ) from error


def _listing(steps: list[int]) -> str:
    return ", ".join(map(str, steps))
