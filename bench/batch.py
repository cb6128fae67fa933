"""Batch prediction against the bare executable, and its memory over millions of small rows.

    python bench/batch.py [--rows N] [--small-rows N] [--runs N] [--save]

- Rows per second of ``predict_files``, from the opened file to the last flushed part, loading not
  counted; of the demo's convnet (8 × 8 images of float32), with --rows rows in each kind of file,
  in eight parts; a few seconds, of which importing pyarrow and the first file are little. In turn
  with the bare executable of the same batch size: rows that lie in
  memory are handed to XLA, run and taken back, nothing is read or written. The batch size is the
  one of the bundle's with which the bare executable is fastest.
- ``growth_mb``: what the process holds (RSS, looked at every 20 ms) at its most in the last half
  of --small-rows rows of 4 floats, less its most in the second quarter: .npy to .npz, 3 floats of
  answers, in a process of its own.

Needs maas-sdk[serve,train,data].
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

FOLDER = (Path(__file__).parent.parent / ".cache" / "bench" / "batch").absolute()
# Batch sizes: the convnet's are the demo's; where rows are small, larger ones are worth it.
BUCKETS = (1, 8, 64)
SMALL_BUCKETS = (1, 1024)
# Of the convnet's files: several, so that writing has something to overlap with.
PARTS = 8
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=65536, help="images in a file")
    parser.add_argument("--small-rows", type=int, default=10_000_000, help="rows of 4 floats")


def prepare(rows: int) -> None:
    """Export the models and write the files, in a separate process, which imports JAX."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet
    from flax import nnx

    from maas_sdk.export import default_targets, export
    from maas_sdk.models.convnet import ConvNet

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    x = np.random.default_rng(0).random((rows, 8, 8, 1), np.float32)
    targets = default_targets()[:1]
    export(
        ConvNet(rngs=nnx.Rngs(0)),
        {"image": x[:8]},
        path=FOLDER / "digits.maas",
        name="digits",
        buckets=BUCKETS,
        targets=targets,
    )
    export(
        lambda weights, inputs: {"y": inputs["x"] @ weights},
        {"x": x[:8].reshape(8, -1)[:, :4]},
        weights=np.ones((4, 3), np.float32),
        path=FOLDER / "small.maas",
        name="small",
        buckets=SMALL_BUCKETS,
        targets=targets,
    )
    np.save(FOLDER / "rows.npy", x)
    flat = x.reshape(rows, -1)
    columns = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.reshape(-1)), 64)
    table = pyarrow.table({"image": columns, "id": np.arange(rows)})
    pyarrow.parquet.write_table(table, FOLDER / "rows.parquet", row_group_size=10_000)
    named = pyarrow.table({f"p{n}": flat[:, n] for n in range(64)})
    pyarrow.csv.write_csv(named, FOLDER / "rows.csv")
    with (FOLDER / "rows.jsonl").open("w") as file:
        for row in flat.round(4).tolist():
            file.write(json.dumps({"image": row}) + "\n")


