"""Limits of a request, from the environment or from code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from maas_sdk.errors import ConfigError

__all__ = ["EndpointLimits"]

# What Cloud Run lets through over HTTP/1.
_DEFAULT_MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
_DEFAULT_READY_WAIT_S: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointLimits:
    """Limits of what a request may ask of the endpoint."""

    # Bytes of a request's body.
    max_request_bytes: int = _DEFAULT_MAX_REQUEST_BYTES
    # Longest wait of a call for the model to be loaded, then 503; its own timeout bounds it too.
    ready_wait_s: float = _DEFAULT_READY_WAIT_S

    def __post_init__(self) -> None:
        if self.max_request_bytes < 1 or not self.ready_wait_s >= 0:
            raise ConfigError(
                "EndpointLimits: expected max_request_bytes ≥ 1 and ready_wait_s ≥ 0, got "
                f"{self.max_request_bytes} and {self.ready_wait_s}"
            )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EndpointLimits:
        """Read ``MAAS_MAX_REQUEST_BYTES`` and ``MAAS_READY_WAIT_S``; defaults where they are unset.

        Raises:
            ConfigError: a value is not a number, or out of range.
        """
        try:
            return cls(
                max_request_bytes=int(
                    environ.get("MAAS_MAX_REQUEST_BYTES", _DEFAULT_MAX_REQUEST_BYTES)
                ),
                ready_wait_s=float(environ.get("MAAS_READY_WAIT_S", _DEFAULT_READY_WAIT_S)),
            )
        except ConfigError:  # a ValueError too, and says more than the one below
            raise
        except ValueError as error:
            raise ConfigError(
                f"environment: MAAS_MAX_REQUEST_BYTES and MAAS_READY_WAIT_S are numbers: {error}"
            ) from error
