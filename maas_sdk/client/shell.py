"""Options and checks that ``Client`` and ``AsyncClient`` share, before any I/O."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from maas_sdk.client.clock import Clock
from maas_sdk.client.options import DEFAULT_MAX_REQUEST_BYTES, ClientOptions
from maas_sdk.client.progress import Progress, check_progress
from maas_sdk.client.retries import RetryPolicy
from maas_sdk.client.session import Session
from maas_sdk.client.transport import limits
from maas_sdk.errors import ConfigError

__all__ = ["Shell", "TransportT", "check_many"]

TransportT = TypeVar("TransportT")


class Shell(Generic[TransportT]):
    """Common base of both clients."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        retry: RetryPolicy | None = None,
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
        max_rows_per_call: int | None = None,
        max_response_bytes: int = 1 << 30,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: TransportT | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Check the options without sending anything.

        Args:
            url: where the endpoint is, http:// or https://, with its path prefix if it has one.
            model: the model's name there.
            timeout_s: bound of a whole call, its retries and the waits between them included; sent
                along, so that the server never starts work that nobody waits for.
            connect_timeout_s: bound of opening a connection.
            retry: when and how often to try again; ``RetryPolicy(max_attempts=1)`` is never.
            max_request_bytes: a call whose tensors take more is split by rows and its answers are
                joined. The default is just below what Cloud Functions accepts.
            max_rows_per_call: a call of more rows is split; None for no such bound.
            max_response_bytes: a longer reply is refused before it is in memory.
            token: sent as ``Authorization: Bearer …``.
            headers: sent with every request.
            verify: False, or a context of one's own, to change how certificates are checked.
            transport: an httpx transport to use instead of the network.
            clock: time, for tests.

        Raises:
            ConfigError: an option makes no sense.
        """
        self._clock = clock or Clock()
        self._session = Session(
            ClientOptions(
                url=url,
                model=model,
                timeout_s=timeout_s,
                connect_timeout_s=connect_timeout_s,
                retry=retry or RetryPolicy(),
                max_request_bytes=max_request_bytes,
                max_rows_per_call=max_rows_per_call,
                max_response_bytes=max_response_bytes,
                token=token,
                headers=dict(headers or {}),
            ),
            clock=self._clock,
        )
        self._open(
            limits=limits(),
            transport=transport,
            verify=verify,
            # Redirects may lead credentials astray and turn a POST into a GET; see replies.py.
            follow_redirects=False,
        )

    def _open(self, **http_options: Any) -> None:
        """Make the httpx client; its two kinds take the same options."""
        raise NotImplementedError

    def __repr__(self) -> str:
        options = self._session.options
        return f"{type(self).__name__}({options.url!r}, model={options.model!r})"


def check_many(
    items: object, *, max_in_flight: int, errors: Literal["raise", "return"], progress: Progress
) -> None:
    """Refuse invalid arguments of ``predict_many``, before the first request."""
    if isinstance(items, Mapping | str | bytes):
        raise ConfigError(
            f"predict_many: expected an iterable of rows or of batches, got a "
            f"{type(items).__name__}; one batch by names goes to predict()"
        )
    if max_in_flight < 1:
        raise ConfigError(f"max_in_flight: expected at least 1, got {max_in_flight}")
    if errors not in ("raise", "return"):
        raise ConfigError(f"errors: expected 'raise' or 'return', got {errors!r}")
    check_progress(progress)
