"""The endpoint: a request in, a response out, whatever happens. No web framework, no I/O.

How a predict request is read and its answer written is its dialect's affair (``serve.dialects``).
All other errors are JSON, ``{"error": message, "code": code}``, with the status of
``errors.TRAITS``.

The rule: ``handle`` never raises. An error that nobody foresaw is logged with its traceback, and
its caller hears of its class only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from maas_sdk.errors import (
    ConfigError,
    DeadlineError,
    MaasError,
    MediaTypeError,
    NotFoundError,
    NotReadyError,
    TooLargeError,
    traits,
)
from maas_sdk.serve.core.calls import answer_calls, find_program, late_failure
from maas_sdk.serve.core.limits import EndpointLimits
from maas_sdk.serve.core.messages import Request, Response, error_response, json_response
from maas_sdk.serve.core.routes import Route, find_route
from maas_sdk.serve.dialects import find_dialect
from maas_sdk.serve.logs import log
from maas_sdk.wire.calls import Failure

if TYPE_CHECKING:
    from maas_sdk.serve.core.served import ServedEngine, ServedModel
    from maas_sdk.serve.dialects.interface import PredictBody
    from maas_sdk.tensors import Signature

__all__ = ["Endpoint"]

# When this module was imported, which is in the first moments of a serving process.
_BEGAN_S: Final = time.monotonic()


class Endpoint:
    """Endpoint of one or more models. Thread-safe: ``handle`` may run in many threads."""

    def __init__(
        self,
        hosts: ServedModel | Sequence[ServedModel],
        limits: EndpointLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up the endpoint without loading anything.

        Args:
            hosts: the models. Of several, each has its name and no two the same.
            limits: what a request may ask.
            clock: seconds that never go back.

        Raises:
            ConfigError: no host, or several of which one has no name of its own.
        """
        self.hosts = tuple(hosts) if isinstance(hosts, Sequence) else (hosts,)
        self.limits = limits or EndpointLimits()
        self._clock = clock
        names = {host.name for host in self.hosts}
        if not self.hosts or (
            len(self.hosts) > 1 and (None in names or len(names) < len(self.hosts))
        ):
            raise ConfigError(
                "an endpoint serves one model, or several of different names: "
                f"ModelHost(…, name=…); got {[host.name for host in self.hosts]}"
            )

    def start(self) -> None:
        """Start to load every model."""
        for host in self.hosts:
            host.start()

    def drain(self, timeout_s: float) -> bool:
        """Drain every model within one bound; return True if all calls ended in time."""
        end = self._clock() + timeout_s
        ended = [host.drain(max(0.0, end - self._clock())) for host in self.hosts]
        return all(ended)

    def handle(self, request: Request) -> Response:
        """Answer a request. Never raises."""
        arrived = self._clock()
        tell = error_response
        try:
            route = find_route(request.method, request.path)
            if route.action == "predict":
                self._check_body(request)
                dialect = find_dialect(route.api, request.headers.get("content-type", ""))
                tell = dialect.error_response
                host = self._host(route)
                body = dialect.read(request.body, max_bytes=self.limits.max_request_bytes)
                response = self._predict(host, route, body, arrived)
            else:
                response = self._answer(route)
        except MaasError as error:
            response = self.refuse(error, tell)
        except Exception as error:
            log("ERROR", f"{request.method} {request.path[:200]} failed: {error}", error=error)
            response = tell(
                MaasError(f"internal error: {type(error).__name__}; the server's log has more")
            )
        return response._replace(body=[]) if request.method == "HEAD" else response

    def refuse(
        self, error: MaasError, tell: Callable[[MaasError], Response] = error_response
    ) -> Response:
        """The response that tells a caller of ``error``, written by ``tell``."""
        row = traits(error)
        if row.http_status >= 500 and not row.retryable:
            log("ERROR", error.message, code=row.code)
        return tell(error)

    def check_size(self, nbytes: int) -> None:
        """Raise ``TooLargeError`` for a body of ``nbytes``, before it is read, if it is over."""
        limit = self.limits.max_request_bytes
        if nbytes > limit:
            raise TooLargeError(
                f"the request's body has {nbytes} bytes or more, the limit is {limit}: "
                "send fewer rows per request",
                nbytes=nbytes,
                limit=limit,
            )

    # ---- what a path means ----

    def _answer(self, route: Route) -> Response:
        match route.action:
            case "live":
                return json_response({"live": True})
            case "ready":
                for host in self.hosts:
                    host.start()
                    host.check()
                return json_response({"ready": True})
        # Not on the path of a first answer.
        from maas_sdk.serve.core.metadata import metadata_document, status_document

        host = self._host(route)
        if route.action == "status":
            # A store tells version and label while the model is loading.
            if host.state.value != "loading":
                self._check_model(route, host, None)
            return json_response(status_document(host))
        with host.use(self.limits.ready_wait_s) as engine:
            self._check_model(route, host, engine)
            return json_response(metadata_document(host, engine, began_s=_BEGAN_S))

    def _check_body(self, request: Request) -> None:
        self.check_size(memoryview(request.body).nbytes)
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise MediaTypeError(f"Content-Encoding {coding[:64]!r}: send the body as it is")

    def _predict(
        self, host: ServedModel, route: Route, body: PredictBody, arrived: float
    ) -> Response:
        longest_s = body.timeout_s
        wait_s = max(0.0, min(self.limits.ready_wait_s, longest_s - self._elapsed_s(arrived)))
        try:
            with host.use(wait_s) as engine:
                self._check_model(route, host, engine)
                calls, write = body.calls(_signatures(engine))
                answers = answer_calls(engine, calls, lambda: self._elapsed_s(arrived))
        except NotReadyError:
            elapsed_s = self._elapsed_s(arrived)
            if host.state.value != "loading" or elapsed_s < longest_s:
                raise
            calls, write = body.calls(_no_signature)
            answers = [
                call if isinstance(call, Failure) else late_failure(call, elapsed_s)
                for call in calls
            ]
        return write(answers)

    # ---- which model is meant ----

    def _host(self, route: Route) -> ServedModel:
        """The host of the model that a path names; its name may still be unknown."""
        for host in self.hosts:
            if host.name is None or host.name == route.model:
                return host
        raise self._unknown(route, [host.name for host in self.hosts])

    def _check_model(self, route: Route, host: ServedModel, engine: ServedEngine | None) -> None:
        """Hold a path against the model's name, version and label, known once it is loaded."""
        if engine is not None and all(host.name != route.model for host in self.hosts):
            raise self._unknown(route, [engine.manifest.name])
        if route.version is not None and route.version.lstrip("0") != host.version:
            raise NotFoundError(
                f"model {route.model!r} has version {host.version}, not {route.version}",
                version=route.version,
            )
        if route.label is not None and route.label != host.label:
            served = f"version {host.version}, by " + (
                f"label {host.label!r}" if host.label else "no label: leave it out"
            )
            raise NotFoundError(
                f"model {route.model!r} has no label {route.label!r} here; this endpoint serves "
                f"{served}",
                label=route.label,
            )

    def _unknown(self, route: Route, names: Sequence[str | None]) -> NotFoundError:
        known = ", ".join(str(name) for name in names)
        return NotFoundError(
            f"Servable not found for request: Latest({route.model}); this endpoint serves {known}",
            model=route.model,
        )

    def _elapsed_s(self, arrived: float) -> float:
        return self._clock() - arrived


def _signatures(engine: ServedEngine) -> Callable[[str | None], Signature]:
    programs = engine.manifest.programs
    return lambda name: programs[find_program(engine.manifest, name)].signature


def _no_signature(name: str | None) -> Signature:
    """For a dialect that cannot even read its calls without the model that is not there yet."""
    raise DeadlineError("the request's timeout had passed before the model was loaded")
