"""The store over objects: versions whole or not at all, sent once, collected late."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maas_sdk.bundle import open_bundle
from maas_sdk.errors import ConfigError, CorruptError, NotFoundError
from maas_sdk.store.cache import BundleCache
from maas_sdk.store.garbage_collection import FRESH_S, MIN_AGE_S
from maas_sdk.store.gcs import GcsObjects
from maas_sdk.store.objects import MemoryObjects, ObjectInfo, Objects
from maas_sdk.store.remote import RemoteStore
from tests.kit import gcs as cloud
from tests.kit.folder_objects import FolderObjects
from tests.kit.stores import make_bundle

NOW = 1_800_000_000.0


class Clock:
    """Seconds since the epoch, as a test sets them."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> MemoryObjects:
    return MemoryObjects(clock=clock)


@pytest.fixture
def cache(tmp_path: Path) -> BundleCache:
    return BundleCache(tmp_path / "cache")


@pytest.fixture
def store(memory: MemoryObjects, cache: BundleCache, clock: Clock) -> RemoteStore:
    return RemoteStore(memory, cache, clock)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "1.maas", 1)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "2.maas", 2)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(params=["gs", "folder", "memory"])
def anywhere(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    cache: BundleCache,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RemoteStore]:
    if request.param == "folder":
        yield RemoteStore(FolderObjects(tmp_path / "objects"), cache)
    elif request.param == "memory":
        yield RemoteStore(MemoryObjects(), cache)
    else:
        with cloud.bucket(monkeypatch):
            yield RemoteStore(GcsObjects("bucket", "p", part_bytes=40_000), cache)


def test_a_version_comes_back_byte_for_byte(
    anywhere: RemoteStore, bundle: Path, other: Path, tmp_path: Path
) -> None:
    """Through the cache and as a copy of one's own, from a bucket, a folder and memory."""
    assert anywhere.models() == []
    assert anywhere.publish(bundle, "digits") == "1"
    assert anywhere.publish(other, "digits", 7, label="stable") == "7"
    assert anywhere.publish(bundle, "digits") == "8"
    assert anywhere.versions("digits") == ["1", "7", "8"]
    assert anywhere.models() == ["digits"]
    assert anywhere.labels("digits") == {"stable": "7"}
    assert tree(anywhere.resolve("digits")) == tree(bundle)
    assert tree(anywhere.resolve("digits", label="stable")) == tree(other)
    assert tree(anywhere.copy("digits", tmp_path / "mine", 7).path) == tree(other)
    open_bundle(tmp_path / "mine").check()
    history = anywhere.history("digits")
    assert [(found.version, found.labels) for found in history] == [
        *(("1", ()), ("7", ("stable",)), ("8", ()))
    ]
    assert history[0].total_bytes == sum(map(len, tree(bundle).values()))


def test_what_is_there_is_not_sent_again(store: RemoteStore, bundle: Path, other: Path) -> None:
    """Two versions that differ in weights share all the rest; the same bundle again adds none."""
    store.publish(bundle, "digits")
    before = {info.name for info in store.objects.find("objects/")}
    store.publish(other, "digits")
    new = {info.name for info in store.objects.find("objects/")} - before
    weights = open_bundle(other).manifest.files["weights.safetensors"].sha256
    assert len(new) == 2  # weights and manifest
    assert f"objects/{weights[:2]}/{weights}" in new
    store.publish(other, "another")
    assert {info.name for info in store.objects.find("objects/")} == before | new


