"""The search over small fleets finds what looking at every plan of every class finds."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from brute_plans import by_enumeration, holds, is_best, random_ask
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu import native
from danlu.errors import DoesNotFit
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan.groups import large
from danlu.plan.groups.assemble import Ask
from danlu.plan.groups.fastest import fastest, in_python, states
from danlu.plan.groups.pipelines import pipeline

groups = st.builds(
    lambda i, count, flops, mem, net: Group(f"card{i}", count, flops * 1e13, mem << 30, 1e12, 2e11, net * 1e9, 2),
    st.integers(0, 99), st.integers(1, 3), st.integers(2, 40), st.sampled_from([6, 7, 8, 40]), st.sampled_from([1, 25]),
)  # fmt: skip
seeds = st.integers(0, 10**9)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(groups, min_size=1, max_size=2), st.integers(1, 2), st.integers(1, 7), st.sampled_from(["1f1b", "zb-h1"])
)
def test_the_search_finds_what_enumerating_all_plans_finds(chosen, layers, batch, schedule):
    if sum(group.count for group in chosen) > 4:
        chosen = chosen[:1]
    model = ModelSpec("llama", layers, 4096, 8, 4, 512, 11008, 32000, 4096)
    fleet = GroupedFleet("small", tuple(chosen))
    best = by_enumeration(Ask(model, fleet, batch, 2048, schedule))
    try:
        found = large.search(model, fleet, batch=batch, seq=2048, schedule=schedule)
    except DoesNotFit:
        assert best == math.inf
    else:
        assert found.plan.seconds <= best * (1 + 1e-9) and holds(Ask(model, fleet, batch, 2048, schedule), found.plan)


@pytest.mark.skipif(native.library() is None, reason="without a compiler only smaller fleets are looked at whole")
@settings(max_examples=24, deadline=None)
@given(seeds, st.integers(1, 16))
def test_no_plan_of_sixteen_cards_and_eight_layers_beats_the_search(seed, cards):
    assert is_best(random_ask(random.Random(seed), cards, 8, 8))


@pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")
@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 5), st.sampled_from([0.8, 1.5, math.inf]))
def test_the_native_library_finds_the_fastest_pipelines_that_python_finds(seed, cards, share):
    ask = random_ask(random.Random(seed), cards, 3, 4)
    ways, there = ask.ways(1, 1), tuple(group.count for group in ask.fleet.groups)
    if not len(ways.ways):
        return
    least = in_python(ways, there, 4, math.inf, 3).seconds.min(initial=math.inf)
    fast, plain = (of(ways, there, 4, 3 * share * least, 3) for of in (fastest, in_python))
    assert np.allclose(fast.seconds, plain.seconds, rtol=1e-12)
    for many, state in np.argwhere(np.isfinite(fast.seconds)).tolist():
        made = pipeline(ways, fast.spans(many + 1, state), len(there))
        assert made.seconds(many + 1) == pytest.approx(fast.seconds[many, state])
        assert made.cards.tolist() == states(there)[state].tolist()
