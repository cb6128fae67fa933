"""Cold start of a quantized model, in each way that it can be stored and served.

    python bench/quantize_cold.py [--runs N] [--save]

The 503 MB MLP of the cold-start benchmark, through functions-framework, from process start to the
first correct answer over HTTP:

- ``float32``: as it is;
- ``int8 program``: codes and scales are the program's arguments, mapped as they lie;
- ``int8 open``: weights are decoded to float32 while the bundle opens;
- ``kmeans4 open``: the same from 4-bit codebooks; ``kmeans4 open zstd``: entropy-coded on top.

Everything lies in the page cache: what a smaller file saves on the network comes on top, ten
milliseconds a megabyte at 100 MB/s. Disk MB is ``weights.safetensors``, peak MB the serving
process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
from cold_start import CACHE, HERE, Contestant

import maas_sdk
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Failure, decode_results, encode_calls

FOLDER = CACHE / "quantized"
FORMS = {
    "float32": None,
    "int8 program": ("int8", "program", None),
    "int8 open": ("int8w", "open", None),
    "kmeans4 open": ("kmeans4", "open", None),
    "kmeans4 open zstd": ("kmeans4", "open", "zstd"),
}


def prepare() -> None:
    """Build the bundles; in a process of its own, which imports JAX."""
    from networks import NETWORKS

    from maas_sdk.compress.quantize import quantize
    from maas_sdk.deploy.package import package
    from maas_sdk.export import export

    shutil.rmtree(FOLDER, ignore_errors=True)
    network = NETWORKS["mlp"]
    model = network.build()
    x = np.random.default_rng(0).random((1, *network.input_shape), dtype=np.float32)
    for index, (name, form) in enumerate(FORMS.items()):
        folder = FOLDER / str(index)
        folder.mkdir(parents=True)
        made = model
        if form is not None:
            recipe, decode, entropy = form
            made = quantize(model, recipe, example_inputs=x, decode=decode, entropy=entropy)
        bundle = export(made, x, path=folder / "model.maas", name="mlp", buckets=(1,))
        np.savez(folder / "golden.npz", x=x, y=np.asarray(made(x)))
        package(bundle.path, folder / "function")
        print(name, file=sys.stderr, flush=True)
    (FOLDER / "done").touch()


def contestant(index: int) -> Contestant:
    """One form as a function."""
    folder = (FOLDER / str(index)).absolute()
    golden = np.load(folder / "golden.npz")

    def framed(body: bytes) -> np.ndarray:
        [result] = decode_results(body)
        if isinstance(result, Failure):
            raise SystemExit(result.message)
        return next(iter(result.outputs.values()))

    return Contestant(
        folder=folder / "function",
        path="/v1/models/mlp:predict",
        body=b"".join(encode_calls([Call(id="0", inputs={"input": golden["x"]})])),
        content_type=CONTENT_TYPE,
        answer=framed,
        expected=golden["y"],
    )


def main() -> None:
    options = harness.arguments(__doc__)
    if not (FOLDER / "done").exists():
        subprocess.run([sys.executable, __file__, "--prepare"], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    sources = [HERE, Path(maas_sdk.__file__).parent]
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", *sources], check=True, env=environment
    )
    harness.require_bytecode()
    field = {name: contestant(index) for index, name in enumerate(FORMS)}
    samples = harness.interleave({k: c.start for k, c in field.items()}, runs=options.runs)
    sizes = {
        name: (FOLDER / str(index) / "model.maas" / "weights.safetensors").stat().st_size / 1e6
        for index, name in enumerate(FORMS)
    }
    rows = [
        {
            **sample.row(),
            "disk MB": round(sizes[name], 1),
            "peak MB": round(max(field[name].memory_mb)),
        }
        for name, sample in samples.items()
    ]
    figures = {
        f"{name.replace(' ', '_')}_vs_float32": harness.median_ratio(sample, samples["float32"])
        for name, sample in samples.items()
        if name != "float32"
    }
    harness.finish(
        "quantize_cold",
        figures,
        rows,
        save=options.save,
        notes=__doc__.partition("[--save]")[2].strip(),
        packages=("numpy", "jaxlib", "functions-framework", "gunicorn", "zstandard"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare()
    else:
        main()
