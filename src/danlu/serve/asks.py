"""What is said to an engine and what it says: one Ask in, events out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from danlu.errors import DanluError
from danlu.serve.sample import Pick, Sampling


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: token ids of the prompt, and what is wanted.

    most         most tokens of the answer; None for as many as the context holds
    stop         strings that end the answer and are not part of it
    ignore_end   go on behind the model's end token (for measurements)
    """

    tokens: tuple[int, ...]
    most: int | None = None
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignore_end: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request has its place in the queue."""


@dataclass(frozen=True, slots=True)
class Said:
    """One token was drawn; `text` is what may be shown since the last (often empty: half a character, half a stop)."""

    text: str
    pick: Pick


@dataclass(frozen=True, slots=True)
class End:
    """The answer is whole. `text` was held back until now; `reason` is "stop" or "length". Counts are in tokens."""

    text: str
    reason: str
    prompt: int
    cached: int
    answer: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no (more) answer."""

    error: DanluError


Event = Accepted | Said | End | Failed


class Words(Protocol):
    """Turns the token ids of one answer into text, piece by piece, never half a character."""

    def push(self, token: int) -> str:
        """The text that this token completes."""
        ...

    def rest(self) -> str:
        """What is left when no token follows."""
        ...


@dataclass(frozen=True, slots=True)
class Stats:
    """What the engine has done and holds; counts are since its start."""

    running: int
    waiting: int
    pages: int
    pages_taken: int
    pages_idle: int
    kv_bytes: int
    kv_token_bytes: int
    prompt_tokens: int
    hit_tokens: int
    answer_tokens: int
    ended: int
    failed: int
    cancelled: int
    refused: int
    preempted: int
    mended: int
