"""One secret from Google's Secret Manager, over its REST API, with the standard library alone.

The rule: a token goes to Secret Manager and nowhere else, so redirects are not followed. The token
is that of the machine's service account, from the metadata server, or the one in
``GOOGLE_OAUTH_ACCESS_TOKEN``. ``GCE_METADATA_HOST`` and
``CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER`` are Google's own names for other addresses. The
answer is compared with its checksum where it has one, as Google's has.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from maas_sdk.errors import ConfigError, CredentialsError, TransportError

__all__ = ["read_secret"]

_NAME: Final = re.compile(r"projects/\w[\w.:-]*/secrets/[\w-]+/versions/[\w-]+", re.ASCII)
_TIMEOUT_S: Final = 5.0
# Waits between tries; what may pass: too many requests, and faults of the server.
_WAITS_S: Final = (0.2, 0.8)
_MAX_ANSWER_BYTES: Final = 2**20  # a secret is at most 64 KiB


def read_secret(name: str) -> bytes:
    """Read one version of a secret.

    Args:
        name: ``projects/PROJECT/secrets/NAME/versions/VERSION``; the version may be ``latest``.

    Raises:
        ConfigError: that is no name of a secret's version.
        CredentialsError: no such secret, no right to it, or no credentials here.
        TransportError: no answer after three tries, or one that was garbled on its way.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"gcp-secret:{name}: expected projects/PROJECT/secrets/NAME/versions/VERSION"
        )
    base = os.environ.get(
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER", "https://secretmanager.googleapis.com"
    ).rstrip("/")
    status, answer = _get(f"{base}/v1/{name}:access", {"Authorization": f"Bearer {_token()}"})
    if status != 200:
        raise CredentialsError(_refusal(name, status, answer), status=status)
    try:
        payload = json.loads(answer)["payload"]
        secret = base64.b64decode(payload["data"], validate=True)
        # A 64-bit number, which protobuf's JSON writes as text.
        text = payload.get("dataCrc32c")
        said = None if text is None else int(str(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TransportError(
            f"gcp-secret:{name}: the answer is not one of Secret Manager"
        ) from error
    if said is not None and said != (found := _crc32c(secret)):
        raise TransportError(
            f"gcp-secret:{name}: garbled on its way: its CRC32C is {found}, and Secret Manager "
            f"says {said}; it is not used: try again, and if it stays so look for what changes "
            "answers between here and Google"
        )
    return secret


def _crc32c(data: bytes) -> int:
    """Return the CRC-32C checksum (Castagnoli's polynomial), which zlib does not provide."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _token() -> str:
    given = os.environ.get("GOOGLE_OAUTH_ACCESS_TOKEN")
    if given:
        return given.strip()
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
    advice = (
        "run on Google Cloud with a service account, or set GOOGLE_OAUTH_ACCESS_TOKEN to what "
        "gcloud auth print-access-token prints"
    )
    try:
        status, answer = _get(url, {"Metadata-Flavor": "Google"}, proxied=False)
        token = json.loads(answer)["access_token"] if status == 200 else None
    except TransportError as error:
        raise CredentialsError(f"no credentials for Secret Manager here: {advice}") from error
    except (ValueError, KeyError, TypeError):
        token = None
    if type(token) is not str:
        raise CredentialsError(f"the metadata server gave no token (status {status}): {advice}")
    return token


def _refusal(name: str, status: int, answer: bytes) -> str:
    try:
        said = str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = "no reason given"
    advice = {
        400: "a version that is disabled or destroyed cannot be read: name another",
        401: "the token is not valid (any more): get a new one",
        403: "grant roles/secretmanager.secretAccessor on the secret to this service account",
        404: "check project, name and version",
    }.get(status, "try again later")
    return f"gcp-secret:{name}: Secret Manager answers {status} ({said}); {advice}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, headers: Mapping[str, str], *, proxied: bool = True) -> tuple[int, bytes]:
    """Return status and body. Raises ``TransportError`` when no answer came or faults persisted."""
    handlers: list[Any] = [_NoRedirect()]
    if not proxied:
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    request = urllib.request.Request(url, headers=dict(headers))
    for wait_s in (*_WAITS_S, None):
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as reply:
                return reply.status, reply.read(_MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                status, fault = error.code, f"status {error.code}"
                if status != 429 and status < 500:
                    return status, error.read(_MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            fault = str(getattr(error, "reason", error)) or type(error).__name__
        if wait_s is not None:
            time.sleep(wait_s)
    host = url.partition("://")[2].partition("/")[0]
    raise TransportError(f"{host} gave no answer in {len(_WAITS_S) + 1} tries: {fault}")
