"""The cache of bundles: fetched once, bounded, shared by processes, never believed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maas_sdk.bundle import open_bundle
from maas_sdk.errors import ConfigError, StorageError
from maas_sdk.store.cache import BundleCache, default_cache
from maas_sdk.store.objects import MemoryObjects, ObjectInfo
from maas_sdk.store.remote import RemoteStore
from tests.kit.folder_objects import FolderObjects
from tests.kit.stores import make_bundle

SIZE = 100_000


class Counting(MemoryObjects):
    """Counts the bytes that are fetched."""

    fetched = 0

    def read_into(self, info: ObjectInfo, start: int, target: memoryview) -> None:
        self.fetched += len(target)
        super().read_into(info, start, target)


@pytest.fixture
def objects(tmp_path: Path) -> Counting:
    """Models a, b, c: a version each, with weights of 100 kB."""
    objects = Counting()
    for seed, name in enumerate("abc"):
        bundle = make_bundle(tmp_path / f"{name}.maas", seed, SIZE)
        RemoteStore(objects).publish(bundle, name)
    return objects


def open_at(objects: MemoryObjects, folder: Path, max_bytes: int = 10 * SIZE) -> RemoteStore:
    return RemoteStore(objects, BundleCache(folder, max_bytes=max_bytes))


def test_a_bundle_is_fetched_once(objects: Counting, tmp_path: Path) -> None:
    """A second store on the same folder reads the pointer alone."""
    path = open_at(objects, tmp_path / "cache").resolve("a")
    open_bundle(path).check()
    before = objects.fetched
    assert before > SIZE
    assert open_at(objects, tmp_path / "cache").resolve("a") == path
    assert objects.fetched == before


def test_a_version_with_other_weights_fetches_weights(objects: Counting, tmp_path: Path) -> None:
    """Files that another bundle has are linked, not fetched."""
    store = open_at(objects, tmp_path / "cache")
    store.resolve("a")
    before = objects.fetched
    open_bundle(store.resolve("b")).check()
    new = open_bundle(store.resolve("b"))
    sizes = (new.path / "weights.safetensors").stat().st_size
    assert objects.fetched - before == sizes + (new.path / "manifest.json").stat().st_size


def test_the_bound_holds_and_what_was_not_used_goes_first(
    objects: Counting, tmp_path: Path
) -> None:
    """Room is made by removing the bundle that was not used for longest."""
    folder = tmp_path / "cache"
    bound = int(2.5 * SIZE)
    paths = {}
    for name in ("a", "b", "a", "c"):  # each in a life of its own: nothing is held
        cache = BundleCache(folder, max_bytes=bound)
        paths[name] = RemoteStore(objects, cache).resolve(name)
        assert cache.nbytes() <= bound
        cache.release(paths[name])
        time.sleep(0.01)
    assert paths["a"].exists()
    assert paths["c"].exists()
    assert not paths["b"].exists()
    kept = {path.name for path in (folder / "objects").iterdir()}
    used = {e.sha256 for n in "ac" for e in open_bundle(paths[n]).manifest.files.values()}
    assert used <= kept
    assert len(kept) == len(used) + 2  # and two manifests


def test_a_bundle_in_use_stays(objects: Counting, tmp_path: Path) -> None:
    """Also one of another cache on the same folder; who finds no room is told what to set."""
    holder = BundleCache(tmp_path / "cache", max_bytes=int(1.5 * SIZE))
    path = RemoteStore(objects, holder).resolve("a")
    store = open_at(objects, tmp_path / "cache", int(1.5 * SIZE))
    with pytest.raises(StorageError, match="are there and in use, and the bound is 150000; set"):
        store.resolve("b")
    open_bundle(path).check()
    holder.release(path)
    open_bundle(store.resolve("b")).check()
    assert not path.exists()
    with pytest.raises(StorageError, match="no room for"):
        open_at(objects, tmp_path / "small", 10).resolve("a")


def test_what_lies_there_is_not_believed(objects: Counting, tmp_path: Path) -> None:
    """A manifest, or a size, that is another: fetched anew. A rotten file is not passed on."""
    folder = tmp_path / "cache"

    def resolve(name: str) -> Path:
        cache = BundleCache(folder)
        path = RemoteStore(objects, cache).resolve(name)
        cache.release(path)
        return path

    path = resolve("a")
    for name in ("manifest.json", "weights.safetensors"):
        os.chmod(path / name, 0o600)
        with open(path / name, "ab") as file:
            file.write(b" ")
        open_bundle(resolve("a")).check()
    (path / "assets" / "empty").unlink()
    open_bundle(resolve("a")).check()
    (path / "more").write_bytes(b"")
    open_bundle(resolve("a")).check()
    program = path / "programs" / "predict-b3.stablehlo"
    os.chmod(program, 0o600)
    program.write_bytes(b"x" * 1000)
    open_bundle(resolve("b")).check()


def test_a_damaged_bundle_that_is_held_is_told(
    objects: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be replaced under the process that has it; once that is gone it is."""
    monkeypatch.setattr("maas_sdk.store.cache._PAUSE_S", 0.001)
    holder = BundleCache(tmp_path / "cache")
    path = RemoteStore(objects, holder).resolve("a")
    (path / "assets" / "empty").unlink()
    with pytest.raises(StorageError, match="not the bundle of its name any more, and a process"):
        open_at(objects, tmp_path / "cache").resolve("a")
    holder.release(path)
    open_bundle(open_at(objects, tmp_path / "cache").resolve("a")).check()


