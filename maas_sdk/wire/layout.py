"""The fixed parts of a frame, shared by ``frame_writer`` and ``frame_reader``."""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "ALIGNMENT",
    "BIN8",
    "BIN32",
    "BULK",
    "CALLS",
    "CONTENT_TYPE",
    "FIXARRAY5",
    "KINDS",
    "MAX_LENGTH",
    "MAX_MS",
    "PADDING",
    "PREFIX",
    "RESULTS",
    "VERSION",
]

CONTENT_TYPE: Final = "application/x-msgpack"
VERSION: Final = 1
# Bytes; the widest vector registers, a cache line, and what XLA asks for to use memory in place.
ALIGNMENT: Final = 64

CALLS: Final = 0
RESULTS: Final = 1
KINDS: Final = {CALLS: "calls", RESULTS: "results"}

# msgpack's own markers
FIXARRAY5: Final = 0x95
BIN8: Final = 0xC4
BIN32: Final = 0xC6

# array of 5, version, kind, bin32 marker, bytes of the head
PREFIX: Final = struct.Struct(">BBBBI")
# bin8 marker and length of the padding
PADDING: Final = struct.Struct(">BB")
# bin32 marker and length of the bulk
BULK: Final = struct.Struct(">BI")
MAX_LENGTH: Final = 2**32 - 1

# Milliseconds: the largest whole number that every language's numbers hold exactly.
MAX_MS: Final = 2**53
