"""The cheapest covers: the native library, numpy and brute force agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu import native
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan.groups.covers import Covers, Tried, covers, in_numpy
from danlu.plan.groups.pipelines import Span, pipeline
from danlu.plan.groups.pricing import Space, space
from danlu.plan.groups.stage_ways import stage_ways

groups = st.builds(
    lambda flops, mem, network: Group("any", 64, flops * 1e13, mem << 30, 1e12, 2e11, network * 1e9, 4),
    st.integers(2, 40), st.sampled_from([4, 8, 40]), st.sampled_from([1, 25]),
)  # fmt: skip
fleets = st.lists(groups, min_size=1, max_size=2).map(lambda each: GroupedFleet("random", tuple(each)))


def case(fleet: GroupedFleet, layers: int, limits: int, price: float, schedule: str) -> tuple[Space, Tried]:
    model = ModelSpec("llama", layers, 1024, 8, 4, 128, 2816, 32000, 4096)
    where = space(stage_ways(model, fleet, micro_batch=1, seq=2048, replicas=2, schedule=schedule), len(fleet.groups))
    ways = where.ways
    limit = np.geomspace(np.diff(ways.time).max() if len(ways.ways) else 1.0, 1.0, limits)
    return where, Tried(
        price * ways.cards * (1.0 + ways.group), limit, 0.5 / limit, 1.0 / limit, np.full(limits, np.inf)
    )


@pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")
@settings(max_examples=40, deadline=None)
@given(fleets, st.integers(1, 9), st.integers(1, 6), st.floats(0.01, 2.0), st.sampled_from(["1f1b", "zb-h1"]))
def test_the_native_library_finds_what_numpy_finds(fleet, layers, limits, price, schedule):
    where, tried = case(fleet, layers, limits, price, schedule)
    fast, plain = covers(where.ways, where.memory, tried), in_numpy(where.ways, where.memory, tried)
    assert np.allclose(fast.whole, plain.whole, rtol=1e-9)


def cheapest(found: Covers, count: int, at: int) -> float:
    """By brute force: every way and stop of every stage."""
    ways, tried = found.ways, found.tried

    def good(stages: tuple[Span, ...]) -> float:
        each = pipeline(ways, stages, 2)
        if ((each.time + each.step / tried.many[at]) > tried.limit[at] * (1 + 1e-12)).any():
            return np.inf
        for i, span in enumerate(stages):
            room = ways.room[span.way, int(i == len(stages) - 1)]
            if each.bytes[i] > room:
                return np.inf
        return float(sum(tried.price[span.way] for span in stages) + tried.weight[at] * each.fill)

    def all_of(start: int, left: int) -> list[tuple[Span, ...]]:
        if left == 0:
            return [()] if start == ways.units else []
        return [(Span(way, start, stop), *rest) for stop in range(start + 1, ways.units + 1)
                for rest in all_of(stop, left - 1) for way in range(len(ways.ways))]  # fmt: skip

    return min(map(good, all_of(0, count)), default=np.inf)


@settings(max_examples=15, deadline=None)
@given(fleets, st.integers(1, 2), st.floats(0.01, 2.0), st.sampled_from(["1f1b", "zb-h1"]))
def test_no_cover_is_cheaper_than_ours(fleet, layers, price, schedule):
    where, tried = case(fleet, layers, 2, price, schedule)
    found = in_numpy(where.ways, where.memory, tried)
    for at in range(2):
        best = np.inf
        for count in (1, 2, 3):
            brute = cheapest(found, count, at) if len(where.ways.ways) else np.inf
            ours = float(found.whole[at, count]) if found.whole.shape[1] > count else np.inf
            # With more stages only what is cheaper is kept.
            assert ours == pytest.approx(brute) or brute >= best
            if np.isfinite(ours):
                for stages in (found.stages([(at, count)])[0], found._stages(at, count)):
                    paid = sum(tried.price[span.way] for span in stages)
                    assert paid + tried.weight[at] * pipeline(where.ways, stages, 2).fill == pytest.approx(ours)
            best = min(best, brute)
