"""The store: versions that appear whole, once, and never change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maas_sdk.bundle import BundleWriter, Manifest, open_bundle
from maas_sdk.bundle.manifest import Program
from maas_sdk.errors import ConfigError, CorruptError, NotFoundError
from maas_sdk.store.opening import LocalStore, Store, open_store
from maas_sdk.tensors import Signature


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    program = Program(
        signature=Signature(inputs={}, outputs={}), weights=(), buckets=(1,), row_independent=True
    )
    with BundleWriter(tmp_path / "b.maas") as writer:
        writer.add("assets/a", b"a" * 100)
        writer.seal(Manifest(name="m", programs={"predict": program}, targets={}))
    return tmp_path / "b.maas"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def test_versions_count_up(store: LocalStore, bundle: Path) -> None:
    """Each publication without a version gets the next number; the latest is the default."""
    assert store.models() == []
    assert [store.publish(bundle, "digits") for _ in range(3)] == ["1", "2", "3"]
    assert store.publish(bundle, "digits", 10) == "10"
    assert store.publish(bundle, "digits", "9") == "9"
    assert store.publish(bundle, "digits") == "11"
    assert store.versions("digits") == ["1", "2", "3", "9", "10", "11"]
    assert store.models() == ["digits"]
    assert store.resolve("digits") == store.root / "digits" / "11"
    assert store.resolve("digits", 2) == store.resolve("digits", "2") == store.root / "digits" / "2"
    open_bundle(store.resolve("digits")).check()


def test_what_is_not_there_is_listed_beside_what_is(store: LocalStore, bundle: Path) -> None:
    """A wrong model or version gets the list to choose from."""
    with pytest.raises(NotFoundError, match=r"no model 'digits' in .*store; it has none"):
        store.resolve("digits")
    store.publish(bundle, "a")
    store.publish(bundle, "b")
    store.publish(bundle, "b")
    with pytest.raises(NotFoundError, match=r"no model 'digits' in .*store; it has a, b"):
        store.versions("digits")
    with pytest.raises(NotFoundError, match=r"no version 7 of model 'b' in .*; it has 1, 2"):
        store.resolve("b", 7)


def test_a_version_is_published_once(store: LocalStore, bundle: Path) -> None:
    """A version that exists is refused, and stays as it is."""
    store.publish(bundle, "digits", 4)
    with pytest.raises(ConfigError, match="4 exists already"):
        store.publish(bundle, "digits", 4)


def test_a_published_version_shares_nothing_with_its_source(
    store: LocalStore, bundle: Path
) -> None:
    """Changing the source in place afterwards does not reach the store."""
    store.publish(bundle, "digits")
    with open(bundle / "assets" / "a", "r+b") as file:
        file.write(b"b")
    open_bundle(store.resolve("digits")).check()
    with pytest.raises(CorruptError, match="assets/a: expected sha256"):
        store.publish(bundle, "digits")
    assert os.listdir(store.root / "digits") == ["1"]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b"])
def test_names_that_leave_the_store_are_refused(store: LocalStore, bundle: Path, name: str) -> None:
    """A model's name is one path component."""
    for call in (store.versions, store.resolve, lambda n: store.publish(bundle, n)):
        with pytest.raises(ConfigError, match="is not a model's name"):
            call(name)


@pytest.mark.parametrize("version", ["0", 0, -1, "latest", "01", "1.0", ""])
def test_versions_are_positive_numbers(store: LocalStore, bundle: Path, version: str | int) -> None:
    """Anything else is refused, whether it is asked for or published."""
    store.publish(bundle, "digits")
    for call in (store.resolve, lambda m, v: store.publish(bundle, m, v)):
        with pytest.raises(ConfigError, match="expected a whole number ≥ 1"):
            call("digits", version)


def test_strangers_in_the_store_are_ignored(store: LocalStore, bundle: Path) -> None:
    """Files, hidden folders and remains of dead writers are no models and no versions."""
    store.publish(bundle, "digits")
    (store.root / ".git").mkdir()
    (store.root / "README").write_bytes(b"")
    (store.root / "empty").mkdir()
    for name in (".2.1-12345678.tmp", ".next.1-12345678.tmp", "latest", "007"):
        (store.root / "digits" / name).mkdir()
    assert store.models() == ["digits"]
    assert store.versions("digits") == ["1"]
    assert store.publish(bundle, "digits") == "2"
    assert not (store.root / "digits" / ".next.1-12345678.tmp").exists()


PUBLISH = """
import sys
from maas_sdk.store.opening import LocalStore
store = LocalStore(sys.argv[1])
sys.stdin.readline()
print(*[store.publish(sys.argv[2], "digits") for _ in range(5)])
"""


def test_two_publishers_get_different_versions(store: LocalStore, bundle: Path) -> None:
    """Processes that publish at once never share a version, and none is left out."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(store.root), str(bundle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    versions = [int(v) for child in children for v in child.communicate()[0].split()]
    assert sorted(versions) == list(range(1, 16))
    assert store.versions("digits") == [str(v) for v in range(1, 16)]
    for version in store.versions("digits"):
        open_bundle(store.resolve("digits", version)).check()


def test_urls_name_stores(tmp_path: Path) -> None:
    """A path and a file URL are local stores; what there is no store for says so."""
    for url in (tmp_path, str(tmp_path), f"file://{tmp_path}", f"file://localhost{tmp_path}"):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.root == tmp_path
    assert open_store("file:///a%20b").root == Path("/a b")  # type: ignore[attr-defined]
    for url, message in [
        ("gs://Bucket/models", "'Bucket' is no bucket's name"),
        ("s3://bucket", "no store for s3://; give a folder's path"),
        ("file://host/a", "names no host: write file:///a"),
    ]:
        with pytest.raises(ConfigError, match=message):
            open_store(url)


def test_labels_of_a_folder(store: LocalStore, bundle: Path) -> None:
    """Moved and taken back; they survive the store object, and count only what is there."""
    for _ in range(3):
        store.publish(bundle, "digits")
    assert store.labels("digits") == {}
    assert store.promote("digits", 1) is None
    assert store.promote("digits", 3) == "1"
    assert store.publish(bundle, "digits", label="canary") == "4"
    again = LocalStore(store.root)
    assert again.labels("digits") == {"canary": "4", "stable": "3"}
    assert again.resolve("digits", label="stable").name == "3"
    assert again.rollback("digits") == "1"
    assert [(v.version, v.labels) for v in again.history("digits")] == [
        *(("1", ("stable",)), ("2", ()), ("3", ()), ("4", ("canary",)))
    ]
    assert again.versions("digits") == ["1", "2", "3", "4"]
    with pytest.raises(ConfigError, match="was at no other before"):
        store.rollback("digits")
    with pytest.raises(NotFoundError, match="no version 9"):
        store.promote("digits", 9)
    (store.root / "digits" / ".labels.json").write_text("{")
    with pytest.raises(CorruptError, match=r"holds no labels .* remove it"):
        store.labels("digits")


def test_a_copy_is_ones_own(store: LocalStore, bundle: Path, tmp_path: Path) -> None:
    """Every byte checked, and nothing shared with the store."""
    store.publish(bundle, "digits")
    store.copy("digits", tmp_path / "mine", 1).check()
    with pytest.raises(ConfigError, match="exists already"):
        store.copy("digits", tmp_path / "mine")
    store.copy("digits", tmp_path / "mine", overwrite=True).check()
