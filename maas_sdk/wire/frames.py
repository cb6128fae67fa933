"""The msgpack dialect: many calls in one body, each with its own result or its own error.

A frame is one msgpack value, an array of five, laid out so that its parts are found by arithmetic
(``docs/wire.md`` has it byte by byte):

    95                  array of 5
    01                  version of the frame
    00 | 01             kind: calls | results
    c6 nnnnnnnn …       head: a msgpack array of calls or results, in a bin
    c4 nn 00…           padding, so that the bulk starts at a multiple of 64 from the frame's start
    c6 nnnnnnnn …       bulk: the elements of all tensors

A tensor in the head is ``[dtype name, shape, offset in the bulk]``. Its elements are kept out of
the head for two reasons: a msgpack library copies every byte it reads, so a tensor inside would be
copied at least once; and in the bulk each one starts at a multiple of 64, as vector units and XLA
like it. So encoding hands out views of the arrays, and decoding makes views of the body.

The rule: a frame is never trusted. Lengths are compared with the bytes that are there, and
counts with ``FrameLimits``, before memory is taken. A call is measured before it is parsed, so
neither nesting nor declared lengths cost more than a small multiple of ``max_head_bytes``.
Offsets only grow, so no byte of the bulk is claimed twice: a small body cannot become large inputs.
"""

from __future__ import annotations

from maas_sdk.wire.calls import Call, Failure, Result
from maas_sdk.wire.frame_reader import FrameLimits, decode_calls, decode_results
from maas_sdk.wire.frame_writer import encode_calls, encode_results
from maas_sdk.wire.layout import ALIGNMENT, CONTENT_TYPE, VERSION

__all__ = [
    "ALIGNMENT",
    "CONTENT_TYPE",
    "VERSION",
    "Call",
    "Failure",
    "FrameLimits",
    "Result",
    "decode_calls",
    "decode_results",
    "encode_calls",
    "encode_results",
]