def test_what_is_not_there_is_listed_beside_what_is(store: RemoteStore, bundle: Path) -> None:
    """A wrong model, version or label gets the list to choose from."""
    with pytest.raises(NotFoundError, match=r"no model 'digits' in memory://objects; it has none"):
        store.resolve("digits")
    store.publish(bundle, "a")
    store.publish(bundle, "b")
    with pytest.raises(NotFoundError, match=r"no model 'digits' in .*; it has a, b"):
        store.versions("digits")
    with pytest.raises(NotFoundError, match=r"no version 7 of model 'b' in .*; it has 1"):
        store.resolve("b", 7)
    with pytest.raises(NotFoundError, match=r"no label 'stable' at .*; it has none: set it with"):
        store.resolve("b", label="stable")
    for version in ("0", "latest", "01", ""):
        with pytest.raises(ConfigError, match="expected a whole number ≥ 1"):
            store.resolve("b", version)
        with pytest.raises(ConfigError, match="expected a whole number ≥ 1"):
            store.publish(bundle, "b", version)
    with pytest.raises(ConfigError, match="is not a model's name"):
        store.publish(bundle, "../b")
    with pytest.raises(ConfigError, match="label '3': expected a letter"):
        store.publish(bundle, "b", label="3")


def test_a_version_is_published_once(
    store: RemoteStore, memory: MemoryObjects, bundle: Path, other: Path
) -> None:
    """One that is taken is refused before anything is sent, and stays as it is."""
    store.publish(bundle, "digits", 4)
    before = memory.find("")
    with pytest.raises(ConfigError, match="version 4 exists already") as caught:
        store.publish(other, "digits", 4)
    assert caught.value.evidence["exists"]
    assert memory.find("") == before


def test_a_bundle_that_is_damaged_is_not_published(
    store: RemoteStore, memory: MemoryObjects, bundle: Path
) -> None:
    """A byte that differs from what was sealed: nothing points at anything, the file is named."""
    with open(bundle / "weights.safetensors", "r+b") as file:
        file.seek(500)
        file.write(b"\0\1\2")
    with pytest.raises(CorruptError, match=r"weights.safetensors: expected .* sha256"):
        store.publish(bundle, "digits")
    assert memory.find("models/") == []


def test_publishers_at_once_get_numbers_of_their_own(
    anywhere: RemoteStore, bundle: Path, other: Path
) -> None:
    """None is lost and none is shared; of two who want the same number one is told."""
    barrier = threading.Barrier(4)

    def publish(path: Path) -> str:
        barrier.wait()
        return anywhere.publish(path, "digits")

    def insist() -> str:
        barrier.wait()
        try:
            return anywhere.publish(bundle, "digits", 50)
        except ConfigError as error:
            return error.message

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(publish, path) for path in (bundle, other, bundle, other)]
        assert sorted(job.result() for job in jobs) == ["1", "2", "3", "4"]
        jobs = [pool.submit(insist) for _ in range(4)]
        told = sorted((job.result() for job in jobs), key=len)
    assert told[0] == "50"
    assert all("version 50 exists already" in message for message in told[1:])
    assert anywhere.versions("digits") == ["1", "2", "3", "4", "50"]


