"""Which sequence computes how many tokens in the next step: a pure policy, events in, decision out.

Continuous batching: every step first carries one token of each sequence that is generating, then fills the rest of its
token budget with prompts, in pieces (a long prompt never holds up the others' next token for longer than one budget).
First come, first served; when pages run out the sequence that came last gives its pages up and is computed again later.
The clock is an argument, so the same file runs under the server and under a trace.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from danlu.serve.pages import PAGE, Pages, extend_keys


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine takes on.

    max_seqs      sequences that hold pages at once
    max_waiting   accepted sequences that wait for a place; one more is told to come back
    budget        tokens computed in one step, more than max_seqs
    """

    max_seqs: int
    max_waiting: int
    budget: int


@dataclass(slots=True, eq=False)
class Seq:
    """One sequence from arrival to leaving.

    tokens   prompt, then what was generated; `done` of them have their KV in `pages`
    limit    most tokens it may ever have
    cached   prompt tokens found in sealed pages when it first started, None before
    """

    name: int
    tokens: list[int]
    limit: int
    arrived: float
    done: int = 0
    cached: int | None = None
    pages: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)

    def __lt__(self, other: Seq) -> bool:
        return (self.arrived, self.name) < (other.arrived, other.name)


@dataclass(frozen=True, slots=True)
class Work:
    """Compute tokens[start:stop] of a sequence; when `last`, its next token is to be sampled."""

    seq: Seq
    start: int
    stop: int

    @property
    def last(self) -> bool:
        """True when nothing known is left to compute behind this piece."""
        return self.stop == len(self.seq.tokens)


class Schedule:
    """Owns every accepted sequence and the page bookkeeping. One caller at a time."""

    def __init__(self, pages: Pages, limits: Limits, origin: bytes) -> None:
        """origin  the root of page keys (pages.root)."""
        assert limits.budget > limits.max_seqs, "a step must have room for prompts beside every generating sequence"
        self.pages, self.limits, self._origin = pages, limits, origin
        self._running: list[Seq] = []  # oldest first
        self._waiting: list[Seq] = []  # oldest first
        self._step_began = 0.0
        self._step_s = 0.0
        self.preempted = self.prompt_tokens = self.hit_tokens = 0  # since the start, for metrics

    @property
    def running(self) -> int:
        """Sequences that hold pages."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Accepted sequences without pages."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """True when there is nothing to compute."""
        return not self._running and not self._waiting

    def arrive(self, name: int, tokens: Sequence[int], limit: int, now: float) -> Seq | float:
        """Accept a sequence, or refuse it and return the seconds after which a place should be free.

        tokens  the prompt, at least one token
        limit   most tokens of prompt and answer together; must fit all pages (the caller checks)
        """
        assert 0 < len(tokens) < limit <= self.pages.count * PAGE
        free = self.limits.max_seqs - self.running
        if self.waiting >= self.limits.max_waiting + free:
            return self.retry_after()
        seq = Seq(name, list(tokens), limit, now)
        extend_keys(seq.keys, self._origin, seq.tokens)
        insort(self._waiting, seq)
        return seq

    def retry_after(self) -> float:
        """Forecast of the seconds until a running sequence ends and one that waits moves up, at least one."""
        steps = min((seq.limit - len(seq.tokens) for seq in self._running), default=0)
        return float(max(1, math.ceil(steps * self._step_s)))

    def step(self, now: float) -> tuple[Work, ...]:
        """Decide the next step; empty when nothing is left to do. Pages for all of it are taken."""
        self._step_began = now
        self._grow()
        self._admit()
        budget, work = self.limits.budget, []
        ready = sorted(self._running, key=lambda seq: len(seq.tokens) - seq.done > 1)  # generating before prompts
        for seq in ready:
            count = min(len(seq.tokens) - seq.done, budget)
            if count:
                work.append(Work(seq, seq.done, seq.done + count))
                budget -= count
        return tuple(work)

    def advance(self, work: Sequence[Work], sampled: Mapping[int, int], now: float) -> None:
        """Take in what a step computed: `sampled` has the new token of every sequence whose piece was the last."""
        for piece in work:
            seq = piece.seq
            if seq not in self._running:
                continue
            full = range(seq.done // PAGE, piece.stop // PAGE)
            seq.done = piece.stop
            for page in full:
                seq.pages[page] = self.pages.seal(seq.pages[page], seq.keys[page])
            if seq.name in sampled:
                seq.tokens.append(sampled[seq.name])
                extend_keys(seq.keys, self._origin, seq.tokens)
        spent = now - self._step_began
        self._step_s = spent if self._step_s == 0 else 0.9 * self._step_s + 0.1 * spent

    def leave(self, seq: Seq) -> None:
        """A sequence ended or was cancelled: its pages are free at once. Leaving twice is harmless."""
        if seq in self._running:
            self._running.remove(seq)
            self._give_back(seq)
        elif seq in self._waiting:
            self._waiting.remove(seq)

    def lose(self) -> None:
        """KV memory was lost: what held pages waits again, and is computed anew from its first token."""
        for seq in list(self._running):
            self._preempt(seq)
        self.pages.clear()

    def _grow(self) -> None:
        """Give every generating sequence a page for its next token, taking from those that came last if need be."""
        for seq in list(self._running):
            while seq in self._running and len(seq.pages) * PAGE < len(seq.tokens):
                more = self.pages.take(1)
                if more:
                    seq.pages += more
                else:
                    self._preempt(self._running[-1])

    def _admit(self) -> None:
        """Start waiting sequences, oldest first, while there are places and pages for the whole of what they know."""
        while self._waiting and self.running < self.limits.max_seqs:
            seq = self._waiting[0]
            found = self.pages.match(seq.keys[: (len(seq.tokens) - 1) // PAGE])  # one token must be computed
            need = -(-len(seq.tokens) // PAGE) - len(found)
            # A page is left for every running sequence, or the newcomer would be thrown out a few tokens later.
            more = self.pages.take(need) if need + self.running <= self.pages.available else None
            if more is None:
                self.pages.release(found)
                return
            self._waiting.pop(0)
            seq.pages, seq.done = found + more, len(found) * PAGE
            if seq.cached is None:
                seq.cached = seq.done
                self.prompt_tokens += len(seq.tokens)
                self.hit_tokens += seq.done
            insort(self._running, seq)

    def _preempt(self, seq: Seq) -> None:
        self._running.remove(seq)
        self._give_back(seq)
        insort(self._waiting, seq)
        self.preempted += 1

    def _give_back(self, seq: Seq) -> None:
        self.pages.release(seq.pages)
        seq.pages, seq.done = [], 0
