"""A card's budget is held to the byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.errors import DoesNotFit
from danlu.memory.arena import Arena


@given(st.integers(0, 100), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60))))
def test_what_is_held_never_exceeds_the_budget_and_adds_up(budget, wishes):
    arena, held = Arena("c", budget), {"a": 0, "b": 0, "c": 0}
    for name, size in wishes:
        try:
            arena.reserve(name, size)
            held[name] += size
        except DoesNotFit:
            assert sum(held.values()) + size > budget
            arena.release(name, held[name])
            held[name] = 0
        assert arena.used == sum(held.values()) <= arena.peak <= budget
        assert arena.held == {n: s for n, s in held.items() if s}


def test_a_card_that_is_full_says_what_fills_it():
    arena = Arena("old-0", 8 * 2**20)
    arena.reserve("weights", 6 * 2**20)
    with provoke("DL-MEM-001") as caught:
        arena.reserve("activations", 3 * 2**20)
    text = str(caught.error)
    assert "3.0 MiB" in text and "2.0 MiB are free" in text and "weights 6.0" in text and "old-0" in text
