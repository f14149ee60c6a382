"""Whole pipelines within the cards: each group's knapsack is the best there is, and a packing does what it says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.plan.groups.pack import best_in_numpy, knapsack, pack

items = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=6)


def least_known(value: list[int], size: list[int], cards: int) -> list[int]:
    """The most value on at most so many cards, one card after the other."""
    best = [0] * (cards + 1)
    for at in range(1, cards + 1):
        best[at] = max([best[at - 1], *(best[at - s] + v for v, s in zip(value, size, strict=True) if s <= at)])
    return best


@given(items, st.integers(1, 40))
@settings(max_examples=150)
def test_a_groups_knapsack_is_exact_and_its_counts_reach_it(found, cards):
    value, size = [v for v, _ in found], [s for _, s in found]
    sack = knapsack(np.array(value, dtype=float), np.array(size), np.arange(len(found)), cards)
    assert sack.value(np.arange(cards + 1)) == pytest.approx(least_known(value, size, cards))
    size_, value_ = np.array(size)[sack.columns] // sack.unit, np.array(value, dtype=float)[sack.columns]
    plain = np.maximum.accumulate(best_in_numpy(value_, size_, len(sack.best)))
    assert sack.best == pytest.approx(plain)
    counts = sack.counts(cards)
    assert sum(n * size[i] for i, n in counts.items()) <= cards
    assert sum(n * value[i] for i, n in counts.items()) == pytest.approx(least_known(value, size, cards)[-1])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5),
       st.tuples(st.integers(1, 8), st.integers(1, 8)))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_packing_stays_within_the_cards_and_near_the_best(found, there):
    found = [each for each in found if each[1] + each[2]]
    if not found:
        return
    value, use = np.array([float(v) for v, *_ in found]), np.array([cards for _, *cards in found]).T
    made = pack(value, use, np.array(there))
    assert (use @ made.counts <= there).all() and made.sequences == pytest.approx(made.counts @ value)
    best = max(
        float(np.array(counts) @ value)
        for counts in itertools.product(*(range(1 + min(t // u for t, u in zip(there, col, strict=True) if u))
                                          for col in use.T.tolist()))
        if (use @ np.array(counts) <= there).all()
    )  # fmt: skip
    alone = max(v * min(t // u for t, u in zip(there, col, strict=True) if u)
                for v, col in zip(value, use.T.tolist(), strict=True))  # fmt: skip
    assert alone - 1e-9 <= made.sequences <= best + 1e-9
    assert not pack(value, use, np.array(there), made.sequences + 1).counts.any()
    assert (pack(value, use, np.array(there), made.sequences).counts == made.counts).all()
