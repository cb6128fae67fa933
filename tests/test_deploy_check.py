"""``maas package --check``: a zip that was started by itself, and asked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.deploy.archive import zip_folder
from maas_sdk.deploy.check import check_zip
from maas_sdk.deploy.check_batch import check_batch_zip
from maas_sdk.deploy.package import package
from maas_sdk.errors import ConfigError, CorruptError, ModelError, TransportError
from maas_sdk.export import ProgramSpec, default_targets, export

X = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(
        lambda weights, inputs: {"y": inputs["x"] @ weights["w"]},
        {"x": X},
        path=tmp_path_factory.mktemp("model") / "toy.maas",
        name="toy",
        weights={"w": np.eye(2, dtype=np.float32)},
        programs={"predict": None, "double": ProgramSpec(fn=lambda weights, i: i["x"] * 2)},
        targets=default_targets()[:1],
    ).path


@pytest.fixture(scope="module")
def archive(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("function")
    return zip_folder(package(bundle, folder / "out"), folder / "out.zip")


def rezip(archive: Path, target: Path, name: str, change) -> Path:
    """The zip with one file changed."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as out:
        for info in source.infolist():
            data = source.read(info)
            out.writestr(info, change(data) if info.filename == name else data)
    return target


def test_a_good_zip_passes(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program, all golden rows, in this interpreter, none of whose variables reach it."""
    monkeypatch.setenv("MAAS_BUNDLE", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    found = check_zip(archive, environment="this")
    assert found.programs == {"predict": 3, "double": 3}
    assert (found.environment, found.tier, found.bundle) == ("this", "executable", "inside")
    assert found.first_answer_s > 0
    assert found.install_s == 0


@pytest.mark.slow
def test_a_good_zip_needs_only_its_requirements(archive: Path) -> None:
    """In an environment made of requirements.txt, where an index can be reached."""
    found = check_zip(archive)
    if found.environment != "installed":
        pytest.skip(found.why)
    assert found.why == "requirements.txt, with hashes"
    assert found.install_s > 0


def test_the_zip_itself_is_what_runs(archive: Path, tmp_path: Path) -> None:
    """A zip whose own package is broken fails, though this environment has a good one."""
    broken = rezip(
        archive,
        tmp_path / "b.zip",
        "maas_sdk/serve/shells/function.py",
        lambda data: b"raise OSError(7)",
    )
    # Bytecode that is not checked would hide it.
    with zipfile.ZipFile(broken) as source, zipfile.ZipFile(tmp_path / "c.zip", "w") as out:
        for info in source.infolist():
            if "serve/shells/__pycache__/function" not in info.filename:
                out.writestr(info, source.read(info))
    with pytest.raises(TransportError, match=r"OSError: 7"):
        check_zip(tmp_path / "c.zip", environment="this")


def test_wrong_answers_are_found(archive: Path, tmp_path: Path) -> None:
    """A function that answers anything but the reference's outputs does not pass."""
    source = b"""
import functions_framework
@functions_framework.http
def predict(request):
    return "no", 500
"""
    wrong = rezip(archive, tmp_path / "w.zip", "main.py", lambda data: source)
    with pytest.raises(ModelError, match=r"program '\w+' answers with status 500: no"):
        check_zip(wrong, environment="this")


def test_a_bundle_that_is_fetched_is_handed_in(bundle: Path, tmp_path: Path) -> None:
    """No account is needed to check it; without the bundle nothing can be checked."""
    folder = package(bundle, tmp_path / "out", bundle_from="gs://models/toy@1")
    archive = zip_folder(folder, tmp_path / "out.zip")
    assert check_zip(archive, bundle=bundle, environment="this").bundle == "handed in"
    with pytest.raises(ConfigError, match="give the bundle's folder as well"):
        check_zip(archive, environment="this")


def test_a_cut_zip_is_named(archive: Path, tmp_path: Path) -> None:
    """Half an upload is no function."""
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(CorruptError, match=r"cut\.zip is no whole zip file"):
        check_zip(cut, environment="this")


@pytest.fixture(scope="module")
def batch_archive(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    return zip_folder(package(bundle, folder / "out", function="batch"), folder / "out.zip")


def test_a_batch_function_answers_its_golden_rows(batch_archive: Path) -> None:
    """By what is in the zip, and the function takes an event."""
    found = check_batch_zip(batch_archive, environment="this")
    assert found.programs == {"predict": 3, "double": 3}
    assert (found.environment, found.tier, found.bundle) == ("this", "executable", "inside")


def test_a_broken_batch_function_fails_its_check(batch_archive: Path, tmp_path: Path) -> None:
    """Readers that cannot be imported, or a main.py that does not start."""

    def broken(name: str) -> Path:
        target = tmp_path / f"{name.replace('/', '-')}.zip"
        with zipfile.ZipFile(batch_archive) as source, zipfile.ZipFile(target, "w") as out:
            for info in source.infolist():
                # Bytecode that is not checked would hide it.
                if "tables/__pycache__" not in info.filename:
                    data = b"raise OSError(7)" if info.filename == name else source.read(info)
                    out.writestr(info, data)
        return target

    with pytest.raises(ModelError, match=r"golden rows get no answers: .*OSError: 7"):
        check_batch_zip(broken("maas_sdk/tables/numpy_file.py"), environment="this")
    with pytest.raises(TransportError, match=r"OSError: 7"):
        check_batch_zip(broken("main.py"), environment="this")
