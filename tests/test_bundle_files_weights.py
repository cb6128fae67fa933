"""weights.safetensors: what others can read, what is refused, and where the bytes lie."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from maas_sdk.bundle.files.safetensors import ALIGNMENT, DTYPES, MAX_HEADER_BYTES, parse_header
from maas_sdk.bundle.files.weights import open_weights, write_weights
from maas_sdk.errors import ConfigError, CorruptError, InputError
from maas_sdk.tensors import BITS, array_to_bytes, dtype_from_name


def sample(name: str, shape: tuple[int, ...] = (4, 6)) -> Any:
    """Array of a dtype, with every bit pattern that its elements can have."""
    count = int(np.prod(shape))
    codes = np.random.default_rng(0).integers(0, 256, count * dtype_from_name(name).itemsize)
    if name == "bool":
        codes %= 2
    if BITS[name] < 8:
        codes %= 2 ** BITS[name]
    return codes.astype(np.uint8).view(dtype_from_name(name)).reshape(shape)


def raw(header: object, data: bytes = b"") -> bytes:
    """A file of a header, given as JSON value or bytes, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[Any], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("name", BITS)
def test_every_dtype_comes_back(name: str, tmp_path: Path) -> None:
    """Each dtype that travels is written and read back bit for bit, whatever its shape."""
    tensors = {str(s): sample(name, s) for s in [(4, 6), (3,), (), (0, 3), (16, 64)]}
    write_weights(tmp_path / "w", tensors)
    found = open_weights(tmp_path / "w")
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found[key].dtype == tensor.dtype
        assert found[key].shape == tensor.shape
        assert bytes(array_to_bytes(found[key])) == bytes(array_to_bytes(tensor))


@pytest.mark.parametrize("name", BITS)
def test_safetensors_reads_what_we_write(name: str, tmp_path: Path) -> None:
    """The reference implementation takes the file and finds the same dtype, shape and bytes."""
    tensor = sample(name)
    write_weights(tmp_path / "w", {"a": tensor, "b": np.ones(3)})
    found = dict(safetensors.deserialize((tmp_path / "w").read_bytes()))["a"]
    theirs = {ours: spec for spec, ours in DTYPES.items()}.get(name)
    assert found["dtype"] == (theirs or "U8")
    assert bytes(found["data"]) == bytes(array_to_bytes(tensor))
    if theirs:
        assert found["shape"] == [4, 6]


def test_safetensors_numpy_reads_what_we_write(tmp_path: Path) -> None:
    """The file also opens through ``safetensors.numpy``, metadata included."""
    tensors = {"w": np.arange(64, dtype=np.float32).reshape(8, 8), "b": np.ones(3)}
    write_weights(tmp_path / "w", tensors, metadata={"by": "us"})
    found = load_file(tmp_path / "w")
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    with safetensors.safe_open(tmp_path / "w", framework="np") as file:
        assert file.metadata() == {"by": "us"}
    assert open_weights(tmp_path / "w").metadata == {"by": "us"}


def test_we_read_what_safetensors_writes(tmp_path: Path) -> None:
    """A foreign file is read; what is not aligned in it is copied, and said so."""
    tensors = {
        "a": np.arange(6, dtype=np.float64),
        "b": np.ones((3, 5), np.int16),
        "c": np.asarray([True, False, True]),
        "d": np.asarray([1, 2, 3], ml_dtypes.bfloat16),
        "e": np.float32(7)[...],
        "f": np.zeros((0, 2), np.float32),
    }
    save_file(tensors, tmp_path / "w", metadata={"k": "v"})
    found = open_weights(tmp_path / "w")
    for name, tensor in tensors.items():
        assert np.array_equal(found[name], tensor), name
        assert not found[name].flags.writeable
        assert not found[name].nbytes or found[name].ctypes.data % ALIGNMENT == 0
    assert {"b", "c", "d", "e"} <= set(found.copied)


