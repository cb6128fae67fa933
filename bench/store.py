"""Throughput of bundles to a store and back: a bucket (the emulator), a folder, plain copies.

    python bench/store.py [--megabytes N] [--runs N] [--save]

One bundle, nearly all of it weights. The emulator runs in a process of its own on this machine,
holds everything in memory, and is Python: what goes through it says what publishing costs with a
slow peer on the same processors, not what Cloud Storage gives. ``folder`` is the same store over
a folder, so with the same hashing, ranges and checks, and no HTTP.

- ``up_*``: GB/s of ``publish`` into an empty store, every byte hashed, uploaded in parts.
- ``down_*``: GB/s of ``copy`` out of it, by ranges into mapped files, hashed, flushed to the disk.
- ``plain_copy``: ``shutil.copytree`` of the same bundle; ``flushed_copy``: and ``fsync`` of each
  file, which ``copy`` does too, and a bucket cannot be asked to.
- ``weights_only_s``: seconds to publish a version that has other weights beside the same programs,
  where the store has the first; ``same_again_s``: nothing new but the version.
- ``CPU ms``: processor time of this process alone, which a busy machine does not stretch.
- ``held_s``: seconds to open a version that the local cache has: one small request.

Needs maas-sdk[gcp] and gcp-storage-emulator.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
import numpy as np

from maas_sdk.bundle import BundleWriter, Manifest, write_weights
from maas_sdk.bundle.manifest import Program
from maas_sdk.store.cache import BundleCache
from maas_sdk.store.gcs import GcsObjects
from maas_sdk.store.objects import Objects
from maas_sdk.store.remote import RemoteStore
from maas_sdk.tensors import Signature
from tests.kit.folder_objects import FolderObjects

ROOT = Path(__file__).parent.parent
SERVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.kit.gcs import gcs
with gcs("bucket") as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--megabytes", type=int, default=64, help="of weights")


@contextmanager
def emulator() -> Iterator[None]:
    """The emulated bucket, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(ROOT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        os.environ["STORAGE_EMULATOR_HOST"] = server.stdout.readline().strip()
        try:
            yield
        finally:
            server.communicate()


def make(path: Path, megabytes: int, seed: int) -> Path:
    """A bundle; the seed decides about its weights and nothing else."""
    program = Program(
        signature=Signature(inputs={}, outputs={}), weights=(), buckets=(1,), row_independent=True
    )
    with BundleWriter(path) as writer:
        for index in range(14):
            writer.add(f"executables/cpu/predict-b{index}.xla", bytes([index]) * 200_000)
        weights = np.random.default_rng(seed).integers(0, 2**63, megabytes * 125_000, np.int64)
        write_weights(writer.path / "weights.safetensors", {"w": weights})
        writer.seal(Manifest(name="m", programs={"predict": program}, targets={}))
    return path


def nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def flushed(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for path in target.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def main() -> None:
    given = harness.arguments(__doc__, extend=options)
    folder = Path(tempfile.mkdtemp(prefix="maas-store-"))
    try:
        with emulator():
            measure(given, folder)
    finally:
        shutil.rmtree(folder)


def measure(given: argparse.Namespace, folder: Path) -> None:
    first = make(folder / "first.maas", given.megabytes, 0)
    second = make(folder / "second.maas", given.megabytes, 1)
    size_gb = nbytes(first) / 1e9
    out = folder / "out"
    kinds: dict[str, Objects] = {
        "emulator": GcsObjects("bucket", "p"),
        "folder": FolderObjects(folder / "objects"),
    }
    cache = BundleCache(folder / "cache")

    def empty(objects: Objects) -> RemoteStore:
        for info in objects.find(""):
            objects.delete(info)
        return RemoteStore(objects, cache)

    cpu: dict[str, list[float]] = {}

    def timed(name: str, action: Callable[[], object]) -> float:
        before = time.process_time()
        wall_s = harness.timed(action)
        cpu.setdefault(name, []).append(time.process_time() - before)
        return wall_s

    def copying(name: str, how: Callable[[Path, Path], object]) -> float:
        shutil.rmtree(out, ignore_errors=True)
        return timed(name, lambda: how(first, out))

    contestants: dict[str, Callable[[], float]] = {
        "plain copy": lambda: copying("plain copy", shutil.copytree),
        "flushed copy": lambda: copying("flushed copy", flushed),
    }
    for name, objects in kinds.items():

        def up(name: str = name, objects: Objects = objects) -> float:
            store = empty(objects)
            return timed(f"up, {name}", lambda: store.publish(first, "m"))

        def weights_only(name: str = name, objects: Objects = objects) -> float:
            store = RemoteStore(objects)
            return timed(f"weights only, {name}", lambda: store.publish(second, "m"))

        def again(name: str = name, objects: Objects = objects) -> float:
            store = RemoteStore(objects)
            return timed(f"same again, {name}", lambda: store.publish(second, "m"))

        def down(name: str = name, objects: Objects = objects) -> float:
            shutil.rmtree(out, ignore_errors=True)
            store = RemoteStore(objects)
            return timed(f"down, {name}", lambda: store.copy("m", out))

        contestants |= {
            f"up, {name}": up,
            f"weights only, {name}": weights_only,
            f"same again, {name}": again,
            f"down, {name}": down,
        }

    held = RemoteStore(kinds["emulator"], cache)

    def opened() -> float:
        held.resolve("m")
        return timed("held by the cache", lambda: held.resolve("m"))

    contestants["held by the cache"] = opened
    found = harness.interleave(contestants, runs=given.runs)
    figures = {
        "plain_copy_gb_s": size_gb / found["plain copy"].median,
        "flushed_copy_gb_s": size_gb / found["flushed copy"].median,
    }
    for name in kinds:
        figures |= {
            f"up_{name}_gb_s": size_gb / found[f"up, {name}"].median,
            f"down_{name}_gb_s": size_gb / found[f"down, {name}"].median,
            f"weights_only_{name}_s": found[f"weights only, {name}"].median,
            f"same_again_{name}_s": found[f"same again, {name}"].median,
        }
    figures["held_s"] = found["held by the cache"].median
    harness.finish(
        "store",
        figures,
        [
            {**sample.row(), "CPU ms": round(statistics.median(cpu[name]) * 1e3, 1)}
            for name, sample in found.items()
        ],
        save=given.save,
        notes=(__doc__ or "").partition("[--save]")[2].strip(),
        packages=("google-cloud-storage", "gcp-storage-emulator", "numpy"),
    )


if __name__ == "__main__":
    main()
