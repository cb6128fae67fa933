"""The wheel, as a stranger installs it: each extra does what it promises.

An environment starts empty and gets the wheel with one extra after another. Versions are those of
the environment that runs the tests, so that the same test holds for the lock and for the newest.
Downloads come from pip's cache where `make setup` filled it. Scripts run isolated (``python -I``)
in an empty folder: the checkout is out of reach.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.kit.gcs import gcs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
# What is not run here, and why.
NOT_RUN = {
    "cuda": "gigabytes of libraries that need a GPU",
    "tpu": "270 MB that need a TPU",
    "tpu-plan": "the same libtpu; the tests of the TPU compiler install it from its lock",
}
RUN = {"serve", "train", "evaluate", "data", "zstd", "gcp", "seal", "tensorboard", "cli", "demo"}
# Settings of the tests' own process, or of the machine, that a newcomer does not have.
FOREIGN = ("MAAS_", "XLA_", "JAX_", "PYTHON", "VIRTUAL_ENV")


class Environment:
    """A virtual environment that holds nothing but what is asked for."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.wheel = wheel
        self.bin = folder / "bin"
        self.work = folder / "work"
        self.variables = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.variables["PATH"] = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        venv.create(folder, symlinks=True)
        self.work.mkdir()
        self._constraints = folder / "constraints.txt"
        self._constraints.write_text(
            "".join(
                f"{found.name}=={found.version}\n"
                for found in importlib.metadata.distributions()
                if found.name != "maas-sdk"
            )
        )

    def install(self, extra: str = "") -> None:
        """The wheel, with one extra or none; what is there stays."""
        wanted = f"maas-sdk[{extra}] @ {self.wheel.as_uri()}" if extra else str(self.wheel)
        self._call(
            *(sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"),
            *("--quiet", "--disable-pip-version-check", "--constraint", str(self._constraints)),
            wanted,
            timeout_s=600,
        )

    def python(self, code: str, *arguments: str, **variables: str) -> str:
        """What the code prints."""
        return self._call(str(self.bin / "python"), "-I", "-c", code, *arguments, **variables)

    def maas(self, *arguments: str, **variables: str) -> str:
        """What the command prints."""
        return self._call(str(self.bin / "maas"), *arguments, **variables)

    def _call(self, *command: str, timeout_s: float = 300, **variables: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.work,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, *command: str) -> Iterator[str]:
        """The address of a server that this environment's command runs; "{port}" is its port."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        words = [word.format(port=port) for word in command]
        with (self.work / "server.log").open("w") as log:
            process = subprocess.Popen(
                [str(self.bin / words[0]), *words[1:]],
                cwd=self.work,
                env=self.variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            transport = httpx.HTTPTransport(retries=8)  # waits 0.5 s · 2^n for the port to open
            with httpx.Client(transport=transport, timeout=60) as client:
                client.get(f"http://127.0.0.1:{port}/")
            assert process.poll() is None, (self.work / "server.log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would take along what an older build left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "maas_sdk", source / "maas_sdk", ignore=shutil.ignore_patterns("__pycache__")
    )
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source)),
        ],
        check=True,
        timeout=300,
    )
    (built,) = out.iterdir()
    return built


def test_every_extra_is_run_or_says_why_not() -> None:
    """A new extra is run here, or its reason not to be is given."""
    assert set(EXTRAS) == RUN | set(NOT_RUN)
    assert all(NOT_RUN.values())


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """Code and data alike: locks, templates, styles, the note that it is typed. Nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
    files = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "maas_sdk").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert held == files
    assert {Path(file).suffix for file in files} >= {
        ".py",
        ".typed",
        ".lock",
        ".txt",
        ".css",
        ".html",
        ".toml",
    }
    for extra in EXTRAS:
        assert f"Provides-Extra: {extra}\n" in text


CALL = """
import sys
import numpy as np
from maas_sdk.client import Client
with Client(sys.argv[1], model="tiny") as client:
    print(client.predict(np.ones((2, 4), np.float32)).tolist())
print(sorted({"jax", "jaxlib", "flax", "typer"} & sys.modules.keys()))
"""
MAIN = """
from maas_sdk.serve import serve
predict = serve({bundle!r})
"""
LOAD = """
import sys
import numpy as np
from maas_sdk.runtime import load
with load(sys.argv[1]) as engine:
    print(engine.predict(np.ones((1, 4), np.float32)).tolist())
"""
ANSWER = np.arange(12, dtype=np.float32).reshape(4, 3).sum(0).tolist()
READ = """
import glob
from pyarrow import parquet
print(parquet.read_table(glob.glob("answers/*.parquet")).to_pydict())
"""
ZSTD = """
import numpy as np
from maas_sdk.bundle.encoding.encode import compress_tensor
from maas_sdk.bundle.encoding.spec import decode
tensor = np.arange(1000, dtype=np.float32)
stored = compress_tensor("w", tensor, codec="zstd")
print((decode("w", stored.encodings, stored.tensors) == tensor).all())
"""
LAUNCH = "functions-framework --source {} --target predict --host 127.0.0.1 --port {{port}}"


