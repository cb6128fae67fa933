"""Options of the clients, checked before the first byte is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

from maas_sdk.client.retries import RetryPolicy
from maas_sdk.errors import ConfigError

__all__ = ["DEFAULT_MAX_REQUEST_BYTES", "ClientOptions", "RouteOptions", "check_seconds"]

# Cloud Functions and Cloud Run refuse request bodies over 32 MB (HTTP/1); the rest is headroom
# for what proxies on the way add and for reading the M in either way.
DEFAULT_MAX_REQUEST_BYTES: Final = 30_000_000

# Eleven days.
_MOST_SECONDS: Final = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientOptions:
    """Options of ``Client`` and ``AsyncClient``."""

    # http:// or https://, with any path prefix under which the endpoint is mounted.
    url: str
    # None: only ``live`` and ``ready`` can be asked.
    model: str | None = None
    # For a whole call: its retries and the waits between them included.
    timeout_s: float = 30.0
    # For opening one connection; never beyond what is left of ``timeout_s``.
    connect_timeout_s: float = 5.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    # A call whose tensors take more is split by rows.
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES
    # A call of more rows is split; None means only bytes count.
    max_rows_per_call: int | None = None
    # A reply that is longer is not read to its end.
    max_response_bytes: int = 1 << 30
    # Sent as ``Authorization: Bearer …``.
    token: str | None = field(default=None, repr=False)
    # Sent with every request.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port  # urllib checks it only when it is read
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment:
            raise ConfigError(
                f"url: expected http://host[:port][/prefix] or https://…, without a query, got "
                f"{self.url!r}",
                url=self.url,
            )
        if parts.username is not None or parts.password is not None:
            # They would show in messages and logs; this one does not repeat them.
            raise ConfigError("url: credentials do not belong there: use token= or headers=")
        for name in ("timeout_s", "connect_timeout_s"):
            check_seconds(name, getattr(self, name))
        for name in ("max_request_bytes", "max_rows_per_call", "max_response_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        names = {name.lower() for name in self.headers}
        if self.token is not None and "authorization" in names:
            raise ConfigError("token and headers['Authorization'] contradict: give one of them")
        for name, value in self.all_headers().items():
            if not (name + value).isascii() or "\n" in name + value or "\r" in name + value:
                # The value may be a secret: it is not repeated.
                raise ConfigError(f"header {name!r}: expected ASCII text on one line")

    def all_headers(self) -> dict[str, str]:
        """Return the headers of every request, the token's included."""
        bearer = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return {**self.headers, **bearer}

    def address(self, path: str) -> str:
        """Return the full URL of an endpoint's path, which begins with a slash."""
        return self.url.rstrip("/") + path


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteOptions:
    """Model and version that answer."""

    model: str
    version: int | str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ConfigError(
                f"version={self.version!r} and label={self.label!r} contradict: give one of them"
            )

    def path(self) -> str:
        """``/v1/models/<model>[/versions/<v>|/labels/<l>]``."""
        path = f"/v1/models/{quote(self.model, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{quote(str(self.version), safe='')}"
        if self.label is not None:
            return f"{path}/labels/{quote(self.label, safe='')}"
        return path


def check_seconds(name: str, value: float) -> float:
    """A duration that can be waited for.

    Raises:
        ConfigError: zero, negative, not a number, or longer than sockets are sure to take.
    """
    if not 0 < value <= _MOST_SECONDS:
        raise ConfigError(
            f"{name}: expected seconds above 0 and at most {_MOST_SECONDS:g}, got {value}"
        )
    return value
