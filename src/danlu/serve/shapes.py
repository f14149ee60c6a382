"""OpenAI's request bodies, checked at the edge and turned into Asks.

Fields that nobody knows are let through, as OpenAI's own clients send new ones all the time; a field that would change
the answer and that this server does not follow is refused by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from danlu.errors import BadRequest, UnknownModel
from danlu.serve.asks import Ask
from danlu.serve.sample import Sampling


def _whole(text: str) -> str:
    """JSON may hold half of a surrogate pair, which is no text: no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not Unicode text: {error.reason} at {error.start}") from error
    return text


Text = Annotated[str, pydantic.AfterValidator(_whole)]
Stop = Annotated[Text, Field(min_length=1, max_length=1000)]
# Fields of both endpoints that this server does not follow, with the values that change nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "logit_bias": ({},), "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,),
    "min_p": (0,),
}  # fmt: skip
MAX_PROMPTS = 64  # prompts in one body; each takes a place in the queue
MOST = 2**31 - 1  # no number that a message would have to print is larger


def check_model(asked: str, served: str) -> None:
    """Raise UnknownModel unless the model asked for is the one served."""
    if asked != served:
        raise UnknownModel(f"no model {asked!r} here", why=f"this server has {served!r}", fix=f'"model": "{served}"')


class Body(pydantic.BaseModel, extra="allow", frozen=True):
    """What both endpoints share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    ignore_eos: bool = False

    @property
    def include_usage(self) -> bool:
        """True when a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def refuse(self, neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Raise BadRequest for a field whose value is none of its neutral ones (None is always neutral)."""
        for field, harmless in neutral.items():
            value = (self.model_extra or {}).get(field)
            if value is not None and value not in harmless:
                allowed = " or ".join(map(repr, harmless)) or "nothing"
                why = "it would change the answer, so it is not ignored"
                raise BadRequest(
                    f"{field} is not supported", field=field, why=why, fix=f"leave {field} out, or set it to {allowed}"
                )

    def ask(self, tokens: list[int], most: int | None, logprobs: int | None) -> Ask:
        """The engine's view of one prompt of this body."""
        sampling = Sampling(
            1.0 if self.temperature is None else self.temperature, 1.0 if self.top_p is None else self.top_p,
            max(0, self.top_k or 0), self.seed, logprobs,
        )  # fmt: skip
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Ask(tuple(tokens), most, sampling, stop, self.ignore_eos)


class StreamOptions(pydantic.BaseModel, extra="allow", frozen=True):
    """Options of a streamed answer."""

    include_usage: bool = False


class TextPart(pydantic.BaseModel, extra="allow", frozen=True):
    """A piece of a message; pictures and sound are refused by `type`."""

    type: Literal["text"]
    text: Text


class Message(pydantic.BaseModel, extra="allow", frozen=True):
    """One turn of a chat. "developer" is OpenAI's newer name of "system"."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def plain(self) -> dict[str, str]:
        """The turn as chat templates expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(Body, frozen=True):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=MOST)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def check(self) -> None:
        """Raise BadRequest for what this server does not follow."""
        self.refuse({
            **NEUTRAL, "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
            "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],),
            "audio": (), "web_search_options": (),
        })  # fmt: skip

    def asks(self, encode: Callable[[list[dict[str, str]]], list[int]]) -> list[Ask]:
        """The one Ask of this body; `encode` turns messages into token ids."""
        most = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        tokens = encode([message.plain() for message in self.messages])
        return [self.ask(tokens, most, (self.top_logprobs or 0) if self.logprobs else None)]


Token = Annotated[int, Field(strict=True, ge=0, le=MOST)]


class TextBody(Body, frozen=True):
    """POST /v1/completions. `prompt` is a text, several, token ids, or several lists of token ids."""

    prompt: (
        Text | list[Token] | Annotated[list[Text], Field(max_length=MAX_PROMPTS)]
        | Annotated[list[list[Token]], Field(max_length=MAX_PROMPTS)]
    )  # fmt: skip
    max_tokens: int | None = Field(16, ge=1, le=MOST)  # OpenAI's own default
    logprobs: int | None = Field(None, ge=0, le=20)

    def check(self) -> None:
        """Raise BadRequest for what this server does not follow."""
        self.refuse({**NEUTRAL, "best_of": (1,), "echo": (False,), "suffix": ("",)})

    def asks(self, encode: Callable[[str], list[int]]) -> list[Ask]:
        """One Ask per prompt; `encode` turns text into token ids."""
        tokens = [encode(prompt) if isinstance(prompt, str) else prompt for prompt in self._prompts()]
        return [self.ask(each, self.max_tokens, self.logprobs) for each in tokens]

    def _prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [token for token in self.prompt if isinstance(token, int)]
        return [ids] if ids or not self.prompt else [prompt for prompt in self.prompt if not isinstance(prompt, int)]


Body.model_rebuild()
