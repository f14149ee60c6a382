"""How an error leaves the server: in OpenAI's shape, with the status its clients expect."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from danlu.errors import (
    AnswerFailed,
    BadMessages,
    BadRequest,
    DanluError,
    LateRank,
    Overloaded,
    PromptTooLong,
    RankLost,
    UnknownModel,
)

STATUS: dict[type[DanluError], tuple[int, str, str | None]] = {
    BadRequest: (400, "invalid_request_error", None),
    BadMessages: (400, "invalid_request_error", None),
    PromptTooLong: (400, "invalid_request_error", "context_length_exceeded"),
    UnknownModel: (404, "invalid_request_error", "model_not_found"),
    Overloaded: (429, "rate_limit_exceeded", "rate_limit_exceeded"),
    AnswerFailed: (503, "server_error", None),
    LateRank: (503, "server_error", None),
    RankLost: (503, "server_error", None),
}


def error_body(error: DanluError) -> dict[str, Any]:
    """OpenAI's shape of an error; "danlu" is the code in our catalogue."""
    _, kind, code = STATUS.get(type(error), (500, "server_error", None))
    message = f"{error.what}: {error.why}. Try: {error.fix}"
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": getattr(error, "field", None),
            "code": code,
            "danlu": error.code,
        }
    }


def refusal(error: DanluError) -> JSONResponse:
    """The answer that says it."""
    status, _, _ = STATUS.get(type(error), (500, "server_error", None))
    headers = {"Retry-After": f"{error.retry_after_s:.0f}"} if isinstance(error, Overloaded) else None
    return JSONResponse(error_body(error), status, headers)


def answer_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape."""

    @app.exception_handler(DanluError)
    async def known(request: Request, error: DanluError) -> Response:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        first = found[0]
        field = ".".join(str(part) for part in first["loc"][1:2])
        why = "; ".join(dict.fromkeys(each["msg"] for each in found if each["loc"][1:2] == first["loc"][1:2]))
        broken = first["type"] == "json_invalid"
        what = "the body is not JSON" if broken else f"{field or 'the body'} is not as it should be"
        fix = "compare it with the OpenAI API reference"
        return refusal(BadRequest(what, why=why[:500], fix=fix, field=None if broken else field or None))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        body = {"error": {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": None}}
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return refusal(AnswerFailed("the server failed", why=type(error).__name__, fix="see the server's log"))
