"""A model's life cycle in a server: loading, ready or failed, draining.

    LOADING ──▶ READY ──▶ DRAINING          calls wait while it loads, and are
       └─◀───▶ FAILED                       refused once it drains

Loading runs in a thread of its own, begun by ``start`` and off the path of any request. Callers
wait for it within a bound instead of being refused; when it failed, every one of them gets the
error that it failed with. Where that may pass, as when a store gave no answer or lets this account
in only in a minute, a later call or probe begins anew; any other failure stays. What a load is, is
the ``load`` function's business: tests hand in a fake.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final

from maas_sdk.errors import (
    ConfigError,
    MaasError,
    MachineError,
    ModelError,
    NotReadyError,
    OverloadedError,
    TransportError,
    traits,
)
from maas_sdk.serve.logs import log

if TYPE_CHECKING:
    from maas_sdk.serve.core.served import ServedEngine

__all__ = ["ModelHost", "State"]

# Errors of a load that may be gone at the next: an outage, a right granted since, a disk made free.
# What is wrong with the bundle itself is as wrong a moment later.
_MAY_PASS: Final = (TransportError, OverloadedError, ConfigError, MachineError)


class State(Enum):
    """State of a model's life cycle."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


class ModelHost:
    """Owner of one model from the start of its loading to its last call. Thread-safe."""

    def __init__(
        self,
        load: Callable[[], ServedEngine],
        *,
        name: str | None = None,
        version: str = "1",
        label: str | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
        load_again_after_s: float = 5.0,
    ) -> None:
        """Set up without loading anything: this may run before a fork.

        Args:
            load: loads the model; called in a thread, and again only after ``TransportError``,
                ``OverloadedError``, ``ConfigError`` or ``MachineError``.
            name: of the model; None: the manifest's, known once it is loaded.
            version: of the model, a positive integer in digits.
            label: by which this version was asked of a store, such as "stable"; None: by none.
            is_stopping: whether the server around this host has begun to stop; asked at each call.
            load_again_after_s: how long such an error stands before a call begins to load again.
        """
        self._load = load
        self._name = name
        self.version = version
        self.label = label
        self._is_stopping = is_stopping
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._engine: ServedEngine | None = None
        self._error: BaseException | None = None
        self._load_again_after_s = load_again_after_s
        self._load_again_at = 0.0
        self._draining = False
        self._in_flight = 0

    @property
    def name(self) -> str | None:
        """Name of the model; None until it is known."""
        return self._name

    @property
    def state(self) -> State:
        """Present state of the model."""
        if self._draining or self._is_stopping():
            return State.DRAINING
        if self._failure() is not None:
            return State.FAILED
        return State.LOADING if self._engine is None else State.READY

    def start(self) -> None:
        """Start to load, in a thread; do nothing the second time."""
        if self._thread is not None:  # asked at every call: without the lock
            return
        with self._changed:
            if self._thread is None and not self._draining:
                # A daemon: a load that hangs must not keep the process from ending.
                thread = threading.Thread(target=self._run, name="maas-load", daemon=True)
                thread.start()
                self._thread = thread

    def wait(self, timeout_s: float) -> None:
        """Wait until loading has ended, well or not, or ``timeout_s`` is over."""
        with self._changed:
            self._changed.wait_for(self._settled, timeout=timeout_s)

    def engine(self, wait_s: float) -> ServedEngine:
        """Return the loaded engine; start loading if nobody did.

        Args:
            wait_s: longest wait for the load to end.

        Raises:
            NotReadyError: still loading after ``wait_s``, or draining.
            MaasError: the load failed: of the class and with the message it failed with. An error
                from outside the family, or of a class that blames the caller, comes as
                ``ModelError``.
        """
        if self._engine is None:
            self._forget_what_may_pass()
            self.start()
            self.wait(wait_s)
        self._check()
        assert self._engine is not None
        return self._engine

    @contextmanager
    def use(self, wait_s: float) -> Iterator[ServedEngine]:
        """Give the engine as ``engine`` does; a drain waits until the block has ended."""
        if self._engine is None:
            self.engine(wait_s)
        with self._changed:
            self._check()  # under the lock: from here on a drain sees this call
            self._in_flight += 1
        assert self._engine is not None
        try:
            yield self._engine
        finally:
            with self._changed:
                self._in_flight -= 1
                if self._draining:
                    self._changed.notify_all()

    def check(self) -> None:
        """Check that a call could run now. Raises as ``engine``, without waiting."""
        if self._engine is None and self._forget_what_may_pass():
            self.start()
        self._check()

    def _check(self) -> None:
        match self.state:
            case State.DRAINING:
                raise NotReadyError(
                    "the server is draining before it stops: send the call again, another instance "
                    "will take it",
                    retry_after_s=1,
                )
            case State.FAILED:
                error = self._failure()
                assert error is not None
                raise _as_ours(error) from error
            case State.LOADING:
                raise NotReadyError(
                    "the model is still loading: send the call again later", retry_after_s=1
                )

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls, let those in flight finish, free the engine.

        Returns:
            Whether all ended within ``timeout_s``; if not, the engine is left as it is.
        """
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            idle = self._changed.wait_for(self._idle, timeout=timeout_s)
            engine = self._engine if idle else None
            if idle:
                self._engine = None
        if engine is not None:
            engine.close()
        return idle

    def _forget_what_may_pass(self) -> bool:
        """Return True, and reset, when a temporary loading error is old enough for a retry."""
        if not isinstance(self._error, _MAY_PASS):
            return False
        with self._changed:
            if self._error is None or time.monotonic() < self._load_again_at:
                return False
            self._error = self._thread = None
            return True

    def _failure(self) -> BaseException | None:
        """Return the error of loading, or the engine's fault since."""
        return self._error if self._engine is None else self._engine.fault

    def _settled(self) -> bool:
        return self._engine is not None or self._error is not None or self._draining

    def _idle(self) -> bool:
        loading = self._thread is not None and self._engine is None and self._error is None
        return not self._in_flight and not loading

    def _run(self) -> None:
        began = time.monotonic()
        engine, error = None, None
        try:
            engine = self._load()
            name = self._name or engine.manifest.name
        except BaseException as caught:  # whatever it is, every caller is to hear of it
            error = caught
        with self._changed:
            if error is None:
                self._name, self._engine = name, engine
            else:
                self._error = error
                self._load_again_at = time.monotonic() + self._load_again_after_s
            self._changed.notify_all()
        # After the callers were woken: the line must not delay the first answer.
        seconds = round(time.monotonic() - began, 4)
        if engine is None or error is not None:
            log("ERROR", f"loading failed: {error}", error=error, seconds=seconds)
            return
        report = engine.report
        log(
            "INFO",
            f"model {name} loaded",
            model=name,
            version=self.version,
            seconds=seconds,
            tier=report.tier,
            target=report.target,
            reason=report.reason,
            timings_s=dict(report.timings_s),
        )


def _as_ours(error: BaseException) -> MaasError:
    """Return a fresh error of the package's family for one caller.

    A class that blames the caller, such as NotFoundError for the bundle's folder, becomes a
    ModelError: the fault is this side's.
    """
    if not isinstance(error, MaasError):
        return ModelError(f"the model could not be loaded: {type(error).__name__}: {error}")
    if traits(error).http_status < 500:
        message = f"the model could not be loaded: {error.message}"
        return ModelError(message, retry_after_s=error.retry_after_s, **error.evidence)
    return error.copy()
