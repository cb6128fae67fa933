"""A model as the core sees it: an engine that answers, and the life around it.

Interfaces alone. ``maas_sdk.runtime.Engine`` is a ``ServedEngine``, ``serve.host.ModelHost`` a
``ServedModel``; tests have others. The core knows neither: it starts no thread and loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from maas_sdk.bundle.manifest import Manifest
from maas_sdk.errors import MaasError
from maas_sdk.tensors import Array

if TYPE_CHECKING:
    # Importing it at run time would load jaxlib, in an order that is for ``start`` to decide.
    from maas_sdk.runtime.engine import CheckedCall

__all__ = ["ServedEngine", "ServedModel"]


class ServedEngine(Protocol):
    """A loaded model. Thread-safe."""

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle that was loaded."""

    @property
    def report(self) -> Any:
        """Report of the load: ``tier``, ``target``, ``reason``, ``timings_s``."""

    @property
    def fault(self) -> MaasError | None:
        """Error of every call, once the engine found itself not to be trusted; or None."""

    def check(self, program: str, inputs: Mapping[str, Array]) -> CheckedCall:
        """Hold inputs against a program's signature."""

    def run_checked(self, call: CheckedCall) -> dict[str, Array]:
        """Outputs by name of a call, or of several joined."""

    def close(self) -> None:
        """Free what it holds; no call follows."""


class ServedModel(Protocol):
    """A model that is loaded, serves and drains. Thread-safe."""

    @property
    def name(self) -> str | None:
        """Name of the model; None as long as it is not known."""

    @property
    def version(self) -> str:
        """Version of the model, in digits."""

    @property
    def label(self) -> str | None:
        """Label that the model was asked for by; None: by none."""

    @property
    def state(self) -> Enum:
        """``serve.host.State``; its value is "loading", "ready", "failed" or "draining"."""

    def start(self) -> None:
        """Begin to load; does nothing the second time."""

    def check(self) -> None:
        """Return if a call could run now; raise what keeps it from running otherwise."""

    def use(self, wait_s: float) -> AbstractContextManager[ServedEngine]:
        """Engine for one request, after at most ``wait_s`` of waiting for the load."""

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and let those in flight finish; False if they took too long."""
