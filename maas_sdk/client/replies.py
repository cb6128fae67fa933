"""Meaning of an HTTP reply: results, or an error.

Three kinds of reply are told apart: a frame, with a result or failure for each call; an error of
our endpoint, JSON with a ``code``; and replies of proxies, load balancers and other servers.
The last have only a status, which ``BY_STATUS`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from maas_sdk.client.retries import parse_http_date, parse_retry_after
from maas_sdk.errors import (
    ConfigError,
    CredentialsError,
    DeadlineError,
    InputError,
    MaasError,
    MediaTypeError,
    MethodError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    TransportError,
    WireError,
    error_from_code,
)
from maas_sdk.wire.frames import CONTENT_TYPE, Failure, FrameLimits, Result, decode_results

__all__ = ["BY_STATUS", "Reply", "read_error", "read_json", "read_results"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A whole HTTP reply."""

    # Of the request, for messages.
    url: str
    status: int
    # Lower-case names.
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """``Content-Type`` without its parameters, lower-case; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def excerpt(self) -> str:
        """Beginning of the body, for a message."""
        text = " ".join(self.body[:400].decode("utf-8", "replace").split())
        if not text.isprintable() or not text:
            return f"a body of {len(self.body)} bytes"
        return repr(text if len(text) <= 120 else text[:119] + "…")


# Statuses of replies that carry no code of ours: class and, where it helps, what to do.
BY_STATUS: Final[dict[int, tuple[type[MaasError], str]]] = {
    400: (WireError, ""),
    401: (CredentialsError, "the endpoint wants credentials: Client(…, token=…)"),
    403: (CredentialsError, "the endpoint refuses these credentials: check token="),
    404: (NotFoundError, "check url= and model="),
    405: (MethodError, "is this URL a maas_sdk endpoint?"),
    408: (TransportError, ""),
    413: (TooLargeError, "lower max_request_bytes="),
    415: (MediaTypeError, "is this URL a maas_sdk endpoint?"),
    422: (InputError, ""),
    429: (OverloadedError, ""),
    502: (TransportError, ""),
    503: (NotReadyError, ""),
    504: (DeadlineError, "a proxy on the way gave up waiting"),
}


def read_error(reply: Reply, *, now: float) -> MaasError:
    """Return the error that a reply other than 200 stands for.

    Args:
        reply: the reply.
        now: seconds since 1970, for a ``Retry-After`` that is a date.
    """
    wait_s = _retry_after_s(reply, now)
    error = _coded_error(reply, wait_s)
    if error is not None:
        return error
    if 300 <= reply.status < 400:
        target = reply.headers.get("location", "nowhere")
        return ConfigError(
            f"{reply.url}: the server redirects to {target}; redirects are not followed, as they "
            "may lead credentials astray: use the final address as url=",
            status=reply.status,
            location=target,
        )
    kind, remedy = BY_STATUS.get(reply.status, (MaasError, ""))
    return kind(
        f"{reply.url}: HTTP {reply.status} ({reply.media_type or 'no content type'}), "
        f"{reply.excerpt()}" + (f"; {remedy}" if remedy else ""),
        retry_after_s=wait_s,
        status=reply.status,
    )


def read_results(
    reply: Reply, ids: Iterable[str], *, limits: FrameLimits, now: float
) -> dict[str, Result | Failure | MaasError]:
    """Return the result or error of each call of a request, by its id.

    Args:
        reply: the reply.
        ids: those of the calls that were sent.
        limits: what the frame may hold.
        now: seconds since 1970.
    """
    ids = list(ids)
    try:
        return dict(_framed(reply, ids, limits, now))
    except MaasError as error:
        return dict.fromkeys(ids, error)


def _framed(
    reply: Reply, ids: list[str], limits: FrameLimits, now: float
) -> dict[str, Result | Failure]:
    if reply.status != 200:
        raise read_error(reply, now=now)
    if reply.media_type != CONTENT_TYPE:
        raise MediaTypeError(
            f"{reply.url}: expected an answer of {CONTENT_TYPE}, got "
            f"{reply.media_type or 'no content type'}, {reply.excerpt()}: is this URL a maas_sdk "
            "endpoint, and is no login page before it?",
            media_type=reply.media_type,
        )
    try:
        results = decode_results(reply.body, limits)
    except TooLargeError:
        raise
    except WireError as error:
        raise TransportError(f"{reply.url}: the answer is garbled: {error.message}") from error
    found = {result.id: result for result in results}
    if len(results) != len(found) or found.keys() != set(ids):
        raise TransportError(
            f"{reply.url}: the answer is garbled: expected results for calls {ids}, got "
            f"{[result.id for result in results]}"
        )
    return found


def read_json(reply: Reply, *, now: float) -> Any:
    """Return the document of a reply that must be JSON.

    Raises:
        MaasError: of the class that the reply stands for.
    """
    if reply.status != 200:
        raise read_error(reply, now=now)
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise MediaTypeError(
            f"{reply.url}: expected JSON, got {reply.media_type or 'no content type'}, "
            f"{reply.excerpt()}: is this URL a maas_sdk endpoint?"
        ) from error


def _coded_error(reply: Reply, wait_s: float | None) -> MaasError | None:
    """Return the error of an endpoint of ours; None if the body has no code."""
    if reply.media_type != "application/json":
        return None
    try:
        document = json.loads(reply.body)
        code, message = document["code"], document["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(code, str) or not isinstance(message, str):
        return None
    return error_from_code(code, message, retry_after_s=wait_s, status=reply.status)


def _retry_after_s(reply: Reply, now: float) -> float | None:
    # A date is held against the server's own clock where the reply shows it.
    theirs = parse_http_date(reply.headers["date"]) if "date" in reply.headers else None
    return parse_retry_after(
        reply.headers.get("retry-after"), now=now if theirs is None else theirs
    )
