"""The container's folder: its Dockerfile is run step by step, where there is no Docker engine.

``Build`` is the part of Docker that our files need: it copies what ``COPY`` names into an empty
folder, runs ``RUN`` there with an interpreter of its own, and starts ``ENTRYPOINT``. What it cannot
show: that the base image exists, that its Python is this one, and that ``USER`` may read it all.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.bundle.folder import open_bundle
from maas_sdk.deploy.check import make_environment
from maas_sdk.deploy.container import VARIANTS, container, dockerfile
from maas_sdk.deploy.golden import golden_call
from maas_sdk.errors import ConfigError
from tests.kit.ports import free_port
from tests.kit.toy import toy_bundle

W = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("model"), W)


def steps(text: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile and their arguments; comments and line ends are gone."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in joined.splitlines()]


class Build:
    """An image's file system below a folder, made by a Dockerfile's own steps."""

    def __init__(self, context: Path, root: Path, python: Path, *, skip: str = "") -> None:
        self.root, self.environment = root, {"LANG": "C.UTF-8"}
        self.layers: list[str] = []
        self.user = "0"
        tools = root / "usr" / "bin"
        tools.mkdir(parents=True)
        (tools / "python").symlink_to(python)
        self.path = f"{tools}:{os.defpath}"
        workdir = root
        for word, rest in steps((context / "Dockerfile").read_text()):
            match word:
                case "FROM" | "EXPOSE":
                    pass
                case "ENV":
                    self.environment |= dict(p.split("=", 1) for p in shlex.split(rest))
                case "WORKDIR":
                    workdir = root / rest.lstrip("/")
                    workdir.mkdir(parents=True)
                case "USER":
                    self.user = rest
                case "COPY":
                    source, target = rest.split()
                    self.layers.append(source)
                    if (context / source).is_dir():
                        shutil.copytree(context / source, workdir / target)
                    else:
                        shutil.copy(context / source, workdir / target)
                case "RUN":
                    assert self.user == "0", "nothing is built as the user that serves"
                    if not skip or skip not in rest:
                        self.run(["sh", "-c", rest], workdir)
                case "ENTRYPOINT":
                    self.entry = json.loads(rest)
                case _:
                    raise AssertionError(f"{word} is no step that this test knows")
        self.workdir = workdir

    def run(self, command: list[str], cwd: Path) -> None:
        done = subprocess.run(
            command, cwd=cwd, env=self.variables({}), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**self.environment, "PATH": self.path, **more}

    @contextlib.contextmanager
    def container(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """The entry point, running, in a file system that it cannot write."""
        before = sorted(str(path) for path in self.workdir.rglob("*"))
        with subprocess.Popen(
            self.entry, cwd=self.workdir, env=self.variables(environment)
        ) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
        assert sorted(str(path) for path in self.workdir.rglob("*")) == before


def call(port: int, method: str, path: str, body: bytes = b"", headers=None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def serves(build: Build, bundle: Path) -> None:
    """The container's promise: ready over HTTP after a while, right answers, an end on SIGTERM."""
    port = free_port()
    golden = golden_call(bundle, whole=True)
    with build.container(PORT=str(port)) as process:
        deadline = time.monotonic() + 60
        while True:  # as the startup probe in service.yaml does
            with contextlib.suppress(OSError):
                if call(port, "GET", "/v2/health/ready")[0] == 200:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        status, body = call(port, "POST", golden.path, b"".join(golden.body), golden.headers)
        assert status == 200, body
        golden.check(body)
    assert process.returncode in (0, -signal.SIGTERM)


def test_the_steps_make_what_serves(bundle: Path, tmp_path: Path) -> None:
    """Every COPY and RUN but pip's, into an empty folder; then the entry point is asked."""
    context = container(bundle, tmp_path / "context")
    python = tmp_path / "isolated"
    # The installed packages of this interpreter, but not our sources beside this test.
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -P "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    build = Build(context, tmp_path / "image", python, skip="pip install")
    assert build.layers == ["requirements.txt", "maas_sdk", "maas", "model.maas"]
    assert build.user == "65532:65532"
    sources = list((build.workdir / "maas_sdk").rglob("*.py"))
    assert len(list((build.workdir / "maas_sdk").rglob("*.pyc"))) == len(sources)
    serves(build, bundle)


@pytest.mark.heavy
def test_the_steps_need_nothing_of_this_environment(bundle: Path, tmp_path: Path) -> None:
    """All steps, pip's as well, with an interpreter that has nothing installed."""
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    python = make_environment(empty, tmp_path / "python")
    context = container(bundle, tmp_path / "context")
    try:
        build = Build(context, tmp_path / "image", python)
    except AssertionError as error:
        if "No matching distribution" in str(error) or "Connection" in str(error):
            pytest.skip(f"no package index can be reached: {error}")
        raise
    serves(build, bundle)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, bundle: Path, tmp_path: Path) -> None:
    """Each installs its plugin by hash, serves as nobody, and is the same from the same input."""
    context = container(bundle, tmp_path / "one", variant=variant)
    again = container(bundle, tmp_path / "two", variant=variant)
    files = sorted(p.relative_to(context) for p in context.rglob("*") if p.is_file())
    for file in files:
        assert (context / file).read_bytes() == (again / file).read_bytes()
    open_bundle(context / "model.maas").check()
    wanted = (context / "requirements.txt").read_text()
    names = set(re.findall(r"^([\w.-]+)==", wanted, re.M))
    assert {"uvicorn", "typer", "jaxlib"} <= names
    assert not {"jax", "flax"} & names
    plugin = {"gpu": "jax-cuda12-pjrt", "tpu": "libtpu"}
    assert {value for value in plugin.values() if value in names} == {
        plugin[variant] for _ in "x" if variant in plugin
    }
    text = (context / "Dockerfile").read_text()
    assert steps(text)[0] == ("FROM", f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim")
    # Hashes are known of the lock's versions; on the newest ones there are none.
    is_locked = importlib.metadata.version("jaxlib") == "0.10.2"
    assert is_locked == ("--hash=sha256:" in wanted) == ("--require-hashes" in text)
    assert (context / "service.yaml").exists() == (variant != "tpu")
    if variant != "tpu":
        service = (context / "service.yaml").read_text()
        assert re.search(r"startupProbe:\s+httpGet:\s+path: /v2/health/ready", service)
        assert 'startup-cpu-boost: "true"' in service
        assert ("nvidia-l4" in service) == (variant == "gpu")


def test_without_hashes_pip_is_not_told_to_insist() -> None:
    """As for a bundle of another jaxlib; a base image may be named by its digest."""
    text = dockerfile("toy", hashed=False, base="python@sha256:0123")
    assert "--require-hashes" not in text
    assert "\nFROM python@sha256:0123\n" in text


def test_an_unknown_variant_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Before anything is written; the message names those there are."""
    with pytest.raises(ConfigError, match="no variant 'npu': expected one of cpu, gpu, tpu"):
        container(bundle, tmp_path / "out", variant="npu")
    assert list(tmp_path.iterdir()) == []
