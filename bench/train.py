"""Cost of the Trainer: steps of a small convnet, against a loop by hand and against torch.

The demo's network (two convolutions, two dense layers, 151,306 weights) on the digits, AdamW with
clipping, one CPU device, batches drawn anew in each epoch. Four contestants in turn:

- the Trainer in float32, with all that it does by default: the guard against NaN, metrics of every
  step, records every ten steps;
- the same step by hand: ``jax.jit`` over plain dicts, buffers donated, nothing measured, the loss
  looked at once, in the end;
- the Trainer with bfloat16 compute;
- torch, eager, its default threads, in a process of its own.

    python bench/train.py [--runs N] [--steps N] [--quick] [--save]

Compilation is not in the times: the Trainer's begin with its first step and end when the last
metrics are there. ``trainer_overhead`` is the median over the rounds of Trainer / by hand - 1.
``python_us_per_step`` is the Trainer's own work on the host: the processor time of a step of a
network of 20 weights, less that of the same by hand. Memory is the peak resident size of a process
that does one of these and nothing else. torch takes turns with the Trainer in rounds of their own.

torch is taken from the environment whose Python ``MAAS_REFERENCE_PYTHON`` names, or
``.cache/reference`` (``make test-reference`` makes it); where there is none, its rows are left out
and that is said. Needs maas-sdk[demo].
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

HERE = Path(__file__).parent
BATCH = 128
RATE = 3e-3
REFERENCE = "MAAS_REFERENCE_PYTHON"
CONTESTANTS = ("trainer", "by hand", "trainer bf16")


def convnet() -> Any:
    """The demo's network, with the weights of one seed."""
    from flax import nnx

    from maas_sdk.models.convnet import ConvNet

    return ConvNet(rngs=nnx.Rngs(0))


def tiny() -> Any:
    """A network that computes next to nothing."""
    from flax import nnx

    class Tiny(nnx.Module):
        def __init__(self) -> None:
            self.head = nnx.Linear(1, 10, rngs=nnx.Rngs(0))

        def __call__(self, images: Any) -> Any:
            return self.head(images[:, 0, 0, :])

    return Tiny()


def by_trainer(
    model: Any,
    data: Any,
    steps: int,
    precision: str = "f32",
    clock: Callable[[], float] = time.perf_counter,
) -> Callable[[], float]:
    """A function that trains and gives the seconds from the first step to the last metrics."""
    from maas_sdk.training.hooks import Finished, Started
    from maas_sdk.training.optimizer import OptimizerConfig
    from maas_sdk.training.run.trainer import TrainConfig, Trainer

    config = TrainConfig(
        steps=steps,
        batch_size=BATCH,
        precision=precision,
        mesh={"data": 1},
        optimizer=OptimizerConfig(learning_rate=RATE, schedule="constant"),
        progress=False,
    )

    def run() -> float:
        at: list[float] = []

        def watch(record: Any) -> None:
            if isinstance(record, Started | Finished):
                at.append(clock())

        result = Trainer(config).fit(model, data, hooks=[watch])
        assert np.isfinite(result.history[-1].train["loss"])
        return at[1] - at[0]

    return run


