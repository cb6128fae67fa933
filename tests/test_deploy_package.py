"""A bundle becomes a folder that runs as it is: its files, bytecode, pins and refusals."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.bundle.folder import BundleWriter, open_bundle
from maas_sdk.deploy.archive import zip_folder
from maas_sdk.deploy.package import FUNCTIONS, main_source, package
from maas_sdk.deploy.requirements import requirements
from maas_sdk.deploy.size import Size, SizePart, check_limits, folder_size, zip_size
from maas_sdk.errors import ConfigError, CorruptError
from tests.kit.toy import toy_manifest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with BundleWriter(tmp_path / "toy.maas") as writer:
        writer.add("programs/predict-b1.stablehlo", b"not really")
        writer.seal(toy_manifest("0.10.2+990e6a0b"))
    return tmp_path / "toy.maas"


def test_folder_holds_what_runs(bundle: Path, tmp_path: Path) -> None:
    """main.py, requirements.txt, the bundle, and of maas_sdk what serves; no more."""
    out = package(bundle, tmp_path / "out")
    assert out == tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "__pycache__",
        "maas_sdk",
        "main.py",
        "model.maas",
        "requirements.txt",
    }
    open_bundle(out / "model.maas").check()
    vendored = {path.name for path in (out / "maas_sdk").iterdir()} - {"__pycache__", "runtime"}
    assert vendored == {
        "__init__.py",
        "bundle",
        "errors.py",
        "faces.py",
        "serve",
        "store",
        "tensors.py",
        "wire",
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_source_is_the_template(function: str) -> None:
    """functions/<name>/main.py is the file that ``package`` writes, and is short."""
    source = main_source(function=function)
    assert (REPOSITORY / "functions" / function / "main.py").read_text() == source
    assert len(source.splitlines()) <= 30
    compile(source, "main.py", "exec")


def test_a_batch_function_has_what_reads_files(bundle: Path, tmp_path: Path) -> None:
    """The readers and the client of buckets, and not the server; no other kind is made."""
    out = package(bundle, tmp_path / "out", function="batch")
    vendored = {path.name for path in (out / "maas_sdk").iterdir()}
    assert {"batch", "bundle", "runtime", "store", "tables"} <= vendored
    assert "serve" not in vendored
    listed = (out / "requirements.txt").read_text()
    assert all(f"\n{name}==" in listed for name in ("pyarrow", "google-cloud-storage", "jaxlib"))
    with pytest.raises(ConfigError, match="no function 'train': expected one of predict, batch"):
        package(bundle, tmp_path / "other", function="train")
    assert not (tmp_path / "other").exists()


def test_bytecode_stands_when_times_change(bundle: Path, tmp_path: Path) -> None:
    """Every source has bytecode, validated by hash, that names no folder of this machine."""
    out = package(bundle, tmp_path / "out")
    for source in out.rglob("*.py"):
        cached = Path(importlib.util.cache_from_source(str(source)))
        code = cached.read_bytes()
        # PEP 552: bit 0 says by hash, bit 1 that the source is to be looked at.
        flags = int.from_bytes(code[4:8], "little")
        assert flags == (0b11 if source.name == "main.py" else 0b01), source
        assert str(tmp_path).encode() not in code


def test_vendored_package_goes_first(bundle: Path, tmp_path: Path) -> None:
    """The folder's own maas_sdk serves, wherever the folder was moved, not an installed one."""
    package(bundle, tmp_path / "out")
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "out", moved)
    code = (
        "import runpy, sys; m = runpy.run_path(sys.argv[1]); "
        "import maas_sdk.serve.shells.function as f; "
        "print(f.__file__, type(m['predict']).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(moved / "main.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.split() == [str(moved / "maas_sdk/serve/shells/function.py"), "function"]


def test_requirements_are_the_locked_ones(bundle: Path, tmp_path: Path) -> None:
    """The folder's requirements.txt is that of its bundle, hashes and all."""
    text = (package(bundle, tmp_path / "out") / "requirements.txt").read_text()
    assert text == requirements(open_bundle(bundle).manifest).text
    assert f"numpy=={np.__version__}" in text
    assert "--hash=sha256:" in text


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
{before}
from maas_sdk.deploy.archive import zip_folder
from maas_sdk.deploy.package import package
zip_folder(package(sys.argv[1], Path(sys.argv[2]) / "function"), Path(sys.argv[2]) / "f.zip")
"""


def test_the_same_input_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    """From whatever process, hash seed, time, umask and folder: no change, no new deployment."""
    found = []
    for seed, before in [
        ("1", "import os; os.umask(0o077)"),
        ("2", "import maas_sdk.serve.shells.asgi"),
    ]:
        folder = tmp_path / f"run-{seed}"
        folder.mkdir()
        for file in bundle.rglob("*"):
            os.utime(file, (int(seed) * 1e6, int(seed) * 1e6))
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS.format(before=before), bundle, folder],
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        found.append((folder / "f.zip").read_bytes())
    assert found[0] == found[1]


def test_a_function_may_fetch_its_bundle(bundle: Path, tmp_path: Path) -> None:
    """Then main.py names the version in the store, and what reads gs:// is installed."""
    url = "gs://models/store/toy@3"
    out = package(bundle, tmp_path / "out", bundle_from=url)
    assert not (out / "model.maas").exists()
    assert f'or "{url}")' in (out / "main.py").read_text()
    assert "google-cloud-storage==" in (out / "requirements.txt").read_text()
    here = package(bundle, tmp_path / "here", bundle_from="file:///models/toy@3")
    assert "google-cloud-storage" not in (here / "requirements.txt").read_text()
    for wrong in ("gs://models/toy", "toy@3", 'gs://a"/toy@3', "gs://toy@3", ""):
        with pytest.raises(ConfigError, match=r"expected <store>/<model>@<version>"):
            package(bundle, tmp_path / "wrong", bundle_from=wrong)


def test_sizes_are_told_by_part(bundle: Path, tmp_path: Path) -> None:
    """Every file counts once, and a source that is too large is refused with two ways out."""
    out = package(bundle, tmp_path / "out")
    archive = zip_folder(out, tmp_path / "out.zip")
    found, zipped = folder_size(out), zip_size(archive)
    names = {part.name for part in found.parts}
    assert names == {"bytecode", "maas_sdk", "rest of the bundle", "main.py, requirements"}
    assert found.nbytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert (zipped.files, zipped.nbytes) == (found.files, found.nbytes)
    assert 0 < sum(p.zipped_nbytes or 0 for p in zipped.parts) < archive.stat().st_size
    check_limits(zipped)
    part = SizePart(name="weights", files=1, nbytes=10**8, zipped_nbytes=10**8 + 1)
    for size in (
        Size(parts=(part,), zipped_nbytes=10**8 + 1),
        Size(parts=(dataclasses.replace(part, nbytes=5 * 10**8 + 1),)),
    ):
        with pytest.raises(ConfigError, match=r"most of it weights .*--bundle-from .*--container"):
            check_limits(size)


def test_one_jaxlib_only() -> None:
    """Executables of two versions of jaxlib cannot run in one function."""
    with pytest.raises(ConfigError, match=r"compiled by jaxlib 0\.10\.1, 0\.10\.2; a function has"):
        requirements(toy_manifest("0.10.2+a", "0.10.1+b"))


def test_corrupt_bundle_is_not_packaged(bundle: Path, tmp_path: Path) -> None:
    """A flipped byte is found while copying; nothing is left behind."""
    (bundle / "programs/predict-b1.stablehlo").write_bytes(b"not reallz")
    with pytest.raises(CorruptError, match=r"predict-b1\.stablehlo: expected sha256"):
        package(bundle, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.maas"]


def test_overwrite_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    """A folder that is there stays, unless it is to be replaced."""
    package(bundle, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        package(bundle, tmp_path / "out")
    (tmp_path / "out" / "extra.txt").write_text("x")
    package(bundle, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "extra.txt").exists()
