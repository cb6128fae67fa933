"""Contents of a frame: calls one way, a result or a failure for each on the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from maas_sdk.errors import MaasError, error_from_code, traits
from maas_sdk.tensors import Array

__all__ = ["Call", "Failure", "Result"]


class Call(NamedTuple):
    """One prediction that a caller asks for."""

    # Chosen by the caller, unique in its frame; the answer carries it back.
    id: str
    inputs: Mapping[str, Array]
    # None: the model's default program.
    program: str | None = None
    # Seconds from now until the answer is of no use; relative, so clocks need not agree. It
    # travels in whole milliseconds, rounded up. None: no deadline.
    timeout_s: float | None = None
    # Higher goes first where calls wait.
    priority: int = 0


class Result(NamedTuple):
    """The answer to one call."""

    id: str
    outputs: Mapping[str, Array]


class Failure(NamedTuple):
    """Error of one call; other calls of its frame may succeed."""

    id: str
    # A code of ``errors.TRAITS``, or of a newer release.
    code: str
    message: str
    # Seconds after which a retry makes sense, when the server knows.
    retry_after_s: float | None = None

    @classmethod
    def from_error(cls, id: str, error: BaseException) -> Failure:
        """Describe ``error`` for a caller; of a foreign error only its class is told."""
        if isinstance(error, MaasError):
            return cls(id, traits(error).code, error.message, error.retry_after_s)
        return cls(id, traits(error).code, f"internal error: {type(error).__name__}")

    def to_error(self) -> MaasError:
        """Return the error that this failure describes, to be raised on the caller's side."""
        return error_from_code(
            self.code, self.message, retry_after_s=self.retry_after_s, call_id=self.id
        )
