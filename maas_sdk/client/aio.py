"""``AsyncClient``: the session's steps over an ``httpx.AsyncClient``, on asyncio.

asyncio is imported where it is used: a caller there runs an event loop and has loaded it already,
while a program that only uses ``Client`` does not pay for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx

from maas_sdk.client.chunking import CallPart, Collector, Outputs
from maas_sdk.client.inputs import as_inputs
from maas_sdk.client.progress import Progress, reporting, total_of
from maas_sdk.client.replies import Reply
from maas_sdk.client.session import CallOptions, Send, Steps, T, Wait, plain
from maas_sdk.client.shell import Shell, check_many
from maas_sdk.client.transport import FOREIGN, ReplyBuffer, blocks_async, timeouts, translate
from maas_sdk.errors import ConfigError, DeadlineError, MaasError
from maas_sdk.tensors import Array

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncClient"]


class AsyncClient(Shell[httpx.AsyncBaseTransport]):
    """``Client`` for asyncio: the same options and methods, to be awaited.

    ::

        async with AsyncClient("https://…", model="digits") as client:
            logits = await client.predict(images)  # [B, 8, 8, 1] → [B, 10]
            async for row in client.predict_many(many):
                …
    """

    def _open(self, **http_options: Any) -> None:
        self._http = httpx.AsyncClient(**http_options)

    # ---- calls ----

    async def predict(
        self,
        x: object,
        *,
        program: str | None = None,
        version: int | str | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Array | Outputs:
        """Return the model's answer to one batch; see ``Client.predict``."""
        call = CallOptions(
            program=program, version=version, label=label, timeout_s=timeout_s, priority=priority
        )
        return plain(await self._drive(self._session.predict(x, call)))

    def predict_many(
        self,
        items: Iterable[object] | AsyncIterable[object],
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
    ) -> AsyncIterator[Array | Outputs | MaasError]:
        """Return the model's answers to many items, in order; see ``Client.predict_many``.

        ``items`` may be an asynchronous iterable, too.
        """
        check_many(items, max_in_flight=max_in_flight, errors=errors, progress=progress)
        call = CallOptions(
            program=program, version=version, label=label, timeout_s=timeout_s, priority=priority
        )
        return self._many(items, of, batch_rows, max_in_flight, errors, progress, call)

    async def metadata(self, *, version: int | str | None = None, label: str | None = None) -> Any:
        """Return the endpoint's metadata of the model; see ``Client.metadata``."""
        return await self._drive(self._session.metadata(CallOptions(version=version, label=label)))

    async def live(self) -> bool:
        """Return True when an endpoint answers at all."""
        return await self._drive(self._session.probe("/v2/health/live"))

    async def ready(self) -> bool:
        """Return True when the endpoint has its models loaded; False if nothing answers."""
        return await self._drive(self._session.probe("/v2/health/ready"))

    # ---- life ----

    async def close(self) -> None:
        """Close the connections; the client cannot be used again."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- performing steps ----

    async def _drive(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._perform(step))
        except StopIteration as done:
            answer: T = done.value
            return answer

    async def _perform(self, step: Send | Wait) -> Reply | MaasError | None:
        if isinstance(step, Wait):
            await self._clock.sleep_async(step.seconds)
            return None
        if self._http.is_closed:
            raise ConfigError("this AsyncClient is closed; make a new one")
        try:
            return await self._send(step)
        except MaasError as error:
            return error
        except tuple(FOREIGN) as error:
            return translate(error, method=step.method, url=step.url)

    async def _send(self, step: Send) -> Reply:
        deadline = self._clock.monotonic() + step.left_s
        async with self._http.stream(
            step.method,
            step.url,
            headers=dict(step.headers),
            content=blocks_async(step.body) if step.body else None,
            timeout=timeouts(step.left_s, self._session.options.connect_timeout_s),
        ) as response:
            buffer = ReplyBuffer(
                response, max_bytes=self._session.options.max_response_bytes, url=step.url
            )
            async for block in response.aiter_bytes():
                buffer.add(block)
                # httpx bounds the wait for each block; their sum is bounded here.
                if self._clock.monotonic() > deadline:
                    raise DeadlineError(f"{step.url}: the answer did not come to its end in time")
            return buffer.reply()

    async def _many(
        self,
        items: Iterable[object] | AsyncIterable[object],
        of: Literal["rows", "batches"],
        batch_rows: int,
        max_in_flight: int,
        errors: Literal["raise", "return"],
        progress: Progress,
        call: CallOptions,
    ) -> AsyncIterator[Array | Outputs | MaasError]:
        import asyncio

        collector, done = Collector(), 0
        window: deque[tuple[tuple[CallPart, ...], asyncio.Task[list[Outputs | MaasError]]]] = (
            deque()
        )
        chunks = self._chunks(items, of, batch_rows, call)
        try:
            with reporting(progress, total_of(items)) as report:
                while True:
                    # Not `async for`: none is drawn before there is room for it.
                    while len(window) < max_in_flight and (chunk := await anext(chunks, None)):
                        steps = self._session.exchange(chunk, call)
                        window.append((chunk, asyncio.create_task(self._drive(steps))))
                    if not window:
                        return
                    # Looked at before it is taken out: a cancelled caller must find it below.
                    parts, task = window[0]
                    outcomes = await task
                    window.popleft()
                    for part, outcome in zip(parts, outcomes, strict=True):
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
            for _, task in window:
                task.cancel()
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)
            await chunks.aclose()

    async def _chunks(
        self,
        items: Iterable[object] | AsyncIterable[object],
        of: Literal["rows", "batches"],
        batch_rows: int,
        call: CallOptions,
    ) -> AsyncGenerator[tuple[CallPart, ...]]:
        signature = await self._drive(self._session.signature(call))
        chunker = self._session.chunker(of=of, signature=signature, chunk_rows=batch_rows)
        index = 0
        # Closed here, or the event loop would have to find out by itself that it is not needed.
        async with aclosing(_asynchronous(items)) as drawn:
            async for item in drawn:
                for chunk in chunker.push(as_inputs(item, signature, where=f"item {index}")):
                    yield chunk
                index += 1
        for chunk in chunker.finish():
            yield chunk


async def _asynchronous(
    items: Iterable[object] | AsyncIterable[object],
) -> AsyncGenerator[object]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
