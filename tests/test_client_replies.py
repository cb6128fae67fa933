"""HTTP replies → results or errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.client.replies import BY_STATUS, Reply, read_error, read_json, read_results
from maas_sdk.errors import (
    TRAITS,
    ConfigError,
    MaasError,
    MediaTypeError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    TransportError,
    traits,
)
from maas_sdk.wire.frames import CONTENT_TYPE, Failure, FrameLimits, Result, encode_results

URL = "https://endpoint/v1/models/digits:predict"
NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


def reply(status: int = 200, body: bytes = b"", type: str = CONTENT_TYPE, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(url=URL, status=status, headers={"content-type": type, **named}, body=body)


def read(reply: Reply, ids: list[str]) -> dict[str, Result | Failure | MaasError]:
    return read_results(reply, ids, limits=FrameLimits(), now=NOW)


def frame(*results: Result | Failure) -> bytes:
    return b"".join(encode_results(results))


def test_each_call_gets_its_own_result_or_failure() -> None:
    """Results are found by id, whatever their order in the frame."""
    body = frame(Failure("1", "overloaded", "later", 2.0), Result("0", {"y": np.arange(3)}))
    found = read(reply(body=body), ["0", "1"])
    assert found["0"].outputs["y"].tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert found["1"] == Failure("1", "overloaded", "later", 2.0)


@pytest.mark.parametrize("ids", [["0", "1"], [], ["1"]])
def test_results_for_other_calls_are_garbage(ids: list[str]) -> None:
    """A result missing, or one that nobody asked for, fails them all and may be retried."""
    found = read(reply(body=frame(Result("0", {"y": np.arange(3)}))), ids)
    assert all(type(error) is TransportError for error in found.values())
    assert all("expected results for calls" in str(error) for error in found.values())


@given(st.binary(max_size=200))
def test_garbage_in_a_frames_place_is_a_transport_error(body: bytes) -> None:
    """No body, whatever it holds, gets through as another class."""
    (error,) = read(reply(body=body), ["0"]).values()
    assert type(error) in (TransportError, TooLargeError)


def test_every_cut_frame_is_a_transport_error() -> None:
    """Cut at each byte."""
    body = frame(Result("0", {"y": np.arange(3)}))
    for size in range(len(body)):
        (error,) = read(reply(body=body[:size]), ["0"]).values()
        assert type(error) is TransportError, size
        assert "garbled" in error.message


def test_a_frame_over_a_limit_keeps_its_class() -> None:
    """A frame that is too large is not garbage: it would be the same the next time."""
    body = frame(Result("0", {"y": np.arange(3)}))
    limits = FrameLimits(max_bytes=20)
    (error,) = read_results(reply(body=body), ["0"], limits=limits, now=NOW).values()
    assert type(error) is TooLargeError


def test_another_content_type_is_named_and_shown() -> None:
    """A login page with status 200 is not an answer; the message shows how it begins."""
    (error,) = read(reply(body=HTML, type="text/html; charset=utf-8"), ["0"]).values()
    assert type(error) is MediaTypeError
    assert "expected an answer of application/x-msgpack, got text/html" in error.message
    assert "502 Bad Gateway" in error.message


@pytest.mark.parametrize("kind", list(TRAITS), ids=lambda kind: kind.__name__)
def test_errors_of_our_endpoint_keep_their_class(kind: type[MaasError]) -> None:
    """The code in the JSON body decides, not the status, and the message is the server's."""
    body = json.dumps({"error": "what the server says", "code": TRAITS[kind].code}).encode()
    found = read_error(reply(500, body, "application/json", retry_after="3"), now=NOW)
    assert type(found) is kind
    assert found.message == "what the server says"
    assert found.retry_after_s == 3.0


def test_a_code_of_a_newer_release_is_kept() -> None:
    """It becomes a plain error with the code in its evidence."""
    found = read_error(reply(500, b'{"error": "e", "code": "quota"}', "application/json"), now=NOW)
    assert type(found) is MaasError
    assert found.evidence["code"] == "quota"


@pytest.mark.parametrize("status", [*range(400, 418), *range(421, 432), *range(500, 512)])
def test_proxies_have_only_a_status(status: int) -> None:
    """The table decides; unknown ones are errors that are not retried."""
    found = read_error(reply(status, HTML, "text/html"), now=NOW)
    assert type(found) is BY_STATUS.get(status, (MaasError, ""))[0]
    assert f"HTTP {status} (text/html), '<html>" in found.message
    assert traits(found).retryable == (status in (408, 429, 502, 503))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"error": "e"}', b'{"error": "e", "code": 1}']
)
def test_json_without_a_code_counts_by_its_status(body: bytes) -> None:
    """TensorFlow Serving's own errors, for instance."""
    assert type(read_error(reply(503, body, "application/json"), now=NOW)) is NotReadyError


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """The message has the target and says what to change."""
    found = read_error(reply(status, location="https://elsewhere/"), now=NOW)
    assert type(found) is ConfigError
    assert "redirects to https://elsewhere/" in found.message
    assert "url=" in found.message


def test_a_retry_after_date_is_held_against_the_servers_own_clock() -> None:
    """A server whose clock is an hour off still gets the pause that it asks for."""
    found = read_error(
        reply(
            429,
            retry_after="Tue, 14 Nov 2023 23:13:25 GMT",
            date="Tue, 14 Nov 2023 23:13:20 GMT",
        ),
        now=NOW,
    )
    assert type(found) is OverloadedError
    assert found.retry_after_s == 5.0
    found = read_error(reply(429, retry_after="Tue, 14 Nov 2023 22:13:25 GMT"), now=NOW)
    assert found.retry_after_s == 5.0


def test_json_is_read_or_refused() -> None:
    """Metadata that is no JSON says what came instead."""
    assert read_json(reply(body=b'{"a": 1}', type="application/json"), now=NOW) == {"a": 1}
    with pytest.raises(MediaTypeError, match="expected JSON, got text/html, '<html>"):
        read_json(reply(body=HTML, type="text/html"), now=NOW)
    with pytest.raises(NotReadyError):
        read_json(reply(503, HTML, "text/html"), now=NOW)
    with pytest.raises(MediaTypeError, match="is this URL a maas_sdk endpoint"):
        read_json(reply(body=b"[" * 200_000, type="application/json"), now=NOW)


def test_binary_bodies_are_not_printed() -> None:
    """A message stays readable whatever the body is."""
    found = read_error(reply(500, b"\x00\x01\xff" * 100, "application/octet-stream"), now=NOW)
    assert "a body of 300 bytes" in found.message
