"""The cheapest covers: the native library, numpy and brute force agree."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from danlu import native
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan.groups.covers import Covers, Tried, covers, in_numpy
from danlu.plan.groups.pipelines import Pipeline, Span, pipeline, pipelines
from danlu.plan.groups.pricing import Space, space
from danlu.plan.groups.stage_ways import ends_in_numpy, memory_ends, stage_ways

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
        price * ways.cards * (1.0 + ways.group), limit, 0.5 / limit, 1.0 / limit, np.full(limits, np.inf),
        np.full(limits, 99)
    )  # fmt: skip


@pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")
@settings(max_examples=40, deadline=None)
@given(fleets, st.integers(1, 9), st.integers(1, 6), st.floats(0.01, 2.0), st.sampled_from(["1f1b", "zb-h1"]))
def test_the_native_library_finds_what_numpy_finds(fleet, layers, limits, price, schedule):
    where, tried = case(fleet, layers, limits, price, schedule)
    fast, plain = covers(where.ways, where.memory, tried), in_numpy(where.ways, where.memory, tried)
    assert np.allclose(fast.whole, plain.whole, rtol=1e-9)
    assert (memory_ends(where.ways, len(where.memory)) == where.memory).all()
    assert (ends_in_numpy(where.ways, np.arange(1.0, 1 + len(where.memory))) == where.memory).all()


@settings(max_examples=40, deadline=None)
@given(fleets, st.integers(1, 9), st.floats(0.01, 2.0), st.floats(0.8, 1.5), st.integers(1, 6))
def test_a_budget_leaves_out_only_covers_beyond_it(fleet, layers, price, times, most):
    where, tried = case(fleet, layers, 4, price, "zb-h1")
    every = covers(where.ways, where.memory, tried).whole[:, : most + 1]
    if not every.size:
        return
    budget = np.minimum(times * every.min(axis=1), 1e9)
    few = replace(tried, budget=budget, most=np.full(4, most))
    for found in (covers(where.ways, where.memory, few), in_numpy(where.ways, where.memory, few)):
        assert np.isinf(found.whole[:, most + 1 :]).all()
        kept, within = found.whole[:, : most + 1], every < budget[:, None] * (1 - 1e-9)
        assert np.allclose(kept[within], every[within], rtol=1e-9)
        assert (np.isinf(kept) | np.isclose(kept, every, rtol=1e-9)).all()


def cheapest(found: Covers, count: int, at: int) -> float:
    """By brute force: every way and stop of every stage."""
    ways, tried = found.ways, found.tried

    def good(each: Pipeline) -> float:
        if ((each.time + each.after / tried.many[at]) > tried.limit[at] * (1 + 1e-12)).any():
            return np.inf
        for i, span in enumerate(each.stages):
            room = ways.room[span.way, int(i == len(each.stages) - 1)]
            if each.bytes[i] > room:
                return np.inf
        return float(sum(tried.price[span.way] for span in each.stages) + tried.weight[at] * each.fill)

    def all_of(start: int, left: int) -> list[tuple[Span, ...]]:
        if left == 0:
            return [()] if start == ways.units else []
        return [(Span(way, start, stop), *rest) for stop in range(start + 1, ways.units + 1)
                for rest in all_of(stop, left - 1) for way in range(len(ways.ways))]  # fmt: skip

    return min(map(good, pipelines(ways, all_of(0, count), 2)), default=np.inf)


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


def zero_bubble(forward: list[float], micro_batches: int, put_off: bool = True) -> float:
    """Seconds of a step played event by event: backward and weight gradients each take a forward's time.

    A stage sends gradients back as soon as it can, keeps as many micro-batches as under 1F1B, and computes weight
    gradients where nothing else is ready (arXiv 2401.10241, ZB-H1); not put off, before what it has room for next.
    """
    stages, clock = len(forward), [0.0] * len(forward)
    done = {what: [[math.inf] * micro_batches for _ in forward] for what in "FB"}
    count = {what: [0] * stages for what in "FBW"}
    for _ in range(3 * micro_batches * stages):
        ready = []
        for at, now in enumerate(clock):
            there, back, weight = (count[what][at] for what in "FBW")
            if back < there:
                ready.append((done["B"][at + 1][back] if at + 1 < stages else done["F"][at][back], 0, at, "B"))
            if there < micro_batches and there - (back if put_off else weight) < stages - at:
                ready.append((done["F"][at - 1][there] if at else 0.0, 1, at, "F"))
            if weight < back:
                ready.append((now, 2, at, "W"))
        begin, _, at, what = min((max(clock[each[2]], each[0]), *each[1:]) for each in ready)
        clock[at] = begin + forward[at]
        if what != "W":
            done[what][at][count[what][at]] = clock[at]
        count[what][at] += 1
    return max(clock)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.2, 1.0), min_size=2, max_size=8), st.integers(1, 5))
@example([1.0, 1.0, 0.1], 1)  # a last stage that has little to do
def test_the_formula_of_zero_bubbles_is_near_what_the_events_take(forward, times):
    micro_batches = times * len(forward)
    seconds = np.array(forward)
    made = Pipeline(None, (), np.zeros(1), 3 * seconds, seconds, 2 * seconds, np.zeros(1))  # type: ignore[arg-type]
    at_once = replace(made, fills=2 * seconds, after=seconds)
    assert 1.0 - 1e-9 <= at_once.seconds(micro_batches) / zero_bubble(forward, micro_batches, put_off=False) <= 1.3
    took = zero_bubble(forward, micro_batches)
    assert 0.85 * took <= made.seconds(micro_batches) <= 1.15 * took
    assert made.seconds(micro_batches) >= 3 * seconds.max() * micro_batches
