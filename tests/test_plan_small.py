"""The search over small fleets finds what looking at every plan of every class finds."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan import large
from danlu.plan.assemble import Ask
from danlu.plan.pipelines import Pipeline, Span, pipeline
from danlu.plan.stage_ways import StageWays, micro_batch_sizes

groups = st.builds(
    lambda i, count, flops, mem, net: Group(f"card{i}", count, flops * 1e13, mem << 30, 1e12, 2e11, net * 1e9, 2),
    st.integers(0, 99), st.integers(1, 3), st.integers(2, 40), st.sampled_from([6, 7, 8, 40]), st.sampled_from([1, 25]),
)  # fmt: skip


def every_pipeline(ways: StageWays, there: tuple[int, ...]) -> list[Pipeline]:
    """All that fit cards and memory."""

    def all_of(start: int) -> list[tuple[Span, ...]]:
        if start == ways.units:
            return [()]
        return [(Span(way, start, stop), *rest) for stop in range(start + 1, ways.units + 1) for rest in all_of(stop)
                if len(rest) < sum(there) for way in range(len(ways.ways))]  # fmt: skip

    found = []
    for stages in all_of(0):
        each = pipeline(ways, stages, len(there))
        room = np.array([ways.room[s.way, int(i == len(stages) - 1)] for i, s in enumerate(stages)])
        if (each.cards <= there).all() and (each.bytes <= room).all():
            found.append(each)
    return found


def brute_force(ask: Ask) -> float:
    """Seconds of the best plan: every number of pipelines, every multiset of numbers of cards, every time one takes."""
    there = tuple(group.count for group in ask.fleet.groups)
    best = math.inf
    for count in range(1, min(sum(there), ask.batch) + 1):
        every = [each for size in micro_batch_sizes(ask.batch, ask.most_sequences)
                 for each in every_pipeline(ask.ways(size, count), there)]  # fmt: skip
        times = sorted({each.seconds(m) for each in every for m in range(1, ask.batch + 1)})
        while times:
            middle = len(times) // 2
            if enough(every, there, ask.batch, count, times[middle] * (1 + 1e-12)):
                best, times = min(best, times[middle]), times[:middle]
            else:
                times = times[middle + 1 :]
    return best


def enough(every: list[Pipeline], there: tuple[int, ...], batch: int, count: int, seconds: float) -> bool:
    most: dict[Any, int] = {}
    for each in every:
        cards = tuple(each.cards.tolist())
        most[cards] = max(most.get(cards, 0), each.sequences(seconds))
    able = [cards for cards, done in most.items() if done]
    return any(
        (np.sum(chosen, axis=0) <= there).all() and sum(most[cards] for cards in chosen) >= batch
        for chosen in combinations_with_replacement(able, count)
    )


@settings(max_examples=20, deadline=None)
@given(
    st.lists(groups, min_size=1, max_size=2), st.integers(1, 2), st.integers(1, 7), st.sampled_from(["1f1b", "zb-h1"])
)
def test_the_search_finds_what_brute_force_finds(chosen, layers, batch, schedule):
    if sum(group.count for group in chosen) > 4:
        chosen = chosen[:1]
    model = ModelSpec("llama", layers, 4096, 8, 4, 512, 11008, 32000, 4096)
    fleet = GroupedFleet("small", tuple(chosen))
    best = brute_force(Ask(model, fleet, batch, 2048, schedule))
    try:
        found = large.search(model, fleet, batch=batch, seq=2048, schedule=schedule)
    except large.DoesNotFit:
        assert best == math.inf
    else:
        assert found.plan.seconds == pytest.approx(best, rel=1e-9)
