"""The seam to httpx: its exceptions, bodies and limits."""

from __future__ import annotations

import inspect
import ssl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.client.transport import (
    FOREIGN,
    ReplyBuffer,
    blocks,
    blocks_async,
    timeouts,
    translate,
)
from maas_sdk.errors import (
    ConfigError,
    DeadlineError,
    MaasError,
    TooLargeError,
    TransportError,
    traits,
)

URL = "http://endpoint/v1/models/digits:predict"


def foreign_classes() -> set[type[Exception]]:
    return {
        value
        for value in vars(httpx).values()
        if inspect.isclass(value) and issubclass(value, Exception)
    }


def test_no_exception_of_httpx_is_forgotten() -> None:
    """The table has a row for every exception class that httpx publishes, and no other."""
    assert set(FOREIGN) == foreign_classes()


def name_of(kind: type[Exception]) -> str:
    return kind.__name__


@pytest.mark.parametrize("kind", sorted(foreign_classes(), key=name_of))
def test_every_exception_is_translated(kind: type[Exception]) -> None:
    """The class is the table's, the message has the request, the cause is kept."""
    theirs = kind.__new__(kind)
    Exception.__init__(theirs, "what httpx says")
    ours = translate(theirs, method="POST", url=URL)
    assert type(ours) is FOREIGN[kind][0]
    assert ours.message.startswith(f"POST {URL}: ")
    assert ours.__cause__ is theirs
    assert ours.evidence["foreign"] == kind.__name__


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (httpx.ConnectError("refused"), TransportError),
        (httpx.ConnectTimeout("slow"), TransportError),
        (httpx.ReadTimeout("slow"), DeadlineError),
        (httpx.RemoteProtocolError("cut"), TransportError),
        (httpx.UnsupportedProtocol("ftp"), ConfigError),
    ],
)
def test_only_what_may_pass_is_retryable(theirs: Exception, ours: type[MaasError]) -> None:
    """A refused or broken connection may be tried again; a passed deadline or bad URL may not."""
    error = translate(theirs, method="GET", url=URL)
    assert type(error) is ours
    assert traits(error).retryable == (ours is TransportError)


def test_an_untrusted_certificate_is_not_retried() -> None:
    """It is the configuration that has to change, and the option is named."""
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    ours = translate(error, method="GET", url=URL)
    assert type(ours) is ConfigError
    assert "verify=" in ours.message


def test_connecting_never_takes_longer_than_the_caller_has() -> None:
    """All four of httpx's bounds are within what is left."""
    assert timeouts(2.0, 5.0).as_dict() == {"connect": 2, "read": 2, "write": 2, "pool": 2}
    assert timeouts(9.0, 5.0).as_dict() == {"connect": 5, "read": 9, "write": 9, "pool": 9}


@given(st.lists(st.integers(0, 700_000), max_size=8))
def test_blocks_carry_the_body_unchanged_in_bounded_writes(sizes: list[int]) -> None:
    """Joined they are the body; none is empty or over 256 KiB; small buffers share one."""
    buffers = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    sent = list(blocks(buffers))
    assert b"".join(sent) == b"".join(buffers)
    assert all(0 < len(block) <= 256 * 1024 for block in sent)
    assert len(sent) <= 2 * sum(sizes) // (256 * 1024) + 1


async def test_asynchronous_blocks_are_the_same() -> None:
    """Both shells send the same bytes."""
    buffers = [b"a", bytearray(b"b" * 300_000), memoryview(b"c")]
    assert [block async for block in blocks_async(buffers)] == list(blocks(buffers))


def test_a_reply_that_declares_too_much_is_refused_before_it_is_read() -> None:
    """The limit is held against Content-Length first."""
    response = httpx.Response(200, headers={"content-length": str(1 << 40)})
    with pytest.raises(TooLargeError, match="1099511627776 bytes or more, over max_response_bytes"):
        ReplyBuffer(response, max_bytes=100, url=URL)


def test_a_reply_that_declares_nothing_is_refused_when_it_passes_the_limit() -> None:
    """The limit is held against what came, too."""
    buffer = ReplyBuffer(httpx.Response(200), max_bytes=100, url=URL)
    buffer.add(b"x" * 100)
    assert buffer.reply().body == b"x" * 100
    with pytest.raises(TooLargeError, match="raise the limit"):
        buffer.add(b"x")
