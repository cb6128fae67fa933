"""The seam to httpx: connections, bodies, and the translation of its errors.

Nothing of httpx comes out of the client: ``translate`` turns each of its exceptions into one of
ours, from one table, and a test walks httpx's namespace so that none is forgotten.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import httpx

from maas_sdk.client.replies import Reply
from maas_sdk.errors import ConfigError, DeadlineError, MaasError, TooLargeError, TransportError

__all__ = [
    "FOREIGN",
    "ReplyBuffer",
    "blocks",
    "blocks_async",
    "limits",
    "timeouts",
    "translate",
]

# Every exception of httpx → our class and how the sentence begins. A read, write or pool timeout
# is set to what is left of the caller's time, so hitting it is the deadline; a connect timeout is
# shorter than that, and another connection may well succeed.
FOREIGN: Final[dict[type[Exception], tuple[type[MaasError], str]]] = {
    httpx.ConnectTimeout: (TransportError, "no connection in time"),
    httpx.ReadTimeout: (DeadlineError, "no answer in time"),
    httpx.WriteTimeout: (DeadlineError, "the request could not be sent in time"),
    httpx.PoolTimeout: (DeadlineError, "no free connection in time"),
    httpx.TimeoutException: (DeadlineError, "no answer in time"),
    httpx.ConnectError: (TransportError, "no connection"),
    httpx.ReadError: (TransportError, "the connection broke while the answer was awaited"),
    httpx.WriteError: (TransportError, "the connection broke while the request was sent"),
    httpx.CloseError: (TransportError, "the connection broke while it was closed"),
    httpx.NetworkError: (TransportError, "the connection broke"),
    httpx.RemoteProtocolError: (TransportError, "the answer was cut short or is not HTTP"),
    httpx.LocalProtocolError: (ConfigError, "the request cannot be put in HTTP; check headers="),
    httpx.ProtocolError: (TransportError, "HTTP was broken"),
    httpx.ProxyError: (TransportError, "the proxy would not pass the request on"),
    httpx.UnsupportedProtocol: (ConfigError, "url= must begin with http:// or https://"),
    httpx.TransportError: (TransportError, "no answer"),
    httpx.DecodingError: (TransportError, "the answer's Content-Encoding could not be undone"),
    httpx.TooManyRedirects: (ConfigError, "the server redirects in a circle; check url="),
    httpx.RequestError: (TransportError, "no answer"),
    httpx.HTTPStatusError: (TransportError, "an unexpected status"),
    httpx.HTTPError: (TransportError, "no answer"),
    httpx.InvalidURL: (ConfigError, "url= is not one"),
    httpx.CookieConflict: (ConfigError, "the server sets the same cookie twice"),
    # Misuse of httpx by us, never the caller's doing.
    httpx.StreamConsumed: (MaasError, "a body was read twice"),
    httpx.StreamClosed: (MaasError, "a body was read after its connection was closed"),
    httpx.ResponseNotRead: (MaasError, "a body was used before it was read"),
    httpx.RequestNotRead: (MaasError, "a body was used before it was read"),
    httpx.StreamError: (MaasError, "a body was misused"),
}


def translate(error: Exception, *, method: str, url: str) -> MaasError:
    """Return our error for one of httpx's, with the failed request in the message."""
    kind, sentence = next(FOREIGN[base] for base in type(error).__mro__ if base in FOREIGN)
    # Trying again does not make a certificate valid.
    if _caused_by(error, ssl.SSLCertVerificationError):
        kind, sentence = ConfigError, "the server's certificate is not trusted; see verify="
    detail = f" ({error})" if str(error) else ""
    ours = kind(f"{method} {url}: {sentence}{detail}", url=url, foreign=type(error).__name__)
    ours.__cause__ = error
    return ours


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def timeouts(left_s: float, connect_timeout_s: float) -> httpx.Timeout:
    """Return the timeouts of one attempt when ``left_s`` seconds remain until the deadline."""
    return httpx.Timeout(left_s, connect=min(connect_timeout_s, left_s))


def limits() -> httpx.Limits:
    """Return the connection pool's limits.

    How many are open is up to how many calls the caller makes at a time; a queue here would only
    eat their time. Idle ones are kept for a next call.
    """
    return httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0)


# Bytes of one write to the socket.
_BLOCK_BYTES: Final = 256 * 1024


def blocks(buffers: Sequence[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Yield a body's buffers as blocks of a size that suits sockets.

    Frames come as many buffers, of a few bytes (headers) and of many megabytes (tensors). Small
    ones are joined, as each block is one system call and, TCP_NODELAY being set, one packet.
    Large ones are cut, as what a socket does not take at once is copied before it is offered again.
    """
    held: list[memoryview] = []
    held_bytes = 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for first in range(0, view.nbytes, _BLOCK_BYTES):
            block = view[first : first + _BLOCK_BYTES]
            if held_bytes + block.nbytes > _BLOCK_BYTES:
                yield b"".join(held)
                held, held_bytes = [], 0
            held.append(block)
            held_bytes += block.nbytes
    if held:
        yield b"".join(held)


async def blocks_async(buffers: Sequence[bytes | bytearray | memoryview]) -> AsyncIterator[bytes]:
    """Yield as ``blocks``, for an asynchronous transport."""
    for block in blocks(buffers):
        yield block


class ReplyBuffer:
    """Collects a reply's body, up to a limit that is checked before memory is taken."""

    def __init__(self, response: httpx.Response, *, max_bytes: int, url: str) -> None:
        self._blocks: list[bytes] = []
        self._nbytes = 0
        self._max_bytes = max_bytes
        self._url = url
        self._response = response
        declared = response.headers.get("content-length", "")
        if declared.isdecimal():
            self._check(int(declared))

    def add(self, block: bytes) -> None:
        """Take the next block.

        Raises:
            TooLargeError: the body is over the limit.
        """
        self._nbytes += len(block)
        self._check(self._nbytes)
        self._blocks.append(block)

    def reply(self) -> Reply:
        """Return the reply, once its body is whole."""
        return Reply(
            url=self._url,
            status=self._response.status_code,
            headers=dict(self._response.headers),
            body=b"".join(self._blocks),
        )

    def _check(self, nbytes: int) -> None:
        if nbytes > self._max_bytes:
            raise TooLargeError(
                f"{self._url}: the reply takes {nbytes} bytes or more, over max_response_bytes="
                f"{self._max_bytes}: ask for fewer rows at a time or raise the limit",
                nbytes=nbytes,
                max_response_bytes=self._max_bytes,
            )