class Bare:
    """The bare executable that batch prediction runs."""

    def __init__(self, rows: int, bucket: int) -> None:
        from maas_sdk.bundle import open_bundle, open_weights
        from maas_sdk.bundle.manifest import WEIGHTS, executable_path
        from maas_sdk.runtime import xla

        bundle = open_bundle(FOLDER / "digits.maas")
        program = bundle.manifest.programs["predict"]
        [target] = bundle.manifest.targets
        self.bucket = bucket
        self._client = xla.XlaClient()
        path = executable_path(target, "predict", self.bucket)
        self._executable = self._client.load(bundle.read(path))
        weights = open_weights(bundle.path / WEIGHTS)
        self._weights = [self._client.put(weights[name]) for name in program.weights]
        self._x = np.load(FOLDER / "rows.npy")
        self._batches = max(rows // self.bucket, 1)

    def rows_per_s(self) -> float:
        """Return rows per second of full batches, one after the other."""
        outputs = [((self.bucket, 10), np.dtype(np.float32))]
        began = time.perf_counter()
        for number in range(self._batches):
            batch = self._x[number * self.bucket : (number + 1) * self.bucket]
            self._executable.run([*self._weights, self._client.put(batch)], outputs)
        return self._batches * self.bucket / (time.perf_counter() - began)


def fastest(rows: int) -> Bare:
    """Return the bare executable of the fastest batch size: the best of three measurements."""
    found = [Bare(rows, bucket) for bucket in BUCKETS]
    return max(found, key=lambda bare: max(bare.rows_per_s() for _ in range(3)))


def predict(name: str, format: str, rows: int, bucket: int) -> float:
    """Return rows per second of one file of so many rows."""
    from maas_sdk.batch import BatchConfig, predict_files

    out = FOLDER / "out"
    shutil.rmtree(out, ignore_errors=True)
    key = "id" if name == "rows.parquet" else None
    config = BatchConfig(format=format, key=key, part_rows=rows // PARTS, bucket=bucket)
    report = predict_files(FOLDER / "digits.maas", FOLDER / name, out, config)
    if report.bad:
        raise SystemExit(f"{name}: {report.bad} rows were not answered")
    return report.run_rows / report.run_s


def memory(rows: int) -> None:
    """Answer many small rows, and print the process's memory on the way as JSON."""
    from maas_sdk.batch import BatchConfig, predict_files

    path, piece = FOLDER / "small.npy", 1_000_000
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 4)}
        np.lib.format.write_array_header_1_0(file, header)
        random = np.random.default_rng(0)
        for start in range(0, rows, piece):
            file.write(random.random((min(piece, rows - start), 4), np.float32).tobytes())
    shutil.rmtree(FOLDER / "out", ignore_errors=True)
    looks: list[tuple[float, int]] = []
    share = 0.0
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            held = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
            looks.append((share, held))

    def tell(progress: Any) -> None:
        nonlocal share
        share = progress.share

    watcher = threading.Thread(target=look)
    watcher.start()
    report = predict_files(
        FOLDER / "small.maas", path, FOLDER / "out", BatchConfig(format="npz"), progress=tell
    )
    ended.set()
    watcher.join()
    early = max(held for at, held in looks if 0.25 <= at < 0.5)
    late = max(held for at, held in looks if at >= 0.5)
    path.unlink()
    shutil.rmtree(FOLDER / "out")
    print(
        json.dumps(
            {
                "rows": report.answered,
                "rows_per_s": report.run_rows / report.run_s,
                "early_mb": early / 1e6,
                "late_mb": late / 1e6,
                "looks": len(looks),
            }
        )
    )


def child(*words: object) -> str:
    """Return the output of this file in another process."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main() -> None:
    given = harness.arguments(__doc__, extend=options)
    child("--prepare", given.rows)
    held = json.loads(child("--memory", given.small_rows))
    bare = fastest(given.rows)
    found = harness.interleave(
        {
            "bare executable": bare.rows_per_s,
            "npy to npz": lambda: predict("rows.npy", "npz", given.rows, bare.bucket),
            "parquet to parquet": lambda: predict(
                "rows.parquet", "parquet", given.rows, bare.bucket
            ),
            "csv to parquet": lambda: predict("rows.csv", "parquet", given.rows, bare.bucket),
            "jsonl to jsonl": lambda: predict("rows.jsonl", "jsonl", given.rows, bare.bucket),
        },
        runs=given.runs,
    )
    shutil.rmtree(FOLDER / "out")
    raw = found["bare executable"]
    harness.finish(
        "batch",
        {
            "npy_of_bare": harness.median_ratio(found["npy to npz"], raw),
            "parquet_of_bare": harness.median_ratio(found["parquet to parquet"], raw),
            "csv_of_bare": harness.median_ratio(found["csv to parquet"], raw),
            "jsonl_of_bare": harness.median_ratio(found["jsonl to jsonl"], raw),
            "bucket": bare.bucket,
            "small_rows": held["rows"],
            "small_rows_per_s": held["rows_per_s"],
            "held_mb": held["late_mb"],
            "growth_mb": held["late_mb"] - held["early_mb"],
        },
        [sample.row(unit="rows/s", scale=1.0) for sample in found.values()],
        save=given.save,
        targets={"npy_of_bare": "≥ 0.9", "parquet_of_bare": "≥ 0.9", "growth_mb": "about 0"},
        notes=f"{__doc__.partition('[--save]')[2].strip()}\n\n{given.rows:,} images in a file.",
        packages=("jaxlib", "numpy", "pyarrow"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--memory"]:
        memory(int(sys.argv[2]))
    else:
        main()
