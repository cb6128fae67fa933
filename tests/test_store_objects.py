"""Objects: one contract, held by a bucket, a folder and the fake in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maas_sdk.errors import CorruptError, NotFoundError
from maas_sdk.store.gcs import GcsObjects
from maas_sdk.store.objects import MemoryObjects, Objects
from maas_sdk.store.transfer import download, file_checksum
from tests.kit import gcs as cloud
from tests.kit.folder_objects import FolderObjects


@pytest.fixture(params=["gs", "folder", "memory"])
def objects(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Objects]:
    if request.param == "folder":
        yield FolderObjects(tmp_path / "objects")
    elif request.param == "memory":
        yield MemoryObjects()
    else:
        with cloud.bucket(monkeypatch):
            yield GcsObjects("bucket", "some/prefix", part_bytes=100_000)


def test_an_object_is_replaced_only_by_who_has_seen_it(objects: Objects) -> None:
    """A write names the generation that it replaces, 0 for none; another one changes nothing."""
    assert objects.stat("a/b") is None
    assert objects.read("a/b") is None
    first = objects.write("a/b", b"one", generation=0)
    assert first is not None
    assert first.generation != 0
    assert objects.stat("a/b") == first
    assert objects.write("a/b", b"two", generation=0) is None
    assert objects.write("a/b", b"two", generation=first.generation + 1) is None
    assert objects.read("a/b") == (b"one", first)
    second = objects.write("a/b", b"second", generation=first.generation)
    assert second is not None
    assert objects.read("a/b") == (b"second", second)
    assert second.size_bytes == 6
    assert objects.write("a/c", b"", generation=first.generation) is None


def test_only_the_state_that_was_seen_is_deleted(objects: Objects) -> None:
    """An object that was written or refreshed meanwhile stays; bytes survive a refresh."""
    first = objects.write("x", b"one", generation=0)
    assert first is not None
    second = objects.write("x", b"two", generation=first.generation)
    assert second is not None
    assert not objects.delete(first)
    assert objects.refresh(first) is None
    third = objects.refresh(second)
    assert third is not None
    assert third.changed_s >= second.changed_s
    assert not objects.delete(second)
    assert objects.read("x") == (b"two", third)
    assert objects.delete(third)
    assert not objects.delete(third)
    assert objects.refresh(third) is None
    assert objects.stat("x") is None


def test_objects_are_listed_by_prefix(objects: Objects) -> None:
    """By name; a prefix need not end at a slash."""
    for name in ("models/b.json", "models/a.json", "objects/ab/c", "modest"):
        assert objects.write(name, b"1", generation=0)
    assert [i.name for i in objects.find("models/")] == ["models/a.json", "models/b.json"]
    assert [i.name for i in objects.find("mode")] == ["models/a.json", "models/b.json", "modest"]
    assert objects.find("nothing/") == []


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, 550_000])
def test_a_file_comes_back_by_ranges(objects: Objects, tmp_path: Path, size: int) -> None:
    """Of one part or several; any range of it; nothing else is left behind."""
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    info = objects.upload("objects/x", tmp_path / "file", checksum=objects.checksum(data))
    assert info is not None
    assert info.size_bytes == size
    assert info.checksum in (None, objects.checksum(data))
    assert objects.find("") == [info]
    for start, stop in ((0, size), (size // 3, size // 2), (max(size - 1, 0), size)):
        target = bytearray(stop - start)
        if target:
            objects.read_into(info, start, memoryview(target))
        assert target == data[start:stop]
    assert objects.upload("objects/x", tmp_path / "file", checksum=objects.checksum(data)) is None
    assert objects.find("") == [info]


@pytest.mark.parametrize("size", [10, 250_000])
def test_a_file_that_changes_on_its_way_is_not_kept(
    objects: Objects, tmp_path: Path, size: int
) -> None:
    """Bytes other than those that were checked are refused, and nothing is there."""
    (tmp_path / "file").write_bytes(bytes(size))
    with pytest.raises(CorruptError, match=r"file: what arrived at .* has another checksum"):
        objects.upload("objects/x", tmp_path / "file", checksum=12345)
    assert objects.find("") == []


def test_an_object_that_is_gone_is_told(objects: Objects) -> None:
    """A range of an object that was deleted, or replaced, is not filled with something else."""
    info = objects.write("x", b"12345", generation=0)
    assert info is not None
    assert objects.delete(info)
    with pytest.raises(NotFoundError, match="object x is gone"):
        objects.read_into(info, 0, memoryview(bytearray(5)))


def test_one_of_many_wins(objects: Objects) -> None:
    """Threads that add to a number by compare-and-swap lose no addition."""
    assert objects.write("n", b"0", generation=0)
    barrier = threading.Barrier(4)

    def add() -> None:
        barrier.wait()
        for _ in range(5):
            while True:
                found = objects.read("n")
                assert found is not None
                more = str(int(found[0]) + 1).encode()
                if objects.write("n", more, generation=found[1].generation):
                    break

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(add) for _ in range(4)]:
            future.result()
    found = objects.read("n")
    assert found is not None
    assert found[0] == b"20"


def test_a_download_is_of_the_state_that_was_seen(objects: Objects, tmp_path: Path) -> None:
    """Any size, whole; one that was replaced, or garbled on its way, is not believed."""
    for size in (0, 1, 300_000):
        data = os.urandom(size)
        info = objects.write(f"of-{size}", data, generation=0)
        assert info is not None
        download(objects, info, tmp_path / str(size))
        assert (tmp_path / str(size)).read_bytes() == data
    assert info.checksum is None or file_checksum(objects, tmp_path / "300000") == info.checksum
    garbled = info._replace(checksum=(info.checksum or 0) ^ 1)
    with pytest.raises(CorruptError, match="of-300000 was garbled on its way here, twice"):
        download(objects, garbled, tmp_path / "garbled")
    assert objects.write(info.name, b"x" * 300_000, generation=info.generation)
    with pytest.raises(NotFoundError):
        download(objects, info, tmp_path / "replaced")
