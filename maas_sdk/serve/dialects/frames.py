"""Msgpack frames (``wire/frames.py``): many calls in one body, each with its own answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maas_sdk.serve.core.messages import Response, buffers_response, error_response
from maas_sdk.wire.calls import Call, Failure, Result
from maas_sdk.wire.frame_reader import FrameLimits, decode_calls
from maas_sdk.wire.frame_writer import encode_results
from maas_sdk.wire.layout import CONTENT_TYPE

if TYPE_CHECKING:
    from maas_sdk.serve.dialects.interface import Body, Calls, Signatures, WriteAnswers

# Errors of a whole frame are JSON: a caller that sent none can read them.
__all__ = ["FrameBody", "error_response", "read"]


class FrameBody:
    """The calls of a frame. They carry their dtypes and shapes, so no signature is asked for."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @property
    def timeout_s(self) -> float:
        """The longest timeout of its calls; infinite if one has none."""
        timeouts = [call.timeout_s for call in self._calls if isinstance(call, Call)]
        return max(
            (float("inf") if timeout_s is None else timeout_s for timeout_s in timeouts),
            default=0.0,
        )

    def calls(self, signatures: Signatures) -> tuple[Calls, WriteAnswers]:
        """Return the calls of the frame, and the function that writes a frame of their answers."""
        return self._calls, _write


def read(body: Body, *, max_bytes: int) -> FrameBody:
    """Read a frame of calls. Raises as ``wire.frames.decode_calls``."""
    return FrameBody(decode_calls(body, FrameLimits(max_bytes=max_bytes)))


def _write(answers: Sequence[Result | Failure]) -> Response:
    return buffers_response(CONTENT_TYPE, encode_results(answers))
