"""Copies of the model over parts of the cards: every parting, fair dealing, only where it pays and fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.nouns import Card, Fleet, Link, ModelSpec
from danlu.plan import splits
from danlu.plan.candidates import Ask
from danlu.plan.ranks import copies
from danlu.plan.ranks.copies import Copy, dealt, partings

SPEC = ModelSpec("llama", 4, 64, 4, 4, 16, 160, 320, 256)
ASK = Ask(SPEC, 1, 8, 64, "fp32")
times = st.floats(0.0, 5.0), st.floats(0.1, 3.0)


def fleet_of(speeds, bandwidth=1e9, mem_bytes=2**33):
    cards = tuple(Card(f"card{i}", "cuda", "", {"fp32": speed}, mem_bytes, 1e12) for i, speed in enumerate(speeds))
    return Fleet(
        "f", cards, tuple(Link(a.name, b.name, 0.0, bandwidth) for a in cards for b in cards if a.name < b.name)
    )


@pytest.mark.parametrize(("count", "many"), [(1, 1), (2, 2), (3, 5), (4, 15), (5, 52), (6, 1)])
def test_every_parting_of_a_few_cards_is_there_once(count, many):
    cards = fleet_of([1e9] * count).cards
    found = [frozenset(frozenset(card.name for card in part) for part in parts) for parts in partings(cards)]
    assert len(found) == len(set(found)) == many
    assert all(sum(map(len, parts)) == count for parts in found)


@given(st.lists(st.tuples(*times), min_size=1, max_size=3), st.integers(1, 7))
def test_no_other_dealing_ends_sooner(every, micro_batches):
    some = [Copy(None, each, fixed) for fixed, each in every]

    def end(counts):
        return max((copy.fixed_s + n * copy.each_s if n else 0.0 for copy, n in zip(some, counts, strict=True)))

    counts = dealt(some, micro_batches)
    assert sum(counts) == micro_batches
    ways = product(range(micro_batches + 1), repeat=len(some))
    least = min((end(way) for way in ways if sum(way) == micro_batches), default=inf)
    assert end(counts) <= least * (1 + 1e-12)


def test_copies_pay_over_fast_lines_and_not_over_slow_ones():
    for bandwidth, pays in ((1e12, True), (1e6, False)):
        fleet = fleet_of([2e9, 1e9, 1e9], bandwidth)
        one = splits.search(SPEC, fleet, micro_batch=1, micro_batches=8, seq=64)
        chosen = copies.faster(one, copies.best(ASK, fleet, 3))
        assert bool(chosen.replicas) == pays
        assert sum(each.micro_batches for each in chosen.pipelines) == 8
        assert chosen.forecast.step_s <= one.forecast.step_s


def test_a_faster_copy_takes_more_micro_batches():
    found = copies.best(ASK, fleet_of([3e9, 1e9], 1e12), 2)
    assert {each.stages[0].cards[0]: each.micro_batches for each in found.pipelines} == {"card0": 6, "card1": 2}


def test_copies_that_do_not_fit_are_no_plan():
    whole = 16 * SPEC.params
    assert copies.best(ASK, fleet_of([2e9, 1e9], mem_bytes=whole // 2), 2) is None
    assert copies.best(replace(ASK, micro_batches=1), fleet_of([2e9, 1e9]), 2) is None
