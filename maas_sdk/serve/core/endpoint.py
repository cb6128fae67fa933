"""The endpoint: a request in, a response out, whatever happens. No web framework, no I/O.

Which dialect a predict request speaks is told by its ``Content-Type``: a msgpack frame
(``wire/frames.py``) or TensorFlow Serving's JSON (``wire/tfserving.py``). Errors are JSON in all of
them, ``{"error": message, "code": code}``, with the status of ``errors.TRAITS``.

The rule: ``handle`` never raises. An error that nobody foresaw is logged with its traceback, and
its caller hears of its class only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from maas_sdk.errors import (
    ConfigError,
    MaasError,
    MediaTypeError,
    NotFoundError,
    NotReadyError,
    TooLargeError,
    traits,
)
from maas_sdk.serve.core.calls import answer_calls, find_program, late_failure
from maas_sdk.serve.core.messages import (
    Request,
    Response,
    buffers_response,
    error_response,
    json_response,
)
from maas_sdk.serve.core.routes import Route, find_route
from maas_sdk.serve.host import ModelHost, ServedEngine, State
from maas_sdk.serve.logs import log
from maas_sdk.wire.frames import (
    CONTENT_TYPE,
    Call,
    Failure,
    FrameLimits,
    Result,
    decode_calls,
    encode_results,
)

__all__ = ["Endpoint", "EndpointLimits", "Request", "Response"]

_FRAMES: Final = frozenset({CONTENT_TYPE, "application/msgpack", "application/vnd.msgpack"})
# TensorFlow Serving does not look at the type: its documentation's `curl -d` sends the second one.
_JSON: Final = frozenset({"application/json", "application/x-www-form-urlencoded", ""})

# TensorFlow Serving's word for each state of a version.
_TFS_STATES: Final = {
    State.LOADING: "LOADING",
    State.READY: "AVAILABLE",
    State.FAILED: "END",
    State.DRAINING: "UNLOADING",
}


# When this module was imported, which is in the first moments of a serving process.
_BEGAN_S: Final = time.monotonic()
# What Cloud Run lets through over HTTP/1.
_DEFAULT_MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
_DEFAULT_READY_WAIT_S: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointLimits:
    """Limits on a request to the endpoint."""

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
        """Return limits, as set by ``MAAS_MAX_REQUEST_BYTES`` and ``MAAS_READY_WAIT_S``.

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
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(
                f"environment: MAAS_MAX_REQUEST_BYTES and MAAS_READY_WAIT_S are numbers: {error}"
            ) from error