def test_multiples_of_64_bytes_are_aligned_and_mapped(tmp_path: Path) -> None:
    """A tensor of a multiple of 64 bytes lies at one in the file, and is a view of the mapping."""
    rng = np.random.default_rng(1)
    tensors = {f"t{i}": rng.bytes(int(rng.integers(0, 300))) for i in range(60)}
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in tensors.items()}
    arrays |= {f"w{i}": np.ones((i + 1, 16), np.float32) for i in range(20)}
    write_weights(tmp_path / "w", arrays)
    data = (tmp_path / "w").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % ALIGNMENT == 0
    weights = open_weights(tmp_path / "w")
    for name, array in arrays.items():
        if array.nbytes and array.nbytes % ALIGNMENT == 0:
            assert (8 + length + header[name]["data_offsets"][0]) % ALIGNMENT == 0
            assert name not in weights.copied
            assert weights[name].ctypes.data % ALIGNMENT == 0
            base: Any = weights[name]
            while isinstance(base, np.ndarray):
                base = base.base
            assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def test_arrays_are_read_only_and_outlive_close(tmp_path: Path) -> None:
    """No array can be written to; one that was handed out survives ``close``."""
    write_weights(tmp_path / "w", {"a": np.ones(16, np.float32), "b": np.ones(3, ml_dtypes.int4)})
    weights = open_weights(tmp_path / "w")
    for array in weights.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert weights["b"] is weights["b"]
    assert weights.nbytes == 16 * 4 + 2
    assert weights.copied == ("b",)
    array = weights["a"]
    weights.close()
    weights.close()
    assert array.sum() == 16
    with pytest.raises(ValueError, match="closed"):
        weights["a"]


def test_the_mapping_is_shared(tmp_path: Path) -> None:
    """Two who open one file share its pages: the kernel lists the mapping as shared, read-only."""
    write_weights(tmp_path / "shared-w", {"a": np.ones(4096, np.float32)})
    one, two = open_weights(tmp_path / "shared-w"), open_weights(tmp_path / "shared-w")
    assert one["a"].sum() == two["a"].sum()
    lines = [x for x in Path("/proc/self/maps").read_text().splitlines() if "shared-w" in x]
    assert [line.split()[1] for line in lines] == ["r--s", "r--s"]


