from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from maas_sdk.errors import CorruptError
from maas_sdk.training.checkpoints.checksums import CHECKSUMS, check_checksums, write_checksums

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "small").write_bytes(b"abc")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(bytes(64 * MIB) + b"x" * (MIB + 3))
    write_checksums(tmp_path)
    return tmp_path


def test_every_file_with_its_size_and_sums(folder: Path) -> None:
    """crc32 of each 64 MiB, as zlib has it; the list itself is not in the list."""
    assert json.loads((folder / CHECKSUMS).read_text()) == {
        "deep/er/small": {"bytes": 3, "crc32": [f"{zlib.crc32(b'abc'):08x}"]},
        "empty": {"bytes": 0, "crc32": []},
        "large": {
            "bytes": 65 * MIB + 3,
            "crc32": [
                f"{zlib.crc32(bytes(64 * MIB)):08x}",
                f"{zlib.crc32(b'x' * (MIB + 3)):08x}",
            ],
        },
    }
    check_checksums(folder)
    write_checksums(folder)
    check_checksums(folder)


@pytest.mark.parametrize("offset", [0, 64 * MIB - 1, 64 * MIB, 65 * MIB + 2])
def test_a_byte_anywhere(offset: int, folder: Path) -> None:
    """First and last of each part."""
    with open(folder / "large", "r+b") as file:
        file.seek(offset)
        found = file.read(1)
        file.seek(offset)
        file.write(bytes([found[0] ^ 0x10]))
    begin = offset // (64 * MIB) * 64 * MIB
    with pytest.raises(CorruptError, match=f"large: from byte {begin} on, expected crc32"):
        check_checksums(folder)


def test_size_and_absence(folder: Path) -> None:
    """A file that is longer or gone; a list that is cut or says something else."""
    small = folder / "deep" / "er" / "small"
    small.write_bytes(b"abcd")
    with pytest.raises(CorruptError, match="small: expected 3 bytes, found 4"):
        check_checksums(folder)
    small.unlink()
    with pytest.raises(CorruptError, match="small: expected a file of 3 bytes, found No such"):
        check_checksums(folder)
    for broken in ('{"a": {"bytes": 3', '{"a": 3}', "[]", '{"a": {"crc32": []}}'):
        (folder / CHECKSUMS).write_text(broken)
        with pytest.raises(CorruptError, match="does not read as it was written"):
            check_checksums(folder)
    (folder / CHECKSUMS).unlink()
    check_checksums(folder)
