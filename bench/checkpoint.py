"""Stall of a training loop for a checkpoint of 1 GB, and time until it is on the disk.

The model is a stack of 20 dense layers of 2048 × 2048 under Adam: 84 million parameters, whose
state in float32 (weights and two moments) is 1.0 GB. Its step is a jitted function that donates
its state, on ``--rows`` rows (of a language model of the same size those would be tokens).

    python bench/checkpoint.py [--quick] [--rows N] [--runs N] [--save]

- ``stall_ms``: how long ``Checkpoints.save`` keeps the loop, asynchronous, as configured by
  default; ``stall_percent`` of an undisturbed step, whose time is ``step_s``.
- ``slowdown_percent``: all time that the loop loses from the call until everything is on the disk,
  again in percent of one step: the stall, and the steps that are slower because writing takes
  processor and memory from them. On a CPU both are the same cores.
- ``stall_without_snapshot_percent``: the call and what the step after it takes longer when the
  state is not copied first, as orbax alone does it. On a CPU the call is short, but XLA then
  cannot reuse the state's memory, and that step pays for new pages.
- ``write_gb_s``: a checkpoint from ``save`` to the disk, with its checksums, nothing beside it;
  ``write_floor_gb_s``: the same bytes written into one file with ``fsync``, in the same rounds.
- ``restore_gb_s``: ``restore`` with its checksums, from files that the system still holds in
  memory; ``restore_floor_gb_s``: such a file read into fresh memory.

Needs maas-sdk[train].
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

from maas_sdk.training.checkpoints.manager import CheckpointConfig, Checkpoints

WIDTH, LAYERS = 2048, 20
QUICK_WIDTH, QUICK_LAYERS = 512, 4
# Plain steps of which one round takes the mean.
STEPS = 3


def make_step(width: int, layers: int, rows: int) -> tuple[Any, Any, Any]:
    """Return the step, its state, its batch."""
    optimizer = optax.adam(1e-4)

    def begin(key: jax.Array) -> Any:
        keys = jax.random.split(key, layers)
        params = [jax.random.normal(k, (width, width)) * width**-0.5 for k in keys]
        return params, optimizer.init(params)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for weight in params:
            x = 0.5 * x + jax.nn.relu(x @ weight)
        return jnp.mean(x**2)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, x: jax.Array) -> Any:
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, x), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step, jax.jit(begin)(jax.random.key(0)), jnp.ones((rows, width))


class Loop:
    """A training loop that is checkpointed in the ways that are compared."""

    def __init__(self, folder: Path, *, width: int, layers: int, rows: int) -> None:
        self._folder = folder
        self._step, self._state, self._batch = make_step(width, layers, rows)
        self.nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self._state))
        self._saved = 0
        # Their snapshots are kept from one checkpoint to the next, as in a run.
        self._checkpoints = {snapshot: self._open(snapshot) for snapshot in (True, False)}
        self._plain_s: list[float] = []
        self.lost_s: list[float] = []
        self._block = np.random.default_rng(0).bytes(2**24)

    def _open(self, snapshot: bool) -> Checkpoints:
        return Checkpoints(
            CheckpointConfig(
                folder=self._folder / f"snapshot-{snapshot}", keep_latest=1, snapshot=snapshot
            )
        )

    def close(self) -> None:
        """Release the folders."""
        for checkpoints in self._checkpoints.values():
            checkpoints.close()

    def step(self) -> float:
        """Seconds of one step, to its end."""
        began = time.perf_counter()
        self._state = jax.block_until_ready(self._step(self._state, self._batch))
        return time.perf_counter() - began

    def plain(self) -> float:
        """Seconds of an undisturbed step."""
        self._plain_s.append(statistics.fmean(self.step() for _ in range(STEPS)))
        return self._plain_s[-1]

    def stall(self) -> float:
        """Seconds that the loop waits in ``save``; ``lost_s`` gets what it loses until the end."""
        checkpoints = self._checkpoints[True]
        self._saved += 1
        began = time.perf_counter()
        checkpoints.save(self._saved, self._state)
        stall_s = time.perf_counter() - began
        steps = 0
        while steps < STEPS or not _written(checkpoints, self._saved):
            self.step()
            steps += 1
        self.lost_s.append(time.perf_counter() - began - steps * self._plain_s[-1])
        checkpoints.wait()
        return stall_s

    def stall_without_snapshot(self) -> float:
        """Seconds of ``save`` and of what the next step takes longer than an undisturbed one."""
        checkpoints = self._checkpoints[False]
        self._saved += 1
        began = time.perf_counter()
        checkpoints.save(self._saved, self._state)
        self.step()
        lost_s = time.perf_counter() - began - self._plain_s[-1]
        checkpoints.wait()
        return lost_s

    def write(self) -> float:
        """Seconds from ``save`` until everything is on the disk, nothing beside it."""
        checkpoints = self._checkpoints[True]
        self._saved += 1

        def save() -> None:
            checkpoints.save(self._saved, self._state)
            checkpoints.wait()

        return harness.timed(save)

    def write_floor(self) -> float:
        """Seconds of a plain write of as many bytes, with fsync."""

        def write() -> None:
            left = self.nbytes
            with open(self._folder / "floor", "wb", buffering=0) as file:
                while left > 0:
                    left -= file.write(self._block[:left])
                os.fsync(file.fileno())

        return harness.timed(write)

    def restore(self) -> float:
        """Seconds of reading the newest checkpoint into arrays."""
        return harness.timed(
            lambda: jax.block_until_ready(self._checkpoints[True].restore(self._state).state)
        )

    def restore_floor(self) -> float:
        """Seconds of reading as many bytes from a file into fresh memory."""
        return harness.timed((self._folder / "floor").read_bytes)


def _written(checkpoints: Checkpoints, step: int) -> bool:
    """The list of checksums is the last file that is written."""
    return (checkpoints.folder / str(step) / "checksums.json").exists()


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a state of 13 MB, to try it out")
    parser.add_argument("--rows", type=int, help="rows of a step; 512, on an accelerator 16384")


def main() -> None:
    given = harness.arguments(__doc__, extend=options)
    on_cpu = jax.default_backend() == "cpu"
    rows = given.rows or (64 if given.quick else 512 if on_cpu else 16384)
    width, layers = (QUICK_WIDTH, QUICK_LAYERS) if given.quick else (WIDTH, LAYERS)
    folder = Path(tempfile.mkdtemp(prefix="maas-checkpoint-"))
    try:
        loop = Loop(folder, width=width, layers=layers, rows=rows)
        found = harness.interleave(
            {
                "a step": loop.plain,
                "stall, copied first": loop.stall,
                "stall, not copied": loop.stall_without_snapshot,
                "written": loop.write,
                "written, plain file": loop.write_floor,
                "restored": loop.restore,
                "restored, plain file": loop.restore_floor,
            },
            runs=given.runs,
            warmup=2,
        )
        loop.close()
    finally:
        shutil.rmtree(folder)
    lost = harness.Sample(name="lost until written", values=tuple(loop.lost_s[-given.runs :]))
    step, gb = found["a step"], loop.nbytes / 1e9

    def percent(sample: harness.Sample) -> float:
        return 100 * harness.median_ratio(sample, step)

    def speed(name: str) -> float:
        return gb / found[name].median

    about = jax.devices()[0]
    harness.finish(
        "checkpoint",
        {
            "state_gb": gb,
            "step_s": step.median,
            "stall_ms": found["stall, copied first"].median * 1e3,
            "stall_percent": percent(found["stall, copied first"]),
            "slowdown_percent": percent(lost),
            "stall_without_snapshot_percent": percent(found["stall, not copied"]),
            "write_gb_s": speed("written"),
            "write_floor_gb_s": speed("written, plain file"),
            "restore_gb_s": speed("restored"),
            "restore_floor_gb_s": speed("restored, plain file"),
        },
        [sample.row(unit="s", scale=1.0) for sample in (*found.values(), lost)],
        save=given.save,
        targets={"stall_percent": "≤ 5"},
        notes=f"{__doc__.partition('[--save]')[2].strip()}\n\n"
        f"{rows} rows a step, on {about.device_kind} ({about.platform}).",
        packages=("jax", "jaxlib", "orbax-checkpoint", "numpy"),
    )


if __name__ == "__main__":
    main()
