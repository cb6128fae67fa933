"""The client's conversation with an endpoint as pure steps: requests, waits, replies. No I/O.

Each question to the endpoint is a generator of **steps**: it yields the next action, ``Send``
a request or ``Wait`` some seconds, receives the action's result, and returns the answer. A shell
performs the steps, with a blocking transport or an asynchronous one, and knows nothing else::

    step = next(steps)
    while True:
        step = steps.send(perform(step))     # until StopIteration brings the answer

``perform`` gives the ``Reply``, or the error if none came (already one of ours), or None for a
wait. So retries, deadlines, frames and failures are written once, and tested without sockets.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from maas_sdk.client.chunking import CallPart, Chunker, Collector, Outputs, framed_nbytes
from maas_sdk.client.clock import Clock
from maas_sdk.client.inputs import ProgramInputs, as_inputs, program_inputs
from maas_sdk.client.options import ClientOptions, RouteOptions, check_seconds
from maas_sdk.client.replies import Reply, read_json, read_results
from maas_sdk.client.retries import RetryBudget
from maas_sdk.errors import ConfigError, DeadlineError, MaasError, traits
from maas_sdk.tensors import Array
from maas_sdk.wire.frames import (
    CONTENT_TYPE,
    Call,
    Failure,
    FrameLimits,
    Result,
    encode_calls,
)

__all__ = ["CallOptions", "Send", "Session", "Steps", "T", "Wait", "plain"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Send:
    """Step: send this request and read its reply to the end."""

    method: Literal["GET", "POST"]
    url: str
    headers: Mapping[str, str]
    body: Sequence[bytes | bytearray | memoryview]
    # Until the caller's deadline, counted from now.
    left_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Step: let time pass."""

    seconds: float


Steps = Generator[Send | Wait, Reply | MaasError | None, T]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallOptions:
    """Options of one call; None is the client's or the server's default."""

    program: str | None = None
    version: int | str | None = None
    label: str | None = None
    timeout_s: float | None = None
    # Higher is sooner, where the server has to choose.
    priority: int = 0


