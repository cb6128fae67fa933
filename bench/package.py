"""Size of the digits function, part by part, and time from its zip to the first answer.

The bundle is that of the demo's network before it is quantized, in all its batch sizes; untrained,
since sizes and times do not depend on what it knows. "Without its dependencies" is what is
uploaded: our package, the bundle, main.py and the list of requirements; what that names is
installed by the builder. Each zip is unpacked into a new folder and started there, isolated from
this environment's sources; with --clean once also in an environment made of requirements.txt alone.

    python bench/package.py [--runs N] [--clean] [--save]

Needs maas-sdk[demo].
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

from maas_sdk.deploy.archive import zip_folder
from maas_sdk.deploy.check import check_zip
from maas_sdk.deploy.package import package
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.deploy.size import zip_size

EMPTY = Path(__file__).parent / "peers" / "empty"

# In a process of its own, which imports JAX.
EXPORT = """
import sys
import numpy as np
from flax import nnx
from maas_sdk.export import export
from maas_sdk.models.convnet import ConvNet

rows = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
buckets = (1, 2, 4, 8, 16, 32, 64)
export(ConvNet(rngs=nnx.Rngs(0)), rows, path=sys.argv[1], name="digits", buckets=buckets)
"""


def main() -> None:
    arguments = harness.arguments(
        __doc__,
        extend=lambda parser: parser.add_argument(
            "--clean", action="store_true", help="install requirements.txt and start there too"
        ),
    )
    with tempfile.TemporaryDirectory(prefix="maas-bench-") as name:
        scratch = Path(name)
        subprocess.run([sys.executable, "-c", EXPORT, scratch / "digits.maas"], check=True)
        began = time.perf_counter()
        folder = package(scratch / "digits.maas", scratch / "function")
        archive = zip_folder(folder, scratch / "function.zip")
        packaging_s = time.perf_counter() - began
        size = zip_size(archive)

        def ours() -> float:
            return check_zip(archive, environment="this").first_answer_s

        def empty() -> float:
            began = time.perf_counter()
            with FunctionProcess(EMPTY) as process:
                process.first_answer("/")
                return time.perf_counter() - began

        samples = harness.interleave({"zip": ours, "empty": empty}, runs=arguments.runs)
        clean = check_zip(archive, environment="installed") if arguments.clean else None
    rows = [
        {"part": part.name, "files": part.files, "kB": part.nbytes / 1e3, "kB zipped": kb}
        for part in size.parts
        for kb in [(part.zipped_nbytes or 0) / 1e3]
    ]
    figures = {
        "unpacked_mb": size.nbytes / 1e6,
        "zipped_mb": (size.zipped_nbytes or 0) / 1e6,
        "packaging_s": packaging_s,
        "zip_to_first_answer_s": samples["zip"].median,
        "empty_function_s": samples["empty"].median,
        "zip_vs_empty": harness.median_ratio(samples["zip"], samples["empty"]),
    }
    if clean is not None:
        figures["clean_install_s"] = clean.install_s
        figures["clean_zip_to_first_answer_s"] = clean.first_answer_s
    harness.finish(
        "package",
        figures,
        rows,
        save=arguments.save,
        targets={"unpacked_mb": "≤ 5"},
        notes=(
            "The digits function without its dependencies, by part. zip_to_first_answer_s: "
            "unpacking, process start and the first correct answer, in this interpreter's isolated "
            "mode; empty_function_s: a function that does nothing, in turns with it. clean_*: in "
            "an environment made of requirements.txt alone, once; the first answer there reads "
            "files that nothing has read before."
        ),
        packages=("numpy", "jaxlib", "functions-framework", "gunicorn", "flask"),
    )


if __name__ == "__main__":
    main()
