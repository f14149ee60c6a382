"""The schedule serves everyone, within its budget, over pages that hold what they should."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.serve.pages import PAGE, Pages, root
from danlu.serve.schedule import Limits, Schedule, Seq

ORIGIN = root("model", "fp32")


class Memory:
    """Stands where the KV tensors stand: every slot remembers the prefix whose last token it holds."""

    def __init__(self) -> None:
        self.slot: dict[int, tuple[int, ...]] = {}

    def compute(self, work):
        for piece in work:
            seq = piece.seq
            places = [seq.pages[i // PAGE] * PAGE + i % PAGE for i in range(piece.stop)]
            for i in range(piece.start, piece.stop):
                self.slot[places[i]] = tuple(seq.tokens[: i + 1])
            for i in range(piece.stop):
                assert self.slot[places[i]] == tuple(seq.tokens[: i + 1]), "attention would read another prefix"


def next_token(tokens) -> int:
    return sum(tokens) % 3


prompts = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 70), st.integers(1, 40)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(prompts, st.integers(8, 14), st.integers(1, 4), st.integers(5, 40), st.integers(0, 9999))
def test_every_sequence_gets_the_tokens_it_would_get_alone(asked, page_count, max_seqs, budget, seed):
    rng = random.Random(seed)
    pages, memory = Pages(page_count), Memory()
    schedule = Schedule(pages, Limits(max_seqs, 100, budget), ORIGIN)
    todo, live, cancelled, now = list(enumerate(asked)), {}, set(), 0.0
    prompt_of: dict[int, list[int]] = {}
    finished: dict[int, Seq] = {}
    while todo or not schedule.idle:
        now += 1.0
        while todo and (schedule.idle or rng.random() < 0.5):
            name, (letter, length, answer) = todo.pop(0)
            prompt_of[name] = [letter] * length
            seq = schedule.arrive(name, prompt_of[name], length + answer, now)
            assert isinstance(seq, Seq)
            live[name] = seq
        if live and rng.random() < 0.05:
            name = rng.choice(sorted(live))
            schedule.leave(live.pop(name))
            cancelled.add(name)
        work = schedule.step(now)
        assert work or schedule.idle, "somebody waits and nothing is done"
        assert sum(piece.stop - piece.start for piece in work) <= budget
        assert len({piece.seq.name for piece in work}) == len(work) <= max_seqs
        generating = {name for name, seq in live.items() if seq.pages and len(seq.tokens) - seq.done == 1}
        assert generating <= {piece.seq.name for piece in work}, "generation never pauses for prompts"
        memory.compute(work)
        schedule.advance(work, {p.seq.name: next_token(p.seq.tokens) for p in work if p.last}, now + 0.5)
        for name in [name for name, seq in live.items() if len(seq.tokens) == seq.limit]:
            finished[name] = live.pop(name)
            schedule.leave(finished[name])
    assert pages.taken == 0 and not live
    assert set(finished) | cancelled == set(range(len(asked)))
    for name, seq in finished.items():
        alone = list(prompt_of[name])
        while len(alone) < seq.limit:
            alone.append(next_token(alone))
        assert seq.tokens == alone


def drain(schedule: Schedule, now: float) -> float:
    while not schedule.idle:
        work = schedule.step(now)
        now += 1.0
        schedule.advance(work, {p.seq.name: 7 for p in work if p.last}, now)
        for piece in work:
            if len(piece.seq.tokens) >= piece.seq.limit:
                schedule.leave(piece.seq)
    return now


def test_a_full_house_says_when_to_come_back():
    schedule = Schedule(Pages(64), Limits(2, 3, 64), ORIGIN)
    for name in range(2):
        schedule.arrive(name, [1, 2, 3], 13, 0.0)
    for now in (0.0, 2.0):
        work = schedule.step(now)
        schedule.advance(work, {p.seq.name: 7 for p in work}, now + 2.0)
    for name in range(2, 5):
        assert isinstance(schedule.arrive(name, [1, 2, 3], 13, 4.0), Seq)
    refused = schedule.arrive(5, [1, 2, 3], 13, 4.0)
    assert isinstance(refused, float) and refused == 16.0  # eight more steps of two seconds until somebody ends
    drain(schedule, 4.0)
    assert isinstance(schedule.arrive(6, [1, 2, 3], 13, 99.0), Seq)


def test_an_answer_is_a_prefix_of_the_next_turn():
    schedule = Schedule(Pages(64), Limits(2, 3, 64), ORIGIN)
    first = schedule.arrive(0, list(range(20)), 60, 0.0)
    drain(schedule, 0.0)
    assert isinstance(first, Seq) and first.cached == 0
    second = schedule.arrive(1, [*first.tokens, 5, 5], 80, 50.0)
    drain(schedule, 50.0)
    assert isinstance(second, Seq) and second.cached == 48  # 59 tokens have their KV: three full pages


def test_a_long_prompt_does_not_hold_up_a_generating_sequence():
    schedule = Schedule(Pages(64), Limits(2, 3, 32), ORIGIN)
    schedule.arrive(0, [1], 50, 0.0)
    work = schedule.step(0.0)
    schedule.advance(work, {0: 7}, 1.0)
    schedule.arrive(1, [2] * 300, 310, 1.0)
    for now in range(1, 9):
        work = schedule.step(float(now))
        assert [(p.seq.name, p.stop - p.start) for p in work] == [(0, 1), (1, 31)]
        schedule.advance(work, {0: 7}, now + 1.0)
