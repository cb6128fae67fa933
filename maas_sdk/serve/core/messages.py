"""A request and a response as the endpoint core sees them: values, no sockets, no framework."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from maas_sdk.errors import MaasError, traits

__all__ = ["Request", "Response", "buffers_response", "error_response", "json_response"]

# Small buffers are sent together: up to here a copy costs less than one more write.
_GATHER_BYTES: Final = 64 * 1024


class Request(NamedTuple):
    """An HTTP request with its complete body."""

    # Upper case.
    method: str
    # As it came over the wire, percent-encoded; a query is passed over.
    path: str
    # Lower-case names.
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes | bytearray | memoryview = b""


class Response(NamedTuple):
    """An HTTP response, ready to be sent."""

    status: int
    headers: list[tuple[str, str]]
    # To be sent one after another; large tensors are views of the engine's outputs.
    body: list[bytes | memoryview]

    def chunks(self) -> Iterator[bytes]:
        """Yield the body for servers that take only bytes, small buffers joined."""
        small: list[bytes | memoryview] = []
        size = 0
        for buffer in self.body:
            nbytes = memoryview(buffer).nbytes
            if size + nbytes > _GATHER_BYTES and small:
                yield b"".join(small)
                small, size = [], 0
            small.append(buffer)
            size += nbytes
        if size:
            yield b"".join(small)


def buffers_response(
    content_type: str,
    body: list[bytes | memoryview],
    *,
    status: int = 200,
    headers: Iterable[tuple[str, str]] = (),
) -> Response:
    """Return a response of known length."""
    nbytes = sum(memoryview(buffer).nbytes for buffer in body)
    return Response(
        status=status,
        headers=[("Content-Type", content_type), ("Content-Length", str(nbytes)), *headers],
        body=body,
    )


def json_response(
    document: Any, *, status: int = 200, headers: Iterable[tuple[str, str]] = ()
) -> Response:
    """Return a response of one JSON document."""
    body = json.dumps(document).encode()
    return buffers_response("application/json", [body], status=status, headers=headers)


def error_response(error: MaasError) -> Response:
    """Return ``{"error": message, "code": code}`` with the status from ``errors.TRAITS``.

    ``Retry-After`` is set where the error knows it, in whole seconds rounded up (RFC 9110, 10.2.3),
    and ``Allow`` where a method was refused.
    """
    row = traits(error)
    headers = []
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(max(0, math.ceil(error.retry_after_s)))))
    allow = error.evidence.get("allow")
    if isinstance(allow, tuple):
        headers.append(("Allow", ", ".join(allow)))
    document = {"error": error.message, "code": row.code}
    return json_response(document, status=row.http_status, headers=headers)