def by_hand(
    model: Any, data: Any, steps: int, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Return a loop written by hand for speed alone, which gives its seconds."""
    import jax
    import optax
    from flax import nnx

    graphdef, state = nnx.split(model)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE, weight_decay=1e-2))

    def step(weights: Any, opt_state: Any, x: Any, y: Any) -> Any:
        def loss_fn(weights: Any) -> Any:
            logits = nnx.merge(graphdef, weights)(x)
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, gradients = jax.value_and_grad(loss_fn)(weights)
        updates, opt_state = optimizer.update(gradients, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    inputs, labels = data.inputs, data.labels

    def run() -> float:
        weights = jax.tree.map(jax.numpy.copy, nnx.to_pure_dict(state))
        opt_state = optimizer.init(weights)
        weights, opt_state, loss = compiled(weights, opt_state, inputs[:BATCH], labels[:BATCH])
        loss.block_until_ready()
        random = np.random.default_rng(0)
        began, taken = clock(), 0
        while taken < steps:
            order = random.permutation(len(labels))
            for start in range(0, len(labels) - BATCH + 1, BATCH):
                rows = order[start : start + BATCH]
                weights, opt_state, loss = compiled(weights, opt_state, inputs[rows], labels[rows])
                taken += 1
                if taken == steps:
                    break
        assert np.isfinite(float(loss))
        return clock() - began

    return run


class Torch:
    """The peer's process."""

    def __init__(self, python: str, data: Any, folder: Path) -> None:
        file = folder / "digits.npz"
        np.savez(file, inputs=data.inputs, labels=data.labels)
        self._process = subprocess.Popen(
            [python, HERE / "torch_twin.py", file, str(BATCH), str(RATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._line()
        self.peak_bytes = 0.0

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        took_s, loss, self.peak_bytes = map(float, self._line().split())
        assert np.isfinite(loss)
        return took_s

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the torch process ended; run it by hand: bench/torch_twin.py")
        return line.strip()


def reference_python() -> str | None:
    """The Python that has torch; None where there is none."""
    default = HERE.parent / ".cache" / "reference" / "bin" / "python"
    found = os.environ.get(REFERENCE) or str(default)
    return found if os.access(found, os.X_OK) else None


def contestant(name: str, steps: int) -> Callable[[], float]:
    """One of those of this process."""
    from maas_sdk.demo.digits import load_split

    data = load_split().train
    if name == "by hand":
        return by_hand(convnet(), data, steps)
    return by_trainer(convnet(), data, steps, "bf16" if "bf16" in name else "f32")


def host_work_us(steps: int = 2000) -> float:
    """Processor time of a Trainer's step beyond that of the loop by hand, µs."""
    from maas_sdk.demo.digits import load_split

    data = load_split().train
    ours = by_trainer(tiny(), data, steps, clock=time.process_time)
    theirs = by_hand(tiny(), data, steps, clock=time.process_time)
    pairs = [(ours(), theirs()) for _ in range(5)]
    return 1e6 * (min(a for a, _ in pairs) - min(b for _, b in pairs)) / steps


def peak_mb(name: str, steps: int) -> float:
    """MB of a process of its own that trains once."""
    done = subprocess.run(
        [sys.executable, __file__, "--once", name, str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1]) / 1e6


def once(name: str, steps: int) -> None:
    """Train once in a separate process, and print its peak resident bytes."""
    contestant(name, steps)()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    options = harness.arguments(
        __doc__,
        extend=lambda parser: (
            parser.add_argument("--steps", type=int, default=300, help="of a round"),
            parser.add_argument("--quick", action="store_true", help="only whether it works"),
        ),
    )
    steps = 20 if options.quick else options.steps
    from maas_sdk.demo.digits import load_split

    contestants = {name: contestant(name, steps) for name in CONTESTANTS}
    python, torch = reference_python(), None
    with tempfile.TemporaryDirectory() as folder:

        def measure(contestants: dict[str, Callable[[], float]]) -> dict[str, harness.Sample]:
            if not options.quick:
                return harness.interleave(contestants, runs=options.runs)
            return {
                name: harness.Sample(name=name, values=(run(),))
                for name, run in contestants.items()
            }

        samples = measure(contestants)
        beside: dict[str, harness.Sample] = {}
        if python is None:
            print(f"no torch: no {REFERENCE}, no .cache/reference; left out", file=sys.stderr)
        else:
            torch = Torch(python, load_split().train, Path(folder))
            # In rounds of their own: whoever came next after torch was slower by 4 % than in
            # rounds without it, and that was always the Trainer.
            beside = measure({"torch": lambda: torch.run(steps), "trainer": contestants["trainer"]})
            samples["torch"] = beside["torch"]
        memory = {name: peak_mb(name, steps) for name in CONTESTANTS}
        if torch is not None:
            memory["torch"] = torch.peak_bytes / 1e6
            torch.close()
    ours, hand, half = (samples[name] for name in CONTESTANTS)
    figures = {
        "trainer_steps_per_s": steps / ours.median,
        "trainer_overhead": harness.median_ratio(ours, hand) - 1,
        "python_us_per_step": host_work_us(200 if options.quick else 2000),
        "bf16_over_f32_time": harness.median_ratio(half, ours),
        "trainer_peak_mb": memory["trainer"],
    }
    if beside:
        figures["torch_over_trainer_time"] = harness.median_ratio(
            beside["torch"], beside["trainer"]
        )
    rows = [
        {
            "what": name,
            "steps/s": round(steps / sample.median, 1),
            **sample.row(scale=1e3 / steps),
            "peak MB": round(memory[name]),
        }
        for name, sample in samples.items()
    ]
    harness.finish(
        "train",
        figures,
        rows,
        save=options.save and not options.quick,
        targets={"trainer_overhead": "≤ 0.03"},
        notes=f"{__doc__.partition('[--save]')[2].strip()}\n\n"
        f"Batches of {BATCH} rows, {steps} steps a round; times are of one step"
        + (f"; torch {torch.version}." if torch is not None else "; torch was not there."),
        packages=("jax", "jaxlib", "flax", "optax", "numpy"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        once(sys.argv[2], int(sys.argv[3]))
    else:
        main()
