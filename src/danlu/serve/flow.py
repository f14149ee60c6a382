"""The events of one HTTP request, from the engine's thread to the event loop, for as long as somebody listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

from danlu.serve.asks import Accepted, Ask, End, Event, Failed, Said
from danlu.serve.engine import Engine
from danlu.serve.metrics import Metrics

T = TypeVar("T")


class Flow:
    """The events of one HTTP request, which may hold several asks; `leave` cancels what has not ended."""

    def __init__(self, engine: Engine, asks: Sequence[Ask], metrics: Metrics) -> None:
        """Hand in all asks, or none: raises what Engine.check raises."""
        self._engine, self._metrics = engine, metrics
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event]]()
        self._last = [time.perf_counter()] * len(asks)
        self._early: list[tuple[int, Event]] = []
        self._begun = [False] * len(asks)
        for ask in asks:
            engine.check(ask)
        self._names = [engine.submit(ask, self._emitter(index)) for index, ask in enumerate(asks)]

    def leave(self) -> None:
        """Nobody listens any more."""
        for name in self._names:
            self._engine.cancel(name)

    async def accepted(self) -> None:
        """Wait until every ask has its place. Raises Overloaded or AnswerFailed if one gets none."""
        missing = len(self._names)
        while missing:
            index, event = await self._queue.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Accepted):
                missing -= 1
            else:
                self._early.append((index, event))

    async def events(self) -> AsyncIterator[tuple[int, Said | End]]:
        """Index of the ask and event, until all ended. Raises the error of one that failed."""
        open_asks = len(self._names)
        while open_asks:
            index, event = self._early.pop(0) if self._early else await self._queue.get()
            if isinstance(event, Failed):
                raise event.error
            assert not isinstance(event, Accepted)
            if isinstance(event, Said):
                self._observe(index)
            else:
                open_asks -= 1
            yield index, event

    def _emitter(self, index: int) -> Callable[[Event], None]:
        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server is gone, and so is whoever asked
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        return emit

    def _observe(self, index: int) -> None:
        now = time.perf_counter()
        (self._metrics.next_token if self._begun[index] else self._metrics.first_token).observe(now - self._last[index])
        self._last[index], self._begun[index] = now, True


class ClientLeft(Exception):
    """The client closed its connection before the answer was whole."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; raises ClientLeft (and cancels it) as soon as the client closes its connection."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