class Session:
    """The conversation with one endpoint about one model. Thread-safe: share it between calls."""

    def __init__(
        self, options: ClientOptions, *, clock: Clock, rng: random.Random | None = None
    ) -> None:
        self.options = options
        self._clock = clock
        self._random = (rng or random.Random()).random
        self._budget = RetryBudget(options.retry)
        self._limits = FrameLimits(max_bytes=options.max_response_bytes)
        self._signatures: dict[tuple[RouteOptions, str | None], ProgramInputs] = {}

    # ---- questions ----

    def predict(self, x: object, call: CallOptions) -> Steps[Outputs]:
        """Make one call; several, one after the other, if it has to be split."""
        route, deadline = self._route(call), self._deadline(call)
        signature = None
        if not isinstance(x, Mapping):
            signature = yield from self.signature(call, deadline)
        inputs = as_inputs(x, signature)
        if signature is None and self._may_split(inputs):
            signature = yield from self.signature(call, deadline)
        chunker = self.chunker(of="batches", signature=signature, chunk_rows=1)
        collector = Collector()
        answers: list[Outputs | MaasError] = []
        for (part,) in [*chunker.push(inputs), *chunker.finish()]:
            (outcome,) = yield from self._exchange((part,), route, call, deadline)
            # No need to say where in a call that was sent whole.
            whole = part.last and not part.first_row
            answers += collector.add(part, outcome if whole else _located(outcome, part))
            if isinstance(outcome, MaasError):
                break
        (answer,) = answers or collector.finish()
        if isinstance(answer, MaasError):
            raise answer
        return answer

    def exchange(
        self, parts: Sequence[CallPart], call: CallOptions
    ) -> Steps[list[Outputs | MaasError]]:
        """Send one request with its retries; return the outcome of each of its calls, in order.

        Errors are values here, with the items they are about in their messages.
        """
        outcomes = yield from self._exchange(parts, self._route(call), call, self._deadline(call))
        return [_located(o, part) for o, part in zip(outcomes, parts, strict=True)]

    def signature(self, call: CallOptions, deadline: float | None = None) -> Steps[ProgramInputs]:
        """Return the inputs of the program of ``call``; asked for once, then remembered."""
        route = self._route(call)
        known = self._signatures.get((route, call.program))
        if known is None:
            document = yield from self.metadata(call, deadline)
            url = self.options.address(route.path() + "/metadata")
            known = self._signatures[route, call.program] = program_inputs(
                document, call.program, url=url
            )
        return known

    def metadata(self, call: CallOptions, deadline: float | None = None) -> Steps[Any]:
        """Return the model's metadata, as the JSON document that the server sends."""
        path = self._route(call).path() + "/metadata"
        if deadline is None:
            deadline = self._deadline(call)
        self._budget.pay_in()
        attempts = 0
        while True:
            attempts += 1
            reply = yield self._get(path, deadline)
            try:
                if isinstance(reply, MaasError):
                    raise reply
                assert reply is not None
                return read_json(reply, now=self._clock.time())
            except MaasError as error:
                wait = self._next_wait(error, attempts, deadline)
                if wait is None:
                    raise
            yield wait

    def probe(self, path: str) -> Steps[bool]:
        """Return True when a health path answers 200; False if nothing answers. Never retried."""
        reply = yield self._get(path, self._clock.monotonic() + self.options.timeout_s)
        return isinstance(reply, Reply) and reply.status == 200

    # ---- for predict_many, whose scheduling is the shells' ----

    def chunker(
        self,
        *,
        of: Literal["rows", "batches"],
        signature: ProgramInputs | None,
        chunk_rows: int,
    ) -> Chunker:
        """Return a chunker within this client's limits."""
        return Chunker(
            of=of,
            signature=signature,
            chunk_rows=chunk_rows,
            max_rows=self.options.max_rows_per_call,
            max_bytes=self.options.max_request_bytes,
            max_calls=self._limits.max_calls,
        )

    # ---- one request and its retries ----

    def _exchange(
        self, parts: Sequence[CallPart], route: RouteOptions, call: CallOptions, deadline: float
    ) -> Steps[list[Outputs | MaasError]]:
        url = self.options.address(route.path() + ":predict")
        outcomes: dict[int, Outputs | MaasError] = {}
        pending = list(range(len(parts)))
        self._budget.pay_in()
        attempts = 0
        while True:
            attempts += 1
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                # What the last attempt met says more than that time is up.
                for index in pending:
                    outcomes.setdefault(index, _too_late(url))
                break
            calls = [
                Call(
                    id=str(index),
                    inputs=dict(parts[index].inputs),
                    program=call.program,
                    timeout_s=left_s,
                    priority=call.priority,
                )
                for index in pending
            ]
            reply = yield self._post(url, encode_calls(calls), left_s)
            outcomes.update(self._read(reply, pending))
            # Calls that were answered are done; only those that may succeed are sent again.
            again = {
                index: error
                for index in pending
                if isinstance(error := outcomes[index], MaasError) and traits(error).retryable
            }
            if not again:
                break
            # One wait for all: as long as the most patient of them asks for.
            hardest = max(again.values(), key=lambda error: error.retry_after_s or 0.0)
            wait = self._next_wait(hardest, attempts, deadline)
            if wait is None:
                break
            yield wait
            pending = list(again)
        return [outcomes[index] for index in range(len(parts))]

    def _read(
        self, reply: Reply | MaasError | None, pending: list[int]
    ) -> dict[int, Outputs | MaasError]:
        if isinstance(reply, MaasError):
            return dict.fromkeys(pending, reply)
        assert reply is not None
        ids = [str(index) for index in pending]
        found = read_results(reply, ids, limits=self._limits, now=self._clock.time())
        return {int(id): _outcome(value) for id, value in found.items()}

    def _next_wait(self, error: MaasError, attempts: int, deadline: float) -> Wait | None:
        """Return the wait before the next attempt; None, noted on the error, if there is none."""
        wait_s = self.options.retry.next_wait_s(
            error,
            attempts=attempts,
            left_s=deadline - self._clock.monotonic(),
            budget=self._budget,
            random=self._random,
        )
        if isinstance(wait_s, str):
            if traits(error).retryable:
                error.evidence |= {"attempts": attempts, "gave_up": wait_s}
                error.add_note(f"Not tried again: {wait_s}.")
            return None
        return Wait(seconds=wait_s)

    # ---- small parts ----

    def _get(self, path: str, deadline: float) -> Send:
        url = self.options.address(path)
        return self._send("GET", url, (), self._left(url, deadline), "application/json")

    def _post(
        self, url: str, body: Sequence[bytes | bytearray | memoryview], left_s: float
    ) -> Send:
        return self._send("POST", url, body, left_s, CONTENT_TYPE)

    def _send(
        self,
        method: Literal["GET", "POST"],
        url: str,
        body: Sequence[bytes | bytearray | memoryview],
        left_s: float,
        media_type: str,
    ) -> Send:
        headers = {
            **self.options.all_headers(),
            # Errors are JSON, whatever was asked for.
            "Accept": ", ".join(dict.fromkeys((media_type, "application/json"))),
            # Tensors hardly shrink, and a compressed reply's size is no bound on memory.
            "Accept-Encoding": "identity",
        }
        if method == "POST":
            nbytes = sum(memoryview(buffer).nbytes for buffer in body)
            headers |= {"Content-Type": media_type, "Content-Length": str(nbytes)}
        return Send(method=method, url=url, headers=headers, body=body, left_s=left_s)

    def _route(self, call: CallOptions) -> RouteOptions:
        if self.options.model is None:
            raise ConfigError("which model? Give its name: Client(url, model='…')")
        return RouteOptions(model=self.options.model, version=call.version, label=call.label)

    def _deadline(self, call: CallOptions) -> float:
        timeout_s = self.options.timeout_s
        if call.timeout_s is not None:
            timeout_s = check_seconds("timeout_s", call.timeout_s)
        return self._clock.monotonic() + timeout_s

    def _left(self, url: str, deadline: float) -> float:
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            raise _too_late(url)
        return left_s

    def _may_split(self, inputs: Mapping[str, Array]) -> bool:
        most = self.options.max_rows_per_call
        return framed_nbytes(inputs) > self.options.max_request_bytes or (
            most is not None and any(a.ndim and len(a) > most for a in inputs.values())
        )


def plain(outputs: Outputs) -> Array | Outputs:
    """Return the array of a program with one output, else the outputs by name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _outcome(value: Result | Failure | MaasError) -> Outputs | MaasError:
    if isinstance(value, Result):
        return dict(value.outputs)
    return value.to_error() if isinstance(value, Failure) else value


def _too_late(url: str) -> DeadlineError:
    return DeadlineError(f"{url}: the caller's time was up before the request was sent")


def _located(outcome: Outputs | MaasError, part: CallPart) -> Outputs | MaasError:
    """Return the error with the items that it is about; results unchanged."""
    if not isinstance(outcome, MaasError):
        return outcome
    located = type(outcome)(
        f"{part.where()}: {outcome.message}",
        retry_after_s=outcome.retry_after_s,
        **{**outcome.evidence, "first_item": part.start, "last_item": part.stop - 1},
    )
    for note in getattr(outcome, "__notes__", ()):
        located.add_note(note)
    located.__cause__ = outcome.__cause__
    return located
