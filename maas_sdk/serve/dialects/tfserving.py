"""TensorFlow Serving's JSON (``wire/tfserving.py``): one call in one body, as rows or as columns.

Its numbers have no dtype of their own, so the body is read once the model, and so the program's
signature, is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maas_sdk.serve.core.messages import Response, buffers_response, error_response
from maas_sdk.wire.calls import Call, Failure, Result
from maas_sdk.wire.tfserving import CONTENT_TYPE, decode_predict, encode_predict

if TYPE_CHECKING:
    from maas_sdk.serve.dialects.interface import Body, Calls, Signatures, WriteAnswers

__all__ = ["JsonBody", "error_response", "read"]


class JsonBody:
    """A body in JSON, not parsed yet."""

    # The dialect has no timeouts.
    timeout_s = float("inf")

    def __init__(self, body: Body) -> None:
        self._body = body

    def calls(self, signatures: Signatures) -> tuple[Calls, WriteAnswers]:
        """The one call, and the function that writes its answer. Raises as ``decode_predict``."""
        asked = decode_predict(self._body, signatures)

        def write(answers: Sequence[Result | Failure]) -> Response:
            (answer,) = answers
            if isinstance(answer, Failure):
                raise answer.to_error()
            body = encode_predict(answer.outputs, row_format=asked.row_format)
            return buffers_response(CONTENT_TYPE, [body])

        return [Call("json", asked.inputs, asked.program)], write


def read(body: Body, *, max_bytes: int) -> JsonBody:
    """Keep the body until the model is there; its size was checked when it came."""
    return JsonBody(body)
