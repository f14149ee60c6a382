"""OpenAI's response bodies: from the engine's events to JSON, whole or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from danlu.serve.asks import End, Said
from danlu.serve.sample import Pick

Json = dict[str, Any]
Decode = Callable[[int], str]  # text of one token


def usage(ends: Sequence[End]) -> Json:
    """Token counts of the answers of one request."""
    prompt, answer = sum(end.prompt for end in ends), sum(end.answer for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(end.cached for end in ends)},
    }


@dataclass(slots=True)
class Gathered:
    """One whole answer, collected from its events."""

    text: str = ""
    said: list[Said] = field(default_factory=list)
    end: End | None = None

    def add(self, event: Said | End) -> None:
        """Take in the next event."""
        self.text += event.text
        if isinstance(event, End):
            self.end = event
        else:
            self.said.append(event)


class Shape(Protocol):
    """How one endpoint dresses an answer."""

    def whole(self, answers: Sequence[Gathered]) -> Json:
        """The body of an answer that is not streamed."""
        ...

    def first(self) -> list[Json]:
        """Chunks before the first token."""
        ...

    def chunk(self, index: int, event: Said | End) -> list[Json]:
        """Chunks for one event of answer `index`."""
        ...

    def counts(self, ends: Sequence[End]) -> Json:
        """The last chunk, when token counts were asked for."""
        ...


@dataclass(frozen=True)
class _Common:
    model: str
    decode: Decode
    logprobs: bool
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    name: str = field(default_factory=lambda: secrets.token_hex(12))

    def _body(self, name: str, kind: str, choices: list[Json], **more: Any) -> Json:
        head = {"id": f"{name}-{self.name}", "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def _more(self) -> Json:
        return {"usage": None} if self.include_usage else {}


@dataclass(frozen=True)
class ChatShape(_Common):
    """/v1/chat/completions."""

    def whole(self, answers: Sequence[Gathered]) -> Json:
        """The body of an answer that is not streamed."""
        choices, ends = [], []
        for index, answer in enumerate(answers):
            assert answer.end is not None
            ends.append(answer.end)
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            logprobs = self._logprobs([said.pick for said in answer.said])
            reason = answer.end.reason
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
        return self._body("chatcmpl", "chat.completion", choices, usage=usage(ends))

    def first(self) -> list[Json]:
        """The chunk that names the speaker."""
        return [self._chunk(0, {"role": "assistant", "content": "", "refusal": None}, [], None)]

    def chunk(self, index: int, event: Said | End) -> list[Json]:
        """Chunks for one event; a token whose text is held back shows nothing, unless its probability is wanted."""
        if isinstance(event, Said):
            shows = event.text or self.logprobs
            return [self._chunk(index, {"content": event.text}, [event.pick], None)] if shows else []
        rest = [self._chunk(index, {"content": event.text}, [], None)] if event.text else []
        return [*rest, self._chunk(index, {}, [], event.reason)]

    def counts(self, ends: Sequence[End]) -> Json:
        """The last chunk, when token counts were asked for."""
        return self._body("chatcmpl", "chat.completion.chunk", [], usage=usage(ends))

    def _chunk(self, index: int, delta: Json, picks: Sequence[Pick], reason: str | None) -> Json:
        logprobs = self._logprobs(picks) if picks else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._body("chatcmpl", "chat.completion.chunk", [choice], **self._more())

    def _logprobs(self, picks: Sequence[Pick]) -> Json | None:
        if not self.logprobs:
            return None
        tops = [[self._one(*other) for other in pick.top] for pick in picks]
        content = [
            {**self._one(pick.token, pick.logprob), "top_logprobs": top} for pick, top in zip(picks, tops, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: int, logprob: float | None) -> Json:
        text = self.decode(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


@dataclass(frozen=True)
class TextShape(_Common):
    """/v1/completions."""

    def whole(self, answers: Sequence[Gathered]) -> Json:
        """The body of an answer that is not streamed."""
        choices, ends = [], []
        for index, answer in enumerate(answers):
            assert answer.end is not None
            ends.append(answer.end)
            choices.append(self._choice(index, answer.text, [said.pick for said in answer.said], answer.end.reason))
        return self._body("cmpl", "text_completion", choices, usage=usage(ends))

    def first(self) -> list[Json]:
        """Nothing comes before the first token."""
        return []

    def chunk(self, index: int, event: Said | End) -> list[Json]:
        """Chunks for one event; a token whose text is held back shows nothing, unless its probability is wanted."""
        if isinstance(event, End):
            choice = self._choice(index, event.text, [], event.reason)
        elif event.text or self.logprobs:
            choice = self._choice(index, event.text, [event.pick], None)
        else:
            return []
        return [self._body("cmpl", "text_completion", [choice], **self._more())]

    def counts(self, ends: Sequence[End]) -> Json:
        """The last chunk, when token counts were asked for."""
        return self._body("cmpl", "text_completion", [], usage=usage(ends))

    def _choice(self, index: int, text: str, picks: Sequence[Pick], reason: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": self._logprobs(picks), "finish_reason": reason}

    def _logprobs(self, picks: Sequence[Pick]) -> Json | None:
        if not self.logprobs or not picks:
            return None
        texts = [self.decode(pick.token) for pick in picks]
        return {
            "tokens": texts,
            "token_logprobs": [pick.logprob for pick in picks],
            # Likeliest last, so that it stays where two tokens have the same text (bytes of half a character).
            "top_logprobs": [{self.decode(token): logprob for token, logprob in reversed(pick.top)} for pick in picks],
            "text_offset": list(accumulate(map(len, texts[:-1]), initial=0)),
        }