def test_the_client_and_what_it_calls(wheel: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """No extra: the client. [serve]: a function that answers it. Then [zstd] and [cli]."""
    client, server = (Environment(tmp_path / name, wheel) for name in ("client", "server"))
    client.install()
    server.install("serve")
    main = server.work / "main.py"
    main.write_text(MAIN.format(bundle=str(tiny_bundle)))
    with server.serving(*LAUNCH.format(main).split()) as url:
        assert client.python(CALL, url).splitlines() == [str([ANSWER] * 2), "[]"]
    server.install("zstd")
    assert server.python(ZSTD) == "True\n"
    assert server.python("import importlib.util as u; print(u.find_spec('jax'))") == "None\n"

    # The command line says what else a command needs; with it, it serves and packages.
    client.install("cli")
    assert "export" in client.maas("--help")
    server.install("cli")
    with server.serving("maas", "serve", str(tiny_bundle), "--port", "{port}") as url:
        assert client.python(CALL, url).splitlines() == [str([ANSWER] * 2), "[]"]
    server.maas("package", str(tiny_bundle), "out")
    assert "jaxlib==" in (server.work / "out" / "requirements.txt").read_text()


def test_what_is_served_with_more(wheel: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """[data] answers the rows of a csv, [seal] signs and encrypts, [gcp] reads from a bucket."""
    environment = Environment(tmp_path / "more", wheel)
    environment.install("serve,cli")

    environment.install("data")
    (environment.work / "rows.csv").write_text("a,b,c,d\n1,1,1,1\n0,0,0,0\n")
    bundle = str(tiny_bundle)
    environment.maas("batch", bundle, "rows.csv", "--out", "answers", "--columns", "x=a,b,c,d")
    assert str([ANSWER, [0.0] * 3]) in environment.python(READ)

    environment.install("seal")
    environment.maas("keygen", "keys")
    keys = ["--sign", "file:keys/signing.key", "--encrypt", "file:keys/encryption.key"]
    environment.maas("seal", bundle, "--out", "sealed.maas", *keys)
    assert "signed" in environment.maas("inspect", "sealed.maas")
    trusted = (environment.work / "keys" / "signing.pub").read_text().strip()
    assert environment.python(LOAD, "sealed.maas", MAAS_TRUSTED_KEYS=trusted) == f"[{ANSWER}]\n"

    environment.install("gcp")
    with gcs("models") as server:
        bucket = {"STORAGE_EMULATOR_HOST": server.url}
        environment.maas("push", bundle, "gs://models/store/tiny", **bucket)
        assert "tiny" in environment.maas("list", "gs://models/store", **bucket)


TRAIN = """
import numpy as np
from flax import nnx
from maas_sdk.export import export
from maas_sdk.training import Examples, Split, TrainConfig, Trainer

x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
data = Examples(inputs=x, labels=(x.sum(1) > 0).astype(np.int32))
config = TrainConfig(epochs=2, batch_size=16, log_folder="logs", tensorboard=True)
result = Trainer(config).fit(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), Split(train=data, test=data))
export(result.model, x[:4], path="trained.maas", buckets=(1,))
"""
EVALUATE = """
import numpy as np
from maas_sdk.evaluate import classification
print(classification(np.eye(3, dtype=np.float32), np.arange(3)).f1)
"""


def test_training(wheel: Path, tmp_path: Path) -> None:
    """[train] trains and exports what answers; [tensorboard] adds logs, [evaluate] metrics."""
    environment = Environment(tmp_path / "train", wheel)
    environment.install("train")
    environment.install("tensorboard")
    environment.python(TRAIN)
    assert list((environment.work / "logs").rglob("events.out.tfevents.*"))
    assert environment.python(LOAD, "trained.maas").startswith("[[")
    environment.install("evaluate")
    assert environment.python(EVALUATE) == "1.0\n"


def test_the_demo(wheel: Path, tmp_path: Path) -> None:
    """[demo] runs the main job: the two commands of the README, from the wheel."""
    environment = Environment(tmp_path / "demo", wheel)
    environment.install("demo")
    environment.maas("demo")
    assert "</html>" in (environment.work / "demo-out" / "report.html").read_text()