def test_an_answer_that_is_lost_is_no_second_version(
    store: RemoteStore, memory: MemoryObjects, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap that went through and was not answered is known again: one version, one step back."""
    write = memory.write

    def forgetful(name: str, data: bytes, *, generation: int) -> ObjectInfo | None:
        done = write(name, data, generation=generation)
        return None if name.startswith("models/") else done

    monkeypatch.setattr(memory, "write", forgetful)
    assert store.publish(bundle, "digits", label="stable") == "1"
    assert store.publish(bundle, "digits", 5, label="stable") == "5"
    assert store.publish(bundle, "digits", label="stable") == "6"
    assert store.versions("digits") == ["1", "5", "6"]
    assert store.rollback("digits") == "5"
    assert store.labels("digits") == {"stable": "5"}
    assert store.promote("digits", 1) == "5"
    assert store.rollback("digits") == "5"


def test_promote_and_roll_back(store: RemoteStore, bundle: Path) -> None:
    """A label is moved and taken back, versions are not touched, and what cannot be is told."""
    for _ in range(3):
        store.publish(bundle, "digits")
    assert store.promote("digits", 1) is None
    assert store.promote("digits", "3") == "1"
    assert store.promote("digits", 2, "canary") is None
    assert store.labels("digits") == {"canary": "2", "stable": "3"}
    assert store.rollback("digits") == "1"
    with pytest.raises(ConfigError, match="was at no other before"):
        store.rollback("digits")
    with pytest.raises(NotFoundError, match="no version 9 of model 'digits'"):
        store.promote("digits", 9)
    with pytest.raises(NotFoundError, match="no label 'blue'"):
        store.rollback("digits", "blue")
    assert store.labels("digits") == {"canary": "2", "stable": "1"}


def orphan(memory: MemoryObjects) -> None:
    assert memory.write("objects/ff/" + "ff" * 32, b"12345", generation=0)


def test_garbage_is_what_is_old_and_of_no_version(
    store: RemoteStore, memory: MemoryObjects, bundle: Path, other: Path, clock: Clock
) -> None:
    """Young objects and those of any published version stay; a trial deletes nothing."""
    store.publish(bundle, "a")
    store.publish(other, "b")
    published = memory.find("objects/")
    orphan(memory)
    assert memory.write("uploads/x", b"", generation=0)
    assert store.collect(age_s=MIN_AGE_S).objects == 0
    clock.now += MIN_AGE_S + 1
    assert store.collect(age_s=MIN_AGE_S, dry_run=True)[1:] == (2, 5)
    assert len(memory.find("objects/")) == len(published) + 1
    assert store.collect(age_s=MIN_AGE_S)[1:] == (2, 5)
    assert memory.find("objects/") == published
    assert memory.find("uploads/") == []
    for model, path in (("a", bundle), ("b", other)):
        assert tree(store.resolve(model)) == tree(path)


def test_a_retired_version_goes_an_age_later(
    store: RemoteStore, bundle: Path, other: Path, tmp_path: Path, clock: Clock
) -> None:
    """Who still reads it can finish; what labels are at or were at, and the latest, stay."""
    third = make_bundle(tmp_path / "3.maas", 3)
    for path in (other, bundle, other, third, bundle):
        store.publish(path, "digits")
    store.promote("digits", 2)
    clock.now += 10 * MIN_AGE_S
    assert store.collect(keep=1, age_s=MIN_AGE_S).retired == {"digits": ["1", "3", "4"]}
    assert store.versions("digits") == ["2", "5"]
    with pytest.raises(NotFoundError, match=r"no version 4 .* which was retired; it has 2, 5"):
        store.resolve("digits", 4)
    assert store.collect(age_s=MIN_AGE_S).objects == 0
    clock.now += MIN_AGE_S + 1
    # Weights and manifests of two versions; the rest is shared with those that stay.
    assert store.collect(age_s=MIN_AGE_S).objects == 4
    assert tree(store.resolve("digits", 2)) == tree(bundle)
    assert store.publish(bundle, "digits") == "6"


def test_collecting_never_breaks_a_publication(
    store: RemoteStore, memory: MemoryObjects, bundle: Path, other: Path, clock: Clock
) -> None:
    """A publisher that takes over an old orphan keeps it, though the collector has listed it."""
    store.publish(bundle, "digits")
    for info in memory.find("models/"):
        memory.delete(info)  # everything is an orphan now
    clock.now += 100 * MIN_AGE_S
    delete, found = memory.delete, []

    def publish_first(info: ObjectInfo) -> bool:
        if not found:
            found.append(store.publish(bundle, "digits"))
        return delete(info)

    memory.delete = publish_first  # type: ignore[method-assign]
    assert store.collect(age_s=MIN_AGE_S).objects == 0
    assert found == ["1"]
    assert tree(store.resolve("digits")) == tree(bundle)


def test_a_slow_publisher_looks_again(
    store: RemoteStore, memory: MemoryObjects, bundle: Path, clock: Clock
) -> None:
    """Objects that could have been collected while he was sending are there when he swaps."""
    upload, sent = memory.upload, []
    one_at_a_time = threading.Lock()

    def slow(name: str, path: Path, **options: int) -> ObjectInfo | None:
        with one_at_a_time:
            done = upload(name, path, **options)
            sent.append(name)
            if len(sent) == 7:
                clock.now += FRESH_S * 3
                assert store.collect(age_s=MIN_AGE_S).objects >= 6
            return done

    memory.upload = slow  # type: ignore[method-assign]
    store.publish(bundle, "digits")
    assert len(sent) > len(set(sent))
    assert tree(store.resolve("digits")) == tree(bundle)


def test_collecting_stops_at_what_it_cannot_read(
    store: RemoteStore, memory: MemoryObjects, bundle: Path, clock: Clock
) -> None:
    """A pointer or a manifest that is damaged: an error, and nothing is deleted."""
    store.publish(bundle, "digits")
    orphan(memory)
    clock.now += 10 * MIN_AGE_S
    [info] = memory.find("models/")
    pointer, _ = memory.read(info.name) or (b"", None)
    spoilt = memory.write(info.name, b"{}", generation=info.generation)
    assert spoilt is not None
    before = memory.find("objects/")
    with pytest.raises(CorruptError, match=r"models/digits.json does not name the versions"):
        store.collect()
    assert memory.find("objects/") == before
    assert memory.write(info.name, pointer, generation=spoilt.generation)
    sha256 = store._pointers.known("digits").versions["1"].heads["manifest.json"].sha256
    manifest = memory.stat(f"objects/{sha256[:2]}/{sha256}")
    assert manifest is not None
    assert memory.write(manifest.name, b"{}", generation=manifest.generation)
    with pytest.raises(CorruptError, match=r"the bytes of objects/.* are not those of its name"):
        store.collect()


def test_ages_and_counts_that_would_break_things_are_refused(store: RemoteStore) -> None:
    """An age under two hours, or no version kept."""
    with pytest.raises(ConfigError, match="expected at least 7200, two hours"):
        store.collect(age_s=10)
    with pytest.raises(ConfigError, match="expected at least 1"):
        store.collect(keep=0)


@pytest.fixture
def spoil(memory: MemoryObjects) -> Callable[[Path, bytes | None], None]:
    """Makes the stored weights of a bundle other bytes, or none."""

    def change(bundle: Path, data: bytes | None) -> None:
        sha256 = open_bundle(bundle).manifest.files["weights.safetensors"].sha256
        info = memory.stat(f"objects/{sha256[:2]}/{sha256}")
        assert info is not None
        assert memory.delete(info)
        if data is not None:
            assert memory.write(info.name, data, generation=0)

    return change


def test_stored_bytes_that_are_others_are_not_opened(
    store: RemoteStore,
    cache: BundleCache,
    bundle: Path,
    tmp_path: Path,
    spoil: Callable[[Path, bytes | None], None],
) -> None:
    """Cut, changed or gone: an error that names the object; nothing is kept; publishing heals."""
    store.publish(bundle, "digits")
    size = (bundle / "weights.safetensors").stat().st_size
    for data, message in (
        (b"short", "the bytes of objects/.* are not those of its name"),
        (os.urandom(size), "the bytes of objects/.* are not those of its name"),
        (None, "objects/.*, which a published version needs, is not there: publish"),
    ):
        spoil(bundle, data)
        for attempt in (
            lambda: store.resolve("digits"),
            lambda: store.copy("digits", tmp_path / "out"),
        ):
            with pytest.raises(CorruptError, match=message):
                attempt()
        assert not (tmp_path / "out").exists()
        assert list((cache.folder / "bundles").iterdir()) == []
        store.publish(bundle, "digits")
        assert tree(store.copy("digits", tmp_path / "out").path) == tree(bundle)
        os.rename(tmp_path / "out", tmp_path / f"out{size}{data is None}{len(data or b'')}")


def test_the_fake_is_a_seam(store: RemoteStore) -> None:
    """What the store needs of objects is the protocol, and no more."""
    objects: Objects = store.objects
    assert objects.url == store.url == "memory://objects"
