from __future__ import annotations

import os
import subprocess
import sys

import pytest

from maas_sdk.runtime.cache import CompileCache, default_cache_dir

PARTS = {"jaxlib": "0.10.2+990e6a0b", "arch": "x86_64", "cpu_features": ("avx2", "fma")}


@pytest.fixture
def cache(tmp_path):
    return CompileCache(tmp_path / "a" / "programs")


def test_what_was_put_comes_back(cache):
    """An entry survives another cache object; an unknown key has none."""
    cache.put("k", b"code")
    assert CompileCache(cache.folder).get("k") == b"code"
    assert cache.get("other") is None
    assert [path.name for path in cache.folder.iterdir()] == ["k.xla"]


def test_the_key_names_everything_that_decides(monkeypatch):
    """Another program, jaxlib, architecture, processor or XLA flag: another key. Order is none."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    key = CompileCache.key("0" * 64, **PARTS)
    others = [
        CompileCache.key("1" * 64, **PARTS),
        CompileCache.key("0" * 64, **{**PARTS, "jaxlib": "0.10.2+aaaaaaaa"}),
        CompileCache.key("0" * 64, **{**PARTS, "arch": "aarch64"}),
        CompileCache.key("0" * 64, **{**PARTS, "cpu_features": ("avx2",)}),
    ]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    others.append(CompileCache.key("0" * 64, **PARTS))
    assert len({key, *others}) == 6
    monkeypatch.delenv("XLA_FLAGS")
    assert CompileCache.key("0" * 64, **{**PARTS, "cpu_features": {"fma", "avx2"}}) == key


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_not_used(mode, cache):
    """Neither read nor written: an entry is code."""
    cache.put("k", b"code")
    cache.folder.chmod(mode)
    assert cache.get("k") is None
    cache.put("new", b"code")
    assert [path.name for path in cache.folder.iterdir()] == ["k.xla"]


def test_the_folder_is_made_for_its_owner_alone(cache):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        cache.put("k", b"code")
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
)
def test_a_damaged_entry_is_as_if_it_were_not_there(damage, cache):
    """Cut, grown or flipped: ignored, and replaced by the next put."""
    cache.put("k", b"code" * 100)
    file = cache.folder / "k.xla"
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get("k") is None
    cache.put("k", b"again")
    assert cache.get("k") == b"again"


def test_a_folder_that_cannot_be_made_is_harmless(tmp_path):
    """A file in the way, as a read-only or full disk, only means compiling again."""
    (tmp_path / "file").write_bytes(b"")
    cache = CompileCache(tmp_path / "file" / "programs")
    cache.put("k", b"code")
    assert cache.get("k") is None


def test_an_entry_that_cannot_be_written_leaves_nothing(cache):
    """A folder in the entry's place: no error, no scratch file left."""
    (cache.folder / "k.xla").mkdir(parents=True)
    cache.folder.chmod(0o700)
    cache.put("k", b"code")
    assert cache.get("k") is None
    assert [path.name for path in cache.folder.iterdir()] == ["k.xla"]


def test_processes_that_write_the_same_entry(cache):
    """A reader beside two writers sees a whole entry or none, ever."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from maas_sdk.runtime.cache import CompileCache\n"
        "cache = CompileCache(Path(sys.argv[1]))\n"
        "for _ in range(100): cache.put('k', sys.argv[2].encode() * 10_000)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(cache.folder), letter]) for letter in "ab"
    ]
    seen = {cache.get("k")}
    while any(writer.poll() is None for writer in writers):
        seen.add(cache.get("k"))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {None, b"a" * 10_000, b"b" * 10_000}
    assert cache.get("k") is not None
    assert [path.name for path in cache.folder.iterdir()] == ["k.xla"]


def test_where_the_cache_is(monkeypatch):
    """MAAS_CACHE_DIR, else the user's cache folder."""
    monkeypatch.setenv("MAAS_CACHE_DIR", "/named")
    assert str(default_cache_dir()) == "/named"
    monkeypatch.delenv("MAAS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(default_cache_dir()) == "/cache/maas-sdk/programs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(default_cache_dir()) == "/home/me/.cache/maas-sdk/programs"
