"""The OpenAI API over an engine: routes, server-sent events, OpenAI-shaped errors, cancel when the client leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.errors import DanluError
from danlu.serve.answers import ChatShape, Gathered, Json, Shape, TextShape
from danlu.serve.asks import Ask, End
from danlu.serve.engine import Engine
from danlu.serve.flow import ClientLeft, Flow, unless_gone
from danlu.serve.metrics import CONTENT_TYPE, Metrics
from danlu.serve.refuse import answer_errors, error_body, refusal
from danlu.serve.shapes import Body, ChatBody, TextBody, check_model


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
    answer_errors(app)
    card: Json = {"id": model, "object": "model", "created": born, "owned_by": "danlu", "max_model_len": engine.context}

    async def answer(request: Request, body: Body, asks: Sequence[Ask], shape: Shape) -> Response:
        flow = Flow(engine, asks, metrics)
        try:
            await unless_gone(request, flow.accepted())
            if body.stream:
                return EventStream(_chunks(flow, shape, body.include_usage), flow.leave)
            gathered = [Gathered() for _ in asks]
            await unless_gone(request, _gather(flow, gathered))
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
        check_model(body.model, model)
        body.check()
        asks = await asyncio.to_thread(body.asks, language.encode_chat)
        return await answer(request, body, asks, ChatShape(model, decode, body.logprobs, body.include_usage))

    @app.post("/v1/completions")
    async def complete(body: TextBody, request: Request) -> Response:
        check_model(body.model, model)
        body.check()
        asks = await asyncio.to_thread(body.asks, language.encode)
        shape = TextShape(model, decode, body.logprobs is not None, body.include_usage)
        return await answer(request, body, asks, shape)

    @app.get("/v1/models")
    async def models() -> Json:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Json:
        check_model(name, model)
        return card

    @app.get("/health")
    @app.get("/ready")
    async def health() -> Response:
        failure = engine.failure
        if failure is not None:
            return refusal(failure)
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
        yield _frame(error_body(error))
    yield "data: [DONE]\n\n"


def _frame(body: Json) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
