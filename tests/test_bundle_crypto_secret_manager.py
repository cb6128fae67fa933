"""Secret Manager: its REST API over real sockets, by a server that answers as Google's does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.bundle.crypto.keys import KeyKind, key_text, read_key
from maas_sdk.bundle.crypto.secret_manager import _crc32c, read_secret
from maas_sdk.errors import ConfigError, CredentialsError, TransportError

NAME = "projects/p-1/secrets/model_key/versions/3"
KEY = bytes(range(32))
LINE = key_text(KeyKind.ENCRYPTION, KEY).encode()
PAYLOAD = {
    "data": base64.b64encode(LINE).decode(),
    # Of Google's own library, as text, since it is a 64-bit number.
    "dataCrc32c": str(google_crc32c.value(LINE)),
}
SECRET = {"name": NAME, "payload": PAYLOAD}


class Google(ThreadingHTTPServer):
    """Metadata server and Secret Manager in one; ``answers`` come in turn, the last one stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.token: object = {"access_token": "the-token", "expires_in": 3599}
        self.answers: list[tuple[int, object]] = [(200, SECRET)]


class Handler(BaseHTTPRequestHandler):
    server: Google

    def do_GET(self) -> None:
        flavour, token = self.headers["Metadata-Flavor"], self.headers["Authorization"]
        self.server.asked.append((self.path, flavour, token))
        if self.path == "/computeMetadata/v1/instance/service-accounts/default/token":
            status, document = (200 if flavour == "Google" else 403), self.server.token
        else:
            answers = self.server.answers
            status, document = answers.pop(0) if len(answers) > 1 else answers[0]
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/stolen")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    with Google() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        host = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER", f"http://{host}/")
        monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN", raising=False)
        yield server
        server.shutdown()
        thread.join()


def test_a_key_is_read_with_the_machines_own_token(google: Google) -> None:
    """The token of the metadata server goes to Secret Manager; the secret is the key's line."""
    assert read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION) == KEY
    assert google.asked == [
        ("/computeMetadata/v1/instance/service-accounts/default/token", "Google", None),
        (f"/v1/{NAME}:access", None, "Bearer the-token"),
    ]


def test_a_token_of_ones_own(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop the token comes from the environment, and nobody is asked for one."""
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "mine\n")
    assert read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION) == KEY
    assert google.asked == [(f"/v1/{NAME}:access", None, "Bearer mine")]


def test_what_passes_is_tried_again(google: Google) -> None:
    """Two faults, then an answer; three faults are an error that may be tried again."""
    google.answers = [(503, {}), (429, {}), (200, SECRET)]
    assert read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION) == KEY
    google.answers = [(500, {})]
    with pytest.raises(TransportError, match="gave no answer in 3 tries: status 500"):
        read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, r"answers 400 \(because\); a version that is disabled or destroyed"),
        (401, "get a new one"),
        (403, "grant roles/secretmanager.secretAccessor on the secret to this service account"),
        (404, "check project, name and version"),
    ],
)
def test_a_refusal_says_what_to_do(google: Google, status: int, message: str) -> None:
    """Google's reason and ours, at once: such an answer does not change by itself."""
    google.answers = [(status, {"error": {"message": "because"}})]
    with pytest.raises(CredentialsError, match=rf"gcp-secret:{NAME}: Secret Manager .*{message}"):
        read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION)
    assert len(google.asked) == 2


def test_the_token_is_not_sent_elsewhere(google: Google) -> None:
    """A redirect is an answer that is not understood, and is not followed."""
    google.answers = [(302, b"")]
    with pytest.raises(CredentialsError, match=r"answers 302 \(no reason given\)"):
        read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION)
    assert "/stolen" not in [path for path, _, _ in google.asked]


@given(st.binary(max_size=300))
def test_the_checksum_is_googles(data: bytes) -> None:
    """The same number as google-crc32c's, which is not there where servers run."""
    assert _crc32c(data) == google_crc32c.value(data)


@pytest.mark.parametrize("bit", [0, 7, 400])
def test_a_garbled_secret_is_refused(google: Google, bit: int) -> None:
    """One bit that differs from what Secret Manager vouches for; no character of it is told."""
    garbled = bytearray(LINE)
    garbled[bit // 8] ^= 1 << bit % 8
    data = base64.b64encode(garbled).decode()
    google.answers = [(200, {"payload": {**PAYLOAD, "data": data}})]
    with pytest.raises(TransportError, match="garbled on its way: its CRC32C is") as caught:
        read_secret(NAME)
    assert NAME in caught.value.message
    assert data not in caught.value.message
    assert PAYLOAD["dataCrc32c"] in caught.value.message


@pytest.mark.parametrize("crc", [None, int(PAYLOAD["dataCrc32c"])])
def test_a_checksum_is_optional_and_may_be_a_number(google: Google, crc: int | None) -> None:
    """A server without one is believed, as its answer's form allows; a plain number counts too."""
    more = {} if crc is None else {"dataCrc32c": crc}
    google.answers = [(200, {"payload": {"data": PAYLOAD["data"], **more}})]
    assert read_secret(NAME) == LINE
    google.answers = [(200, {"payload": {"data": PAYLOAD["data"], **more, "dataCrc32c": "0"}})]
    with pytest.raises(TransportError, match="Secret Manager says 0;"):
        read_secret(NAME)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"[]", b'{"payload": {}}', b'{"payload": {"data": 1}}'),
        *(b'{"payload": {"data": "", "dataCrc32c": ""}}', b'{"payload": []}'),
        *(b'{"payload": {"data": "", "dataCrc32c": []}}',),
    ],
)
def test_an_answer_of_something_else(google: Google, answer: bytes) -> None:
    """A proxy's page, for instance."""
    google.answers = [(200, answer)]
    with pytest.raises(TransportError, match="the answer is not one of Secret Manager"):
        read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION)


def test_a_secret_that_is_no_key(google: Google) -> None:
    """The message has the secret's name, not its content."""
    data = base64.b64encode(b"\xffhunter2").decode()
    google.answers = [(200, {"payload": {"data": data}})]
    with pytest.raises(ConfigError, match="expected an encryption key") as caught:
        read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION)
    assert NAME in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("token", [{}, [], {"access_token": 3}, b"<html>"])
def test_a_metadata_server_without_a_token(google: Google, token: object) -> None:
    """A machine without a service account is told so."""
    google.token = token
    with pytest.raises(CredentialsError, match=r"gave no token.*gcloud auth print-access-token"):
        read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION)


def test_outside_of_google(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    """No metadata server: what to do instead."""
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    with pytest.raises(CredentialsError, match="no credentials for Secret Manager here: run on"):
        read_key(f"gcp-secret:{NAME}", KeyKind.ENCRYPTION)