def test_a_bundle_deleted_by_hand_is_fetched_again(objects: Counting, tmp_path: Path) -> None:
    """Also in the process that had it."""
    store = open_at(objects, tmp_path / "cache")
    shutil.rmtree(store.resolve("a"))
    open_bundle(store.resolve("a")).check()


def test_a_folder_of_others_is_refused(objects: Counting, tmp_path: Path) -> None:
    """What is in it is run, so nobody else may write to it."""
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StorageError, match=r"others may write to it, .* MAAS_BUNDLE_CACHE"):
        open_at(objects, folder).resolve("a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used to keep bundles"):
        open_at(objects, tmp_path / "file").resolve("a")


def test_the_environment_says_where_and_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the user's cache and 20 GiB; what is no number is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MAAS_BUNDLE_CACHE", raising=False)
    assert default_cache().folder == tmp_path / "maas-sdk" / "bundles"
    assert default_cache().max_bytes == 20 * 2**30
    monkeypatch.setenv("MAAS_BUNDLE_CACHE", str(tmp_path / "x"))
    monkeypatch.setenv("MAAS_BUNDLE_CACHE_BYTES", "1000")
    assert (default_cache().folder, default_cache().max_bytes) == (tmp_path / "x", 1000)
    monkeypatch.setenv("MAAS_BUNDLE_CACHE_BYTES", "1 GB")
    with pytest.raises(ConfigError, match="MAAS_BUNDLE_CACHE_BYTES is '1 GB'"):
        default_cache()


def test_a_full_disk_is_told(
    objects: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written through a map, and nothing is left."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="no room to write it"):
        open_at(objects, tmp_path / "cache").resolve("a")
    assert list((tmp_path / "cache" / "bundles").iterdir()) == []


FETCH = """
import sys
from pathlib import Path
from maas_sdk.store.cache import BundleCache
from maas_sdk.bundle.folder import open_bundle
from tests.kit.folder_objects import FolderObjects
from maas_sdk.store.remote import RemoteStore

class Counting(FolderObjects):
    fetched = 0
    def read_into(self, info, start, target):
        super().read_into(info, start, target)
        self.fetched += len(target)

objects = Counting(Path(sys.argv[1]))
store = RemoteStore(objects, BundleCache(Path(sys.argv[2]), max_bytes=int(sys.argv[3])))
print("ready", flush=True)
sys.stdin.readline()
for name in sys.argv[4]:
    path = store.resolve(name)
    open_bundle(path).check()
    store._cache.release(path)
print(objects.fetched)
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The three models in a folder of objects."""
    store = RemoteStore(FolderObjects(tmp_path / "shared"))
    for seed, name in enumerate("abc"):
        store.publish(make_bundle(tmp_path / f"{name}{seed}.maas", seed, 20 * SIZE), name)
    return tmp_path / "shared"


def start(*arguments: object) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", FETCH, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,  # where tests.kit is found
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_processes_at_once_fetch_once(shared: Path, tmp_path: Path) -> None:
    """The others wait for the first, then open what it has fetched."""
    children = [start(shared, tmp_path / "cache", 10**9, "a") for _ in range(3)]
    fetched = sorted(int(child.communicate("\n")[0]) for child in children)
    assert all(child.returncode == 0 for child in children)
    assert fetched[:2] == [0, 0]
    assert fetched[2] > 20 * SIZE


def test_processes_that_crowd_one_another_out_see_whole_bundles(
    shared: Path, tmp_path: Path
) -> None:
    """Room for two of three: each process checks every byte of what it gets, time and again."""
    names = ["abcabc", "cbacba", "bcabca"]
    children = [start(shared, tmp_path / "cache", 70 * SIZE, name) for name in names]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda child: child.communicate("\n"), children))
    assert [child.returncode for child in children] == [0, 0, 0]
    assert BundleCache(tmp_path / "cache").nbytes() <= 70 * SIZE


def test_a_fetch_that_is_killed_leaves_nothing_half(shared: Path, tmp_path: Path) -> None:
    """At eight random moments; the next one has the bundle whole, and sweeps up."""
    rng = random.Random(0)
    for _ in range(8):
        child = start(shared, tmp_path / "cache", 10**9, "abc")
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        time.sleep(rng.random() * 0.06)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        for path in (tmp_path / "cache" / "bundles").glob("[0-9a-f]*"):
            open_bundle(path).check()
    cache = BundleCache(tmp_path / "cache")
    store = RemoteStore(FolderObjects(shared), cache)
    for name in "abc":
        open_bundle(store.resolve(name)).check()
    make_bundle(tmp_path / "d.maas", 9)
    store.publish(tmp_path / "d.maas", "d")
    store.resolve("d")
    assert not list((tmp_path / "cache" / "bundles").glob(".*"))
