"""``weights.safetensors``: named tensors in one file, mapped instead of read.

The rule: what the header says is proven (``safetensors.py``) before anything is mapped or taken,
and every array that is handed out is read-only and starts at a multiple of 64 bytes.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from maas_sdk.bundle.files.safetensors import (
    ALIGNMENT,
    MAX_HEADER_BYTES,
    Spec,
    TensorSlot,
    corrupt,
    make_header,
    parse_header,
)
from maas_sdk.errors import InputError
from maas_sdk.tensors import BITS, Array, array_from_bytes, array_to_bytes

__all__ = ["Weights", "aligned_empty", "map_file", "open_weights", "weights_in", "write_weights"]


def write_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as safetensors, one after another, without a joined copy.

    Args:
        path: the file; one that exists is overwritten in place, so write into a ``BundleWriter``.
        tensors: arrays of any shape, dtypes of ``tensors.BITS``.
        metadata: the user's own words, kept in the header.

    Raises:
        InputError: a dtype that cannot travel, or a name that is not text.
        ConfigError: a name or metadata key that is reserved, or a header over the format's bound.
        OSError: from the file system; the file is removed.
    """
    order, header = make_header(tensors, metadata or {})
    try:
        with open(path, "wb") as file:
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for name, nbytes in order:
                data = array_to_bytes(np.asarray(tensors[name]))
                if data.nbytes != nbytes:
                    raise InputError(f"tensor {name!r} changed while it was written")
                file.write(data)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


# linux/mman.h; Python's mmap module does not name it, and keeps the interpreter locked.
_MADV_POPULATE_READ: Final = 22
_PREFAULT_BYTES: Final = 8 * 2**20


class Weights(Mapping[str, Array]):
    """Tensors of one mapped file, by name.

    Arrays are read-only views of one shared mapping: processes that open the same file share its
    pages, and a page is read when it is first used. The mapping lives as long as any array does.

    The file must not be cut while it is mapped: touching a page that is gone ends the process
    (SIGBUS). Bundles are immutable and replaced by renaming, which leaves a mapping whole.

    Attributes:
        metadata: the header's free text.
        copied: names whose place in the file is not 64-byte aligned, or that are packed: these
            are copied to memory of their own when they are first asked for.
        nbytes: bytes of all tensors in the file.
    """

    def __init__(
        self,
        data: memoryview,
        places: Mapping[str, TensorSlot],
        metadata: Mapping[str, str],
    ) -> None:
        self.metadata = metadata
        self.nbytes = data.nbytes
        # The mapping starts on a page and the header is a prefix of it, so addresses are exact.
        base = np.frombuffer(data, np.uint8).ctypes.data if data.nbytes else 0
        self._address = base
        self.copied = tuple(
            name
            for name, place in places.items()
            if place.nbytes and ((base + place.begin) % ALIGNMENT or BITS[place.dtype] < 8)
        )
        self._must_copy = frozenset(self.copied)
        self._places = places
        self._data: memoryview | None = data
        self._arrays: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        found = self._arrays.get(name)
        if found is not None:
            return found
        if self._data is None:
            raise ValueError("the weights are closed")
        place = self._places[name]
        array = array_from_bytes(
            place.dtype, place.shape, self._data[place.begin : place.begin + place.nbytes]
        )
        if name in self._must_copy:
            array = _aligned_copy(array)
        array.flags.writeable = False
        # Two threads may both have built it; all get the one that was first.
        return self._arrays.setdefault(name, array)

    @property
    def specs(self) -> dict[str, Spec]:
        """Dtype name and shape of every tensor, by name, without reading any."""
        return {name: Spec(place.dtype, place.shape) for name, place in self._places.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def prefault(self) -> None:
        """Load all pages, from memory or from disk, in order and ahead of their use.

        For a thread beside the start of a process: the interpreter is not locked meanwhile. Only
        hurries: where the kernel lacks the call (Linux has it since 5.14), pages come as they are
        used.
        """
        data = self._data
        if data is None or not data.nbytes:
            return
        madvise = ctypes.CDLL(None).madvise
        end = self._address + data.nbytes
        # In steps, between which other threads get at the process's memory map.
        for begin in range(self._address & -mmap.PAGESIZE, end, _PREFAULT_BYTES):
            length = min(_PREFAULT_BYTES, end - begin)
            if madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), _MADV_POPULATE_READ):
                return

    def close(self) -> None:
        """Release the mapping; arrays handed out stay valid and keep it alive."""
        self._data = None
        self._arrays = {}


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Map a safetensors file.

    Raises:
        CorruptError: the file is cut, or its header contradicts itself or the file's size. The
            message names the file and the tensor.
        OSError: the file cannot be opened.
    """
    where = os.path.basename(path)
    with open(path, "rb", buffering=0) as file:
        return weights_in(map_file(file.fileno()), where)


def map_file(descriptor: int) -> memoryview:
    """Map the whole of an open file read-only; the descriptor may then be closed."""
    size = os.fstat(descriptor).st_size
    # Nothing cannot be mapped.
    return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b"")


def weights_in(memory: memoryview, where: str) -> Weights:
    """Return the tensors of a safetensors file held in memory; they keep it alive.

    Args:
        memory: the whole file. Where it starts at a multiple of 64 bytes, tensors are used in place
            as those of a mapped file are.
        where: what messages call it.

    Raises:
        CorruptError: as ``open_weights``.
    """
    size = memory.nbytes
    if size < 8:
        raise corrupt(where, f"expected at least 8 bytes, found {size}")
    length = int.from_bytes(memory[:8], "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise corrupt(
            where,
            f"its header claims {length} bytes, expected at most {MAX_HEADER_BYTES} and no "
            f"more than the {size - 8} that follow",
        )
    places, metadata = parse_header(bytes(memory[8 : 8 + length]), size - 8 - length, where)
    return Weights(memory[8 + length :], places, metadata)


def aligned_empty(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return an uninitialized array whose first element lies at a multiple of 64 bytes."""
    nbytes = math.prod(shape) * dtype.itemsize
    room = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + nbytes].view(dtype).reshape(shape)


def _aligned_copy(array: Array) -> Array:
    copy = aligned_empty(array.dtype, array.shape)
    copy[...] = array
    return copy