PREFAULT = """
import sys
from maas_sdk.bundle.files.weights import open_weights
def resident_kib():
    inside = False
    for line in open("/proc/self/smaps"):
        if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
            inside = "prefault-w" in line
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1])
weights = open_weights(sys.argv[1])
before = resident_kib()
weights.prefault()
print(before, resident_kib(), weights["a"].sum())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14),
    reason="needs a Linux of 5.14 or newer, where the kernel has MADV_POPULATE_READ",
)
def test_prefaulting_brings_in_every_page(tmp_path: Path) -> None:
    """After it the whole file is in the process's memory map, over several steps of 8 MiB."""
    tensor = np.ones(5 * 2**20 + 3, np.float32)
    write_weights(tmp_path / "prefault-w", {"a": tensor, "b": np.ones(3, np.float32)})
    done = subprocess.run(
        [sys.executable, "-c", PREFAULT, str(tmp_path / "prefault-w")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    before, after, total = done.stdout.split()
    assert int(before) < tensor.nbytes / 1024 / 2
    assert int(after) * 1024 >= tensor.nbytes
    assert float(total) == tensor.size


@pytest.mark.parametrize("tensors", [{}, {"a": np.ones(0)}, {"a": np.ones(5)}])
def test_prefaulting_only_hurries(tensors: dict[str, Any], tmp_path: Path) -> None:
    """It changes no value, however little there is, and is nothing once the weights are closed."""
    write_weights(tmp_path / "w", tensors)
    weights = open_weights(tmp_path / "w")
    weights.prefault()
    for name, tensor in tensors.items():
        assert np.array_equal(weights[name], tensor)
    weights.close()
    weights.prefault()


def test_big_endian_and_strided_arrays_are_stored_plain(tmp_path: Path) -> None:
    """Byte order and strides of the caller's memory do not reach the file."""
    tensor = np.arange(12, dtype=">f4").reshape(3, 4)
    write_weights(tmp_path / "w", {"a": tensor, "t": tensor.T, "s": tensor[::2, ::-1]})
    found = open_weights(tmp_path / "w")
    assert np.array_equal(found["a"], tensor)
    assert np.array_equal(found["t"], tensor.T)
    assert np.array_equal(found["s"], tensor[::2, ::-1])


def test_no_tensors_at_all(tmp_path: Path) -> None:
    """A model without weights has a file without tensors."""
    write_weights(tmp_path / "w", {})
    assert dict(open_weights(tmp_path / "w")) == {}
    assert load_file(tmp_path / "w") == {}


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    """The order in which tensors are handed over does not show."""
    tensors = {"b": np.ones(3), "a": np.ones(16), "c": np.ones(5, ml_dtypes.int4)}
    write_weights(tmp_path / "1", tensors)
    write_weights(tmp_path / "2", dict(sorted(tensors.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    ("tensors", "metadata", "kind", "message"),
    [
        ({"x": np.asarray(["a"])}, {}, InputError, "tensor 'x': an array of dtype"),
        ({"__metadata__": np.ones(1)}, {}, ConfigError, "'__metadata__' is reserved"),
        ({}, {"maas_sdk.logical": ""}, ConfigError, "'maas_sdk.logical' is reserved"),
        ({"\ud800": np.ones(1)}, {}, InputError, "not valid text"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, tensors: Any, metadata: Any, kind: type[Exception], message: str
) -> None:
    """What the format cannot hold is refused by name before a file is there."""
    with pytest.raises(kind, match=message):
        write_weights(tmp_path / "w", tensors, metadata=metadata)
    assert not (tmp_path / "w").exists()


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """A tensor that fails in the middle takes the file with it."""

    class Failing(dict[str, Any]):
        reads = 0

        def __getitem__(self, name: str) -> Any:
            raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        write_weights(tmp_path / "w", Failing(a=np.ones(4)))
    assert not (tmp_path / "w").exists()


F32 = entry("F32", [2], 0, 8)
BAD = [
    (b"", "expected at least 8 bytes, found 0"),
    (b"\x01\0\0", "expected at least 8 bytes, found 3"),
    ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "its header claims"),
    ((2**64 - 1).to_bytes(8, "little") + b"{}", "its header claims"),
    (raw(b"[]"), "expected '{' first"),
    (raw(b" {}"), "expected '{' first"),
    (raw(b"{"), "not a JSON object"),
    (raw(b'{"a\xff":1}'), "not a JSON object"),
    (raw(b'{"a":' * 100_000), "not a JSON object"),
    (raw(b'{"a":1,"a":1}'), "the same key twice: a"),
    (raw({"a": 1}), "tensor 'a': expected exactly dtype, shape and data_offsets"),
    (raw({"a": {**F32, "more": 1}}, bytes(8)), "tensor 'a': expected exactly"),
    (raw({"a": entry("F33", [2], 0, 8)}, bytes(8)), "tensor 'a': unknown dtype 'F33'; known are"),
    (raw({"a": {**F32, "dtype": []}}, bytes(8)), r"tensor 'a': unknown dtype \[\]"),
    (raw({"a": entry("F32", [-2], 0, 8)}, bytes(8)), "tensor 'a': shape must be"),
    (raw({"a": entry("F32", [True, 2], 0, 8)}, bytes(8)), "tensor 'a': shape must be"),
    (raw({"a": entry("F32", [2.0], 0, 8)}, bytes(8)), "tensor 'a': shape must be"),
    (raw({"a": {**F32, "shape": 2}}, bytes(8)), "tensor 'a': shape must be"),
    (raw({"a": entry("F32", [1] * 64 + [2], 0, 8)}, bytes(8)), "tensor 'a': shape must be"),
    (raw({"a": entry("F32", [0, 2**62, 2**62], 0, 0)}), "tensor 'a': shape .* beyond any memory"),
    (raw({"a": {**F32, "data_offsets": [0]}}, bytes(8)), "tensor 'a': data_offsets must be"),
    (raw({"a": {**F32, "data_offsets": 8}}, bytes(8)), "tensor 'a': data_offsets must be"),
    (raw({"a": entry("F32", [2], 8, 0)}, bytes(8)), "tensor 'a': data_offsets must be"),
    (raw({"a": entry("F32", [2], -8, 0)}, bytes(8)), "tensor 'a': data_offsets must be"),
    (raw({"a": entry("F32", [3], 0, 8)}, bytes(8)), r"F32\[3\] takes 12 whole bytes, .* span 8"),
    (raw({"a": entry("F4", [3], 0, 2)}, bytes(2)), r"F4\[3\] takes 2 whole bytes"),
    (raw({"a": entry("F32", [2], 4, 12)}, bytes(12)), "'a' leaves a hole: expected to begin at 0"),
    (raw({"a": F32, "b": entry("F32", [1], 4, 8)}, bytes(8)), "'b' overlaps .* at 8, found 4"),
    (raw({"a": F32, "b": F32}, bytes(8)), "tensor 'b' overlaps"),
    (raw({"a": F32}, bytes(7)), "tensor 'a' ends at byte 8 of the data, found only 7"),
    (raw({"a": F32}, bytes(9)), "its tensors take 8 bytes, found 9"),
    (raw({"__metadata__": {"a": 1}}), "__metadata__ must be an object of strings"),
    (raw({"__metadata__": []}), "__metadata__ must be an object of strings"),
    *(
        (
            raw({"a": entry("U8", [2], 0, 2), "__metadata__": {"maas_sdk.logical": text}}, b"\0\0"),
            message,
        )
        for text, message in [
            ("[]", "maas_sdk.logical is not a JSON object"),
            ('{"b":{}}', "speaks of 'b', which is no U8 tensor"),
            ('{"a":{}}', "tensor 'a': expected exactly dtype and shape"),
            ('{"a":{"dtype":"int5","shape":[4]}}', "tensor 'a': unknown dtype 'int5'"),
            ('{"a":{"dtype":"int4","shape":[5]}}', r"int4\[5\] takes 3 bytes, found 2"),
        ]
    ),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_a_header_that_lies_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Each contradiction is found before memory is taken, by the tensor's name, with a remedy."""
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(CorruptError, match=message) as caught:
        open_weights(tmp_path / "w.safetensors")
    assert caught.value.message.startswith("w.safetensors: ")
    assert "export or copy the bundle again" in caught.value.message


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    """No prefix of a file passes for one."""
    write_weights(tmp_path / "w", {"a": np.ones(16, np.float32), "b": np.ones(3, ml_dtypes.int4)})
    data = (tmp_path / "w").read_bytes()
    for end in range(len(data) - 1, -1, -1):
        os.truncate(tmp_path / "w", end)
        with pytest.raises(CorruptError):
            open_weights(tmp_path / "w")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
SIZES = st.lists(st.integers(-1, 40) | st.sampled_from([2**31, 2**63, 2**70]), max_size=4)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(list(DTYPES)) | JSON,
        "shape": SIZES | JSON,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRY | JSON)
    .map(json.dumps)
    .map(str.encode)
    | st.binary(max_size=60),
    nbytes=st.integers(0, 64),
)
def test_any_header_is_read_or_refused(header: bytes, nbytes: int) -> None:
    """Junk of any kind is a CorruptError; what passes covers the data without a gap."""
    try:
        places, _ = parse_header(header, nbytes, "w")
    except CorruptError:
        return
    assert sum(place.nbytes for place in places.values()) == nbytes


@settings(max_examples=60, deadline=None)
@given(
    specs=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.tuples(st.sampled_from(list(BITS)), st.lists(st.integers(0, 5), max_size=3)),
        max_size=6,
    )
)
def test_what_is_written_is_read(
    specs: dict[str, tuple[str, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any set of names, dtypes and shapes comes back, and the reference takes it too."""
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    tensors = {name: sample(dtype, tuple(shape)) for name, (dtype, shape) in specs.items()}
    write_weights(path, tensors)
    found = open_weights(path)
    assert {name: bytes(array_to_bytes(array)) for name, array in found.items()} == {
        name: bytes(array_to_bytes(array)) for name, array in tensors.items()
    }
    assert {name for name, _ in safetensors.deserialize(path.read_bytes())} == tensors.keys()
