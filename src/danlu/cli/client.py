"""A small streaming client of the OpenAI API over plain HTTP, for the demo, chat against a URL, and the benchmarks."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from danlu.errors import ServerRefused


@dataclass(frozen=True, slots=True)
class Answer:
    """A streamed completion: its text, seconds to the first token and to the end, tokens found in the prefix cache."""

    text: str
    first_s: float
    total_s: float
    prompt_tokens: int
    cached_tokens: int


def events(url: str, path: str, body: Mapping[str, Any], timeout_s: float = 120.0) -> Iterator[dict[str, Any]]:
    """POST `body` and yield every server-sent JSON event until [DONE]. Raises ServerRefused on any other answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise ServerRefused(
                f"the server answered {response.status}",
                where=url + path,
                why=response.read().decode(errors="replace")[:500],
                fix=f"curl {url}/health",
            )
        for line in response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[6:])
    except OSError as error:
        raise ServerRefused(
            "no answer from the server", where=url + path, why=str(error), fix=f"curl {url}/health"
        ) from error
    finally:
        connection.close()


def complete(url: str, model: str, prompt: str | list[int], max_tokens: int, **options: Any) -> Answer:
    """Stream one completion of `prompt` and time it."""
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "stream": True,
            "stream_options": {"include_usage": True}, **options}  # fmt: skip
    began = time.monotonic()
    usage: dict[str, Any] = {}
    first, text = 0.0, []
    for event in events(url, "/v1/completions", body):
        if event.get("choices"):
            first = first or time.monotonic() - began
            text.append(event["choices"][0]["text"])
        usage = event.get("usage") or usage
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Answer("".join(text), first, time.monotonic() - began, usage.get("prompt_tokens", 0), cached)