class Endpoint:
    """Endpoint of one or more models. Thread-safe: ``handle`` may run in many threads."""

    def __init__(
        self,
        hosts: ModelHost | Sequence[ModelHost],
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
        self.hosts = (hosts,) if isinstance(hosts, ModelHost) else tuple(hosts)
        self.limits = limits or EndpointLimits()
        self._frame_limits = FrameLimits(max_bytes=self.limits.max_request_bytes)
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
        try:
            response = self._answer(request, arrived)
        except MaasError as error:
            response = self.refuse(error)
        except Exception as error:
            log("ERROR", f"{request.method} {request.path[:200]} failed: {error}", error=error)
            response = error_response(
                MaasError(f"internal error: {type(error).__name__}; the server's log has more")
            )
        return response._replace(body=[]) if request.method == "HEAD" else response

    def refuse(self, error: MaasError) -> Response:
        """Return the response that tells a caller of ``error``."""
        row = traits(error)
        if row.http_status >= 500 and not row.retryable:
            log("ERROR", error.message, code=row.code)
        return error_response(error)

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

    def _answer(self, request: Request, arrived: float) -> Response:
        route = find_route(request.method, request.path)
        match route.action:
            case "live":
                return json_response({"live": True})
            case "ready":
                return self._ready()
            case "status":
                return self._status(self._host(route))
            case "metadata":
                return self._metadata(route)
            case "predict":
                return self._predict(request, route, arrived)

    def _ready(self) -> Response:
        for host in self.hosts:
            host.start()
            host.check()
        return json_response({"ready": True})

    def _status(self, host: ModelHost) -> Response:
        from maas_sdk.wire.tfserving_metadata import status_body

        state = host.state
        code, message = "OK", ""
        if state is State.FAILED:
            try:
                host.check()
            except MaasError as error:
                code, message = "INTERNAL", error.message
        return json_response(status_body({host.version: (_TFS_STATES[state], code, message)}))

    def _metadata(self, route: Route) -> Response:
        from maas_sdk.wire.tfserving_metadata import metadata_body

        host = self._host(route)
        with host.use(self.limits.ready_wait_s) as engine:
            self._check_name(route, engine)
            manifest, report = engine.manifest, engine.report
            try:
                default = find_program(manifest, None)
            except NotFoundError:
                default = None
            signatures = {name: program.signature for name, program in manifest.programs.items()}
            document = metadata_body(
                host.name or manifest.name, host.version, signatures, default_program=default
            )
            # Ours, beside TensorFlow Serving's: which tier serves, and why.
            document["maas"] = {
                "tier": report.tier,
                "target": report.target,
                "reason": report.reason,
                "timings_s": dict(report.timings_s),
                # So that a caller can tell a cold start from a call that met a running process.
                "age_s": round(time.monotonic() - _BEGAN_S, 3),
                "metadata": dict(manifest.metadata),
            }
            return json_response(document)

    def _predict(self, request: Request, route: Route, arrived: float) -> Response:
        self.check_size(memoryview(request.body).nbytes)
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise MediaTypeError(f"Content-Encoding {coding[:64]!r}: send the body as it is")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type in _FRAMES:
            return self._predict_frame(request, route, arrived)
        if media_type in _JSON:
            return self._predict_json(request, route, arrived)
        raise MediaTypeError(
            f"Content-Type {media_type[:64]!r}: expected {CONTENT_TYPE} or application/json",
            media_type=media_type,
        )

    def _predict_frame(self, request: Request, route: Route, arrived: float) -> Response:
        host = self._host(route)
        calls = decode_calls(request.body, self._frame_limits)
        longest_s = _longest_timeout_s(calls)
        wait_s = max(0.0, min(self.limits.ready_wait_s, longest_s - self._elapsed_s(arrived)))
        answers: list[Result | Failure]
        try:
            with host.use(wait_s) as engine:
                self._check_name(route, engine)
                answers = answer_calls(engine, calls, lambda: self._elapsed_s(arrived))
        except NotReadyError:
            elapsed_s = self._elapsed_s(arrived)
            if host.state is not State.LOADING or elapsed_s < longest_s:
                raise
            answers = [
                call if isinstance(call, Failure) else late_failure(call, elapsed_s)
                for call in calls
            ]
        return buffers_response(CONTENT_TYPE, encode_results(answers))

    def _predict_json(self, request: Request, route: Route, arrived: float) -> Response:
        # Not on the path of a msgpack caller's first answer.
        from maas_sdk.wire import tfserving

        with self._host(route).use(self.limits.ready_wait_s) as engine:
            self._check_name(route, engine)
            programs = engine.manifest.programs
            asked = tfserving.decode_predict(
                request.body,
                lambda name: programs[find_program(engine.manifest, name)].signature,
            )
            call = Call("json", asked.inputs, asked.program)
            (answer,) = answer_calls(engine, [call], lambda: self._elapsed_s(arrived))
        if isinstance(answer, Failure):
            raise answer.to_error()
        body = tfserving.encode_predict(answer.outputs, row_format=asked.row_format)
        return buffers_response("application/json", [body])

    # ---- which model is meant ----

    def _host(self, route: Route) -> ModelHost:
        """Return the host of a path's model, whose name may still be unknown."""
        for host in self.hosts:
            if host.name is None or host.name == route.model:
                if route.label is not None:
                    raise NotFoundError(
                        f"model {route.model!r} has no label {route.label!r}; leave it out",
                        label=route.label,
                    )
                if route.version is not None and route.version.lstrip("0") != host.version:
                    raise NotFoundError(
                        f"model {route.model!r} has version {host.version}, not {route.version}",
                        version=route.version,
                    )
                return host
        raise self._unknown(route, [host.name for host in self.hosts])

    def _check_name(self, route: Route, engine: ServedEngine) -> None:
        """Check the path's name against that of the model, which is known once loaded."""
        if all(host.name != route.model for host in self.hosts):
            raise self._unknown(route, [engine.manifest.name])

    def _unknown(self, route: Route, names: Sequence[str | None]) -> NotFoundError:
        known = ", ".join(str(name) for name in names)
        return NotFoundError(
            f"Servable not found for request: Latest({route.model}); this endpoint serves {known}",
            model=route.model,
        )

    def _elapsed_s(self, arrived: float) -> float:
        return self._clock() - arrived


def _longest_timeout_s(calls: Sequence[Call | Failure]) -> float:
    """Return seconds after which every call of a request has passed its deadline."""
    timeouts = [call.timeout_s for call in calls if isinstance(call, Call)]
    return max(
        (float("inf") if timeout_s is None else timeout_s for timeout_s in timeouts), default=0.0
    )
