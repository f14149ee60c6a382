"""The OpenAI API over an engine: routes, server-sent events, OpenAI-shaped errors, cancel when the client leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.errors import AnswerFailed, BadMessages, BadRequest, DanluError, Overloaded, PromptTooLong, UnknownModel
from danlu.serve.answers import ChatShape, Gathered, Json, Shape, TextShape
from danlu.serve.engine import Accepted, Ask, End, Engine, Event, Failed, Said
from danlu.serve.metrics import CONTENT_TYPE, Metrics
from danlu.serve.shapes import Body, ChatBody, TextBody

T = TypeVar("T")
STATUS: dict[type[DanluError], tuple[int, str, str | None]] = {
    BadRequest: (400, "invalid_request_error", None),
    BadMessages: (400, "invalid_request_error", None),
    PromptTooLong: (400, "invalid_request_error", "context_length_exceeded"),
    UnknownModel: (404, "invalid_request_error", "model_not_found"),
    Overloaded: (429, "rate_limit_exceeded", "rate_limit_exceeded"),
    AnswerFailed: (503, "server_error", None),
}


class Language(Protocol):
    """What the API needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ...

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the assistant speaks."""
        ...


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


class EventStream(StreamingResponse):
    """Server-sent events; whichever way the response ends, what is still computed for it is cancelled."""

    def __init__(self, content: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


class CountRequests:
    """ASGI middleware: counts answers by route and status. Plain, because wrapping middleware hides disconnects."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")  # a route, not a URL: few label values
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, count)


def make_app(engine: Engine, language: Language, model: str) -> FastAPI:
    """The server's routes.

    model  the name under which the engine's model is served
    """
    metrics, born = Metrics(lambda: engine.stats), int(time.time())
    app = FastAPI(title="danlu", docs_url=None, redoc_url=None)
    app.add_middleware(CountRequests, metrics=metrics)
    _answer_errors(app)
    card: Json = {"id": model, "object": "model", "created": born, "owned_by": "danlu", "max_model_len": engine.context}

    def check_model(name: str) -> None:
        if name != model:
            raise UnknownModel(f"no model {name!r} here", why=f"this server has {model!r}", fix=f'"model": "{model}"')

    async def answer(request: Request, body: Body, asks: Sequence[Ask], shape: Shape) -> Response:
        flow = Flow(engine, asks, metrics)
        try:
            await _unless_gone(request, flow.accepted())
            if body.stream:
                return EventStream(_chunks(flow, shape, body.include_usage), flow.leave)
            gathered = [Gathered() for _ in asks]
            await _unless_gone(request, _gather(flow, gathered))
            return JSONResponse(shape.whole(gathered))
        except ClientLeft:
            flow.leave()
            return Response(status_code=499)  # nobody reads it; it is what the metric shows
        except BaseException:
            flow.leave()
            raise

    def decode(token: int) -> str:
        return language.decode([token])

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        check_model(body.model)
        body.check()
        asks = await asyncio.to_thread(body.asks, language.encode_chat)
        return await answer(request, body, asks, ChatShape(model, decode, body.logprobs, body.include_usage))

    @app.post("/v1/completions")
    async def complete(body: TextBody, request: Request) -> Response:
        check_model(body.model)
        body.check()
        asks = await asyncio.to_thread(body.asks, language.encode)
        shape = TextShape(model, decode, body.logprobs is not None, body.include_usage)
        return await answer(request, body, asks, shape)

    @app.get("/v1/models")
    async def models() -> Json:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Json:
        check_model(name)
        return card

    @app.get("/health")
    @app.get("/ready")
    async def health() -> Response:
        failure = engine.failure
        if failure is not None:
            return _refusal(failure)
        return JSONResponse({"status": "ok", "model": model})

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return app


async def _gather(flow: Flow, gathered: Sequence[Gathered]) -> None:
    async for index, event in flow.events():
        gathered[index].add(event)


async def _chunks(flow: Flow, shape: Shape, include_usage: bool) -> AsyncIterator[str]:
    """Server-sent events of a streamed answer. An error behind the first byte can only be one of them."""
    ends: list[End] = []
    try:
        for chunk in shape.first():
            yield _frame(chunk)
        async for index, event in flow.events():
            if isinstance(event, End):
                ends.append(event)
            for chunk in shape.chunk(index, event):
                yield _frame(chunk)
        if include_usage:
            yield _frame(shape.counts(ends))
    except DanluError as error:
        yield _frame(_error_body(error))
    yield "data: [DONE]\n\n"


def _frame(body: Json) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


class ClientLeft(Exception):
    """The client closed its connection before the answer was whole."""


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
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


def _error_body(error: DanluError) -> Json:
    _, kind, code = STATUS.get(type(error), (500, "server_error", None))
    message = f"{error.what}: {error.why}. Try: {error.fix}"
    return {"error": {"message": message, "type": kind, "param": getattr(error, "field", None), "code": code,
                      "danlu": error.code}}


def _refusal(error: DanluError) -> JSONResponse:
    status, _, _ = STATUS.get(type(error), (500, "server_error", None))
    headers = {"Retry-After": f"{error.retry_after_s:.0f}"} if isinstance(error, Overloaded) else None
    return JSONResponse(_error_body(error), status, headers)


def _answer_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape."""

    @app.exception_handler(DanluError)
    async def known(request: Request, error: DanluError) -> Response:
        return _refusal(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        first = found[0]
        field = ".".join(str(part) for part in first["loc"][1:2])
        why = "; ".join(dict.fromkeys(each["msg"] for each in found if each["loc"][1:2] == first["loc"][1:2]))
        broken = first["type"] == "json_invalid"
        what = "the body is not JSON" if broken else f"{field or 'the body'} is not as it should be"
        fix = "compare it with the OpenAI API reference"
        return _refusal(BadRequest(what, why=why[:500], fix=fix, field=None if broken else field or None))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        body = {"error": {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": None}}
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return _refusal(AnswerFailed("the server failed", why=type(error).__name__, fix="see the server's log"))
