"""``Client``: the session's steps over a blocking ``httpx.Client``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Self

import httpx

from maas_sdk.client.chunking import CallPart, Collector, Outputs
from maas_sdk.client.inputs import ProgramInputs, as_inputs
from maas_sdk.client.progress import Progress, reporting, total_of
from maas_sdk.client.replies import Reply
from maas_sdk.client.session import CallOptions, Send, Steps, T, Wait, plain
from maas_sdk.client.shell import Shell, check_many
from maas_sdk.client.transport import FOREIGN, ReplyBuffer, blocks, timeouts, translate
from maas_sdk.errors import ConfigError, DeadlineError, MaasError
from maas_sdk.tensors import Array

__all__ = ["Client"]


class Client(Shell[httpx.BaseTransport]):
    """Client of a model at an endpoint. Thread-safe; keeps its connections open.

    ::

        with Client("https://…", model="digits") as client:
            logits = client.predict(images)  # [B, 8, 8, 1] → [B, 10]
    """

    def _open(self, **http_options: Any) -> None:
        self._http = httpx.Client(**http_options)

    # ---- calls ----

    def predict(
        self,
        x: object,
        *,
        program: str | None = None,
        version: int | str | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Array | Outputs:
        """Return the model's answer to one batch.

        A batch over ``max_request_bytes`` (or ``max_rows_per_call``) is split by rows, sent in
        several requests and its answers are joined, if its inputs have a batch dimension.

        Args:
            x: an array [B, …] for a program with one input (its name is asked of the endpoint
                once), or a mapping from input names to arrays. Every dtype of
                ``maas_sdk.tensors.BITS`` travels, bfloat16 among them.
            program: which of the model's programs; None for its usual one.
            version: which version; None for the one that the endpoint chooses.
            label: which label ("stable", "canary"), instead of a version.
            timeout_s: bound of the whole call; None for the client's.
            priority: higher is sooner, where the server has to choose.

        Returns:
            The output as an array, or a dict of them by name if there are several. They are
            read-only views of the reply: ``.copy()`` what is to be changed.

        Raises:
            MaasError: of the class that says what went wrong; see ``maas_sdk.errors``.
        """
        call = CallOptions(
            program=program, version=version, label=label, timeout_s=timeout_s, priority=priority
        )
        return plain(self._drive(self._session.predict(x, call)))

    def predict_many(
        self,
        items: Iterable[object],
        *,
        of: Literal["rows", "batches"] = "rows",
        batch_rows: int = 256,
        max_in_flight: int = 4,
        errors: Literal["raise", "return"] = "raise",
        progress: Progress = False,
        program: str | None = None,
        version: int | str | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Iterator[Array | Outputs | MaasError]:
        """Return the model's answers to many items, one for each, in their order.

        Items are gathered into requests and several requests are under way at a time. The
        iterable is consumed as answers are taken, a bounded number of requests ahead.

        Args:
            items: rows (an input's shape without B; rows are stacked) or batches; each an array
                or a mapping as for ``predict``. An array [N, …] is an iterable of N rows.
            of: what an item is.
            batch_rows: rows per request; bytes are bounded by ``max_request_bytes`` besides.
            max_in_flight: requests under way at a time.
            errors: "raise" the first error, in order, or "return" errors in the failed items'
                places. Items that cannot be sent at all are always raised.
            progress: True for a bar (needs rich), or a function of (answered, total or None).
            program: as for ``predict``; so are ``version``, ``label`` and ``priority``.
            version: see there.
            label: see there.
            timeout_s: bound of each request with its retries, not of the whole.
            priority: see there.

        Raises:
            MaasError: with the rows or the item in the message and, as ``first_item`` and
                ``last_item``, in the evidence.
        """
        check_many(items, max_in_flight=max_in_flight, errors=errors, progress=progress)
        call = CallOptions(
            program=program, version=version, label=label, timeout_s=timeout_s, priority=priority
        )
        return self._many(items, of, batch_rows, max_in_flight, errors, progress, call)

    def metadata(self, *, version: int | str | None = None, label: str | None = None) -> Any:
        """Return the model's metadata: a JSON document of TensorFlow Serving's shape."""
        return self._drive(self._session.metadata(CallOptions(version=version, label=label)))

    def live(self) -> bool:
        """Return True when an endpoint answers at all."""
        return self._drive(self._session.probe("/v2/health/live"))

    def ready(self) -> bool:
        """Return True when the endpoint has its models loaded; False if nothing answers."""
        return self._drive(self._session.probe("/v2/health/ready"))

    # ---- life ----

    def close(self) -> None:
        """Close the connections; the client cannot be used again."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- performing steps ----

    def _drive(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                step = steps.send(self._perform(step))
        except StopIteration as done:
            answer: T = done.value
            return answer

    def _perform(self, step: Send | Wait) -> Reply | MaasError | None:
        if isinstance(step, Wait):
            self._clock.sleep(step.seconds)
            return None
        if self._http.is_closed:
            raise ConfigError("this Client is closed; make a new one")
        try:
            return self._send(step)
        except MaasError as error:
            return error
        except tuple(FOREIGN) as error:
            return translate(error, method=step.method, url=step.url)

    def _send(self, step: Send) -> Reply:
        deadline = self._clock.monotonic() + step.left_s
        with self._http.stream(
            step.method,
            step.url,
            headers=dict(step.headers),
            content=blocks(step.body) if step.body else None,
            timeout=timeouts(step.left_s, self._session.options.connect_timeout_s),
        ) as response:
            buffer = ReplyBuffer(
                response, max_bytes=self._session.options.max_response_bytes, url=step.url
            )
            for block in response.iter_bytes():
                buffer.add(block)
                # httpx bounds the wait for each block; their sum is bounded here.
                if self._clock.monotonic() > deadline:
                    raise DeadlineError(f"{step.url}: the answer did not come to its end in time")
            return buffer.reply()

    def _many(
        self,
        items: Iterable[object],
        of: Literal["rows", "batches"],
        batch_rows: int,
        max_in_flight: int,
        errors: Literal["raise", "return"],
        progress: Progress,
        call: CallOptions,
    ) -> Iterator[Array | Outputs | MaasError]:
        collector, done = Collector(), 0
        pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="maas-client")
        window: deque[tuple[tuple[CallPart, ...], Future[list[Outputs | MaasError]]]] = deque()
        try:
            with reporting(progress, total_of(items)) as report:
                chunks = self._chunks(items, of, batch_rows, call)
                while True:
                    # Not `for chunk in chunks`: none is drawn before there is room for it.
                    while len(window) < max_in_flight and (chunk := next(chunks, None)):
                        steps = self._session.exchange(chunk, call)
                        window.append((chunk, pool.submit(self._drive, steps)))
                    if not window:
                        return
                    parts, future = window.popleft()
                    for part, outcome in zip(parts, future.result(), strict=True):
                        for answer in collector.add(part, outcome):
                            if isinstance(answer, MaasError):
                                if errors == "raise":
                                    raise answer
                                yield answer
                            else:
                                yield plain(answer)
                            done += 1
                    report(done)
        finally:
            # A caller who stops early does not wait for answers that nobody wants.
            pool.shutdown(wait=False, cancel_futures=True)

    def _chunks(
        self,
        items: Iterable[object],
        of: Literal["rows", "batches"],
        batch_rows: int,
        call: CallOptions,
    ) -> Iterator[tuple[CallPart, ...]]:
        signature: ProgramInputs = self._drive(self._session.signature(call))
        chunker = self._session.chunker(of=of, signature=signature, chunk_rows=batch_rows)
        for index, item in enumerate(items):
            yield from chunker.push(as_inputs(item, signature, where=f"item {index}"))
        yield from chunker.finish()
