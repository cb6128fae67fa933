"""Interface of a dialect: a way to write calls in a request's body, and answers in a response's.

A dialect is one module of this folder with the two functions of ``Dialect``, and a row in the table
of the folder's ``__init__``. This file is imported for types alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from maas_sdk.errors import MaasError
from maas_sdk.serve.core.messages import Response
from maas_sdk.tensors import Signature
from maas_sdk.wire.calls import Call, Failure, Result

__all__ = ["Body", "Calls", "Dialect", "PredictBody", "Signatures", "WriteAnswers"]

Body = bytes | bytearray | memoryview
# A program's name as the request has it, None for the default one → its signature. Raises
# ``NotFoundError``.
Signatures = Callable[[str | None], Signature]
# A ``Failure`` stands for a call that could not be read while others of its request could.
Calls = Sequence[Call | Failure]
# Answers in the order of the calls → the response. Raises ``MaasError`` where the dialect has one
# answer for a whole request, and that is an error.
WriteAnswers = Callable[[Sequence[Result | Failure]], Response]


class PredictBody(Protocol):
    """A predict request, read as far as it can be without the model."""

    @property
    def timeout_s(self) -> float:
        """Seconds after which none of its calls wants an answer any more; infinite: never."""

    def calls(self, signatures: Signatures) -> tuple[Calls, WriteAnswers]:
        """Return the calls of the request, and the function that writes their answers.

        Raises:
            MaasError: the request as a whole cannot be read.
        """


class Dialect(Protocol):
    """One way to write requests and responses. Pure: bytes in, values out, and back."""

    def read(self, body: Body, *, max_bytes: int) -> PredictBody:
        """Read a request's body, of at most ``max_bytes``.

        Raises:
            MaasError: it cannot be read.
        """

    def error_response(self, error: MaasError) -> Response:
        """Response for a request that failed as a whole."""
