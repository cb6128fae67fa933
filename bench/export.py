"""Time from a JAX model to a sealed bundle: the demo's digits network, as the demo does.

Batch sizes 1, 2, 4, … 64, this machine's targets (AVX2 and, where there is AVX-512, that too),
verified; in a fresh process each time, which is what a command line or a build would start.

    python bench/export.py [--runs N] [--save]

``digits_export_s``: seconds from the start of the process to its end, the imports of JAX and Flax
included; the median of the runs. Each run writes the whole bundle; nothing is cached between them.
The table has the call of ``export`` alone beside it, and the most memory that the process and its
compilers held together (PSS: what they share is counted once), taken in a run that is not timed.

Needs maas-sdk[train].
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np

POLL_S = 0.05
TARGETS = 2


def export_once(folder: Path) -> None:
    """Export the digits network; what a run's process does. Prints seconds and the targets."""
    from flax import nnx

    from maas_sdk.export import export
    from maas_sdk.models.convnet import ConvNet

    x = np.random.default_rng(0).random((8, 8, 8, 1), dtype=np.float32)
    model = ConvNet(rngs=nnx.Rngs(0))
    began = time.perf_counter()
    bundle = export(model, {"image": x}, path=folder / "digits.maas", name="digits")
    print(time.perf_counter() - began, *bundle.manifest.targets)


class Exporter:
    """Starts the processes and keeps what they said."""

    def __init__(self) -> None:
        self.inner_s: list[float] = []
        self.targets: list[str] = []

    def run(self) -> float:
        """Seconds of one process, start to end."""
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            done = subprocess.run(_command(folder), stdout=subprocess.PIPE, text=True, check=True)
            took_s = time.perf_counter() - began
        seconds, *self.targets = done.stdout.splitlines()[-1].split()
        self.inner_s.append(float(seconds))
        return took_s


def peak_memory_mb() -> float:
    """Of the process and all that it starts, MB of PSS; NaN where the kernel does not tell."""
    with tempfile.TemporaryDirectory() as folder:
        with subprocess.Popen(_command(folder), stdout=subprocess.DEVNULL) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, sum(map(_pss, _tree(process.pid))))
                time.sleep(POLL_S)
        if process.returncode:
            raise SystemExit(f"the export ended with {process.returncode}")
    return peak / 1e6 or float("nan")


def _command(folder: str) -> list[str]:
    return [sys.executable, __file__, "--once", folder]


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:  # grows while it is gone through
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def _pss(pid: int) -> int:
    """Bytes; 0 for a process that ended meanwhile."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    options = harness.arguments(__doc__)
    exporter = Exporter()
    whole = harness.interleave({"the whole process": exporter.run}, runs=options.runs)
    (sample,) = whole.values()
    inner = harness.Sample(name="export() alone", values=tuple(exporter.inner_s[-options.runs :]))
    if len(exporter.targets) < TARGETS:
        print(f"only {exporter.targets} can be compiled for here, not two", file=sys.stderr)
    memory_mb = peak_memory_mb()
    harness.finish(
        "export",
        {"digits_export_s": sample.median, "export_peak_mb": memory_mb},
        [found.row(unit="s", scale=1.0) for found in (sample, inner)],
        save=options.save,
        targets={"digits_export_s": "≤ 60"},
        notes=f"{__doc__.partition('[--save]')[2].strip()}\n\n"
        f"Targets: {', '.join(exporter.targets)}.",
        packages=("jax", "jaxlib", "flax", "numpy"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        export_once(Path(sys.argv[2]))
    else:
        main()
