"""The engine: one thread that owns model, KV memory and schedule. Requests go in, events come out.

Every request that is submitted ends with exactly one End or Failed, whatever happens to the engine. Events are given to
the request's own `emit` on the engine's thread; `emit` must return at once and must not raise.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import torch

from danlu.errors import AnswerFailed, BadRequest, DanluError, LateRank, Overloaded, PromptTooLong, RankLost
from danlu.kernels.step import Piece, Step
from danlu.serve.asks import Accepted, Ask, End, Event, Failed, Said, Stats, Words
from danlu.serve.forward import Forward, Mendable
from danlu.serve.pages import PAGE
from danlu.serve.sample import Pick, sample
from danlu.serve.schedule import Schedule, Seq, Work
from danlu.serve.text import Reply

LOOK_S = 0.2  # between two looks at the ranks while nothing is asked
MOST_LOSSES = 3  # of ranks without one whole answer between: then starting them again does not help
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Submit:
    name: int
    ask: Ask
    emit: Callable[[Event], None]
    words: Words
    generator: torch.Generator


@dataclass(frozen=True, slots=True)
class _Cancel:
    name: int


@dataclass(frozen=True, slots=True)
class _Stop:
    deadline: float


@dataclass(slots=True, eq=False)
class _Answer:
    """An accepted request while it is under way."""

    seq: Seq
    ask: Ask
    emit: Callable[[Event], None]
    words: Words
    reply: Reply
    generator: torch.Generator


class Engine:
    """Owns a thread that answers requests over one decoder. All public calls may come from any thread."""

    def __init__(
        self, forward: Forward, schedule: Schedule, *, words: Callable[[], Words], ends: Sequence[int], context: int,
        page_bytes: int = 0, mendable: Mendable | None = None,
    ) -> None:  # fmt: skip
        """words    makes the detokenizer of one answer;  ends  token ids that end an answer
        context  most tokens of prompt and answer together; all of them must fit the pages
        page_bytes  of one page of KV memory, for who asks
        mendable    `forward` again, where processes of it may be lost while this one stays
        """
        self.context, self._page_bytes, self._mendable = context, page_bytes, mendable
        self._compute, self._schedule, self._words = forward, schedule, words
        self._ends = frozenset(ends)
        self._answers: dict[int, _Answer] = {}
        self._names = itertools.count()
        self._inbox: SimpleQueue[_Submit | _Cancel | _Stop] = SimpleQueue()
        self._door = threading.Lock()  # orders submit against the end of the thread, so that no request is left behind
        self._closed: DanluError | None = None
        self._deadline: float | None = None
        self._answer_tokens = self._ended = self._failed = self._cancelled = self._refused = 0
        self._mended = self._losses = 0  # since the start; without an answer that ended between
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Compute one token, so that a decoder that cannot is known before the first request, then take requests."""
        with torch.inference_mode():
            self._forward((Work(Seq(-1, [0], 1, 0.0, pages=[0]), 0, 1),))
        self._thread.start()

    def submit(self, ask: Ask, emit: Callable[[Event], None]) -> int:
        """Hand in a request; returns its name for `cancel`. Raises what `check` raises; all else comes as events."""
        self.check(ask)
        name = next(self._names)
        submit = _Submit(name, ask, emit, self._words(), ask.sampling.generator())
        with self._door:
            if self._closed is None:
                self._inbox.put(submit)
                return name
        emit(Failed(self._closed))
        return name

    def check(self, ask: Ask) -> None:
        """Raise BadRequest for a prompt that the model cannot read, PromptTooLong for one beyond the context."""
        vocab = self._compute.spec.vocab
        if not ask.tokens:
            raise BadRequest("the prompt has no tokens", why="its text is empty", fix="send some text", field="prompt")
        if min(ask.tokens) < 0 or max(ask.tokens) >= vocab:
            wrong = next(token for token in ask.tokens if not 0 <= token < vocab)
            raise BadRequest(
                f"{wrong} is no token id",
                why=f"this model has tokens 0 to {vocab - 1}",
                fix="encode the prompt with this model's tokenizer, or send text",
                field="prompt",
            )
        prompt, answer = len(ask.tokens), ask.most or 1
        if prompt + answer > self.context:
            raise PromptTooLong(
                f"this model's context is {self.context} tokens, {prompt + answer} were asked for",
                why=f"the prompt has {prompt} tokens and the answer may have {answer}",
                fix=f"shorten the prompt by {prompt + answer - self.context} tokens or ask for a shorter answer",
            )

    def cancel(self, name: int) -> None:
        """Nobody waits for this answer any more: its pages are free before the next step. Ended ones do not mind."""
        self._inbox.put(_Cancel(name))

    def stop(self, grace_s: float) -> None:
        """Refuse new requests now, fail those that have not ended after `grace_s` seconds, and end the thread."""
        with self._door:
            if self._closed is None:
                self._closed = AnswerFailed("the server is stopping", why="it was asked to", fix="ask again later")
        self._inbox.put(_Stop(time.monotonic() + grace_s))

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    @property
    def failure(self) -> DanluError | None:
        """Why no request is taken any more, or None while all is well."""
        return self._closed

    @property
    def stats(self) -> Stats:
        """A snapshot."""
        pages = self._schedule.pages
        return Stats(
            self._schedule.running, self._schedule.waiting, pages.count, pages.taken, pages.idle,
            pages.count * self._page_bytes, self._page_bytes // PAGE,
            self._schedule.prompt_tokens, self._schedule.hit_tokens, self._answer_tokens,
            self._ended, self._failed, self._cancelled, self._refused, self._schedule.preempted,
            self._mended,
        )  # fmt: skip

    def _run(self) -> None:
        cause: DanluError = AnswerFailed("the server stopped", why="its time to drain was over", fix="ask again later")
        try:
            with torch.inference_mode():
                while not self._over():
                    try:
                        self._read_inbox()
                        if not self._schedule.idle:
                            self._step()
                    except (RankLost, LateRank) as lost:
                        self._mend(lost)
        except DanluError as error:  # a rank that stays away: it says all there is to say
            cause = error
        except Exception as error:  # every waiting request is told, whatever it was; a thread has no caller to raise to
            _log.exception("the engine failed")
            cause = AnswerFailed(
                "the engine failed",
                why=f"{type(error).__name__}: {error}"[:500],
                fix="see the server's log, then start it again",
            )
        self._end_all(cause)

    def _over(self) -> bool:
        return self._deadline is not None and (self._schedule.idle or time.monotonic() >= self._deadline)

    def _read_inbox(self) -> None:
        """Do what was sent; with nothing to compute, wait for it."""
        wait = self._schedule.idle
        while True:
            try:
                message = self._inbox.get(block=wait, timeout=None if self._mendable is None else LOOK_S)
            except Empty:
                if self._mendable is not None and (lost := self._mendable.failure()):
                    raise lost from None
                return
            wait = False
            match message:
                case _Submit():
                    self._arrive(message)
                case _Cancel(name) if name in self._answers:
                    self._cancelled += 1
                    self._drop(self._answers[name])
                case _Stop(deadline):
                    self._deadline = deadline

    def _mend(self, lost: DanluError) -> None:
        """Go on without losing a word: the ranks start again, and every answer computes its tokens so far anew.

        An answer that may be what kills them ends with `lost` the second time. Raises `lost` when that did not help.
        """
        while True:
            if self._mendable is None or self._deadline is not None or self._losses == MOST_LOSSES:
                raise lost
            self._losses += 1
            began, under_way = time.monotonic(), len(self._answers)
            if self._losses > 1:
                self._fail_answers(lost)
            self._schedule.lose()
            try:
                self._mendable.mend()
                break
            except (RankLost, LateRank) as again:
                lost = again
        self._mended += 1
        what = f"{under_way} answers {'end' if self._losses > 1 else 'go on'}"
        _log.warning("%s\n  the ranks started again in %.1f s; %s", lost, time.monotonic() - began, what)

    def _fail_answers(self, cause: DanluError) -> None:
        for answer in list(self._answers.values()):
            self._drop(answer)
            self._failed += 1
            answer.emit(Failed(cause))

    def _end_all(self, cause: DanluError) -> None:
        with self._door:
            self._closed = self._closed or cause
        self._fail_answers(cause)
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, _Submit):
                self._failed += 1
                message.emit(Failed(cause))

    def _arrive(self, submit: _Submit) -> None:
        name, ask, emit = submit.name, submit.ask, submit.emit
        most = self.context - len(ask.tokens) if ask.most is None else ask.most
        seq = self._schedule.arrive(name, ask.tokens, len(ask.tokens) + most, time.monotonic())
        if not isinstance(seq, Seq):
            self._refused += 1
            most_waiting = self._schedule.limits.max_waiting
            emit(
                Failed(
                    Overloaded(
                        "too many requests wait already",
                        why=f"the server keeps {most_waiting} of them",
                        fix=f"come back in {seq:.0f} s",
                        retry_after_s=seq,
                    )
                )
            )
            return
        self._answers[name] = _Answer(seq, ask, emit, submit.words, Reply(ask.stop), submit.generator)
        emit(Accepted())

    def _drop(self, answer: _Answer) -> None:
        self._schedule.leave(answer.seq)
        del self._answers[answer.seq.name]

    def _step(self) -> None:
        work = self._schedule.step(time.monotonic())
        work = tuple(sorted(work, key=lambda piece: (piece.stop - piece.start > 1, piece.stop)))
        logits_RV = self._forward(work)
        drawing = [self._answers[piece.seq.name] for piece in work if piece.last]
        picks = sample(logits_RV, [(answer.ask.sampling, answer.generator) for answer in drawing])
        drawn = {a.seq.name: pick.token for a, pick in zip(drawing, picks, strict=True) if pick is not None}
        self._schedule.advance(work, drawn, time.monotonic())
        for answer, pick in zip(drawing, picks, strict=True):
            self._say(answer, pick)

    def _forward(self, work: Sequence[Work]) -> torch.Tensor:
        """Logits (R, V) behind every piece that is the last of its sequence."""
        ids: list[int] = []
        rows: list[int] = []
        for piece in work:
            ids += piece.seq.tokens[piece.start : piece.stop]
            if piece.last:
                rows.append(len(ids) - 1)
        return self._compute(Step(ids, [Piece(piece.seq.pages, piece.start, piece.stop) for piece in work], rows))

    def _say(self, answer: _Answer, pick: Pick | None) -> None:
        if pick is None:
            self._drop(answer)
            self._failed += 1
            answer.emit(
                Failed(
                    AnswerFailed(
                        "the model gave no number",
                        why=f"its logits behind {len(answer.seq.tokens)} tokens are not finite",
                        fix="check the weights: danlu doctor, or quantize or export the model again",
                    )
                )
            )
            return
        self._answer_tokens += 1
        end = pick.token in self._ends and not answer.ask.ignore_end
        text = "" if end else answer.reply.push(answer.words.push(pick.token))
        answer.emit(Said(text, pick))
        if end or answer.reply.stopped or len(answer.seq.tokens) >= answer.seq.limit:
            self._finish(answer, "stop" if end or answer.reply.stopped else "length")

    def _finish(self, answer: _Answer, reason: str) -> None:
        rest = answer.reply.push(answer.words.rest())
        if answer.reply.stopped:
            reason = "stop"
        self._drop(answer)
        self._ended += 1
        self._losses = 0
        prompt = len(answer.ask.tokens)
        answer.emit(
            End(rest + answer.reply.flush(), reason, prompt, answer.seq.cached or 0, len(answer.seq.tokens) - prompt)
        )
