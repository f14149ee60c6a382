"""Stages cut over several cards: as good as every way to part the cards, runnable, chosen only where it pays."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.cli.bench import load
from danlu.cli.run_text import Run
from danlu.cli.wiring import plan_of
from danlu.errors import DoesNotFit
from danlu.nouns import Card, Fleet, Link, ModelSpec, Plan, Stage
from danlu.plan import splits
from danlu.plan.candidates import Ask
from danlu.plan.forecast import forecast
from danlu.plan.ranks import copies, tensor_search
from danlu.plan.ranks.tensor_search import dealt

torch.set_num_threads(1)
SPEC = ModelSpec("llama", 2, 64, 8, 4, 8, 128, 300, 256)
ASK = Ask(SPEC, 2, 3, 16, "fp32")


def fleet_of(speeds, bandwidth=1e12, mem_bytes=2**34, latency=1e-7, hosts=("h",)):
    cards = tuple(Card(str(i), "emulated", "", {"fp32": s}, mem_bytes, 1e11, hosts[i % len(hosts)], cores=0.5)
                  for i, s in enumerate(speeds))  # fmt: skip
    pairs = itertools.combinations(cards, 2)
    return Fleet("f", cards, tuple(Link(a.name, b.name, latency, bandwidth) for a, b in pairs))


def every(ask, fleet):
    """Steps of every ordered parting of every choice of cards, every split of the units and depth of warm-up."""
    units, speed = len(ask.spec.units), {card.name: max(card.flops.values()) for card in fleet.cards}
    for k in range(2, len(fleet.cards) + 1):
        for some in itertools.combinations(fleet.cards, k):
            for sets in (order for parts in copies.partings(some) for order in itertools.permutations(parts)):
                if len(sets) == k or len(sets) > ask.micro_batches:
                    continue
                heads = [tuple(2 * n for n in dealt(4, [speed[c.name] for c in s])) if len(s) > 1 else () for s in sets]
                for inner in itertools.combinations(range(1, units), len(sets) - 1):
                    cuts = (0, *inner, units)
                    stages = tuple(Stage(tuple(c.name for c in s), a, b, h)
                                   for s, h, a, b in zip(sets, heads, cuts, cuts[1:], strict=False))  # fmt: skip
                    for name in splits.SCHEDULES:
                        plan = Plan(ask.spec, fleet, stages, name, ask.micro_batches, ask.micro_batch, ask.seq)
                        yield forecast(plan).forecast.step_s


@given(st.lists(st.sampled_from([1e9, 2e9, 5e9]), min_size=2, max_size=3), st.sampled_from([1e7, 1e12]), st.booleans())
@settings(max_examples=3, deadline=None)
def test_no_way_to_part_the_cards_beats_ours(speeds, bandwidth, tied):
    ask, fleet = replace(ASK, spec=replace(SPEC, layers=1, tied=tied)), fleet_of(speeds, bandwidth)
    found = tensor_search.best(ask, fleet, len(speeds))
    # What the two ends of a tied embedding exchange over a slow line is counted for the few that are forecast whole.
    assert found.forecast.step_s <= min(every(ask, fleet)) * (1.2 if tied and bandwidth < 1e9 else 1.03)


@given(st.integers(2, 12), st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_no_other_dealing_of_heads_ends_sooner(groups, speeds):
    if len(speeds) > groups:
        return
    counts = dealt(groups, speeds)
    assert sum(counts) == groups and min(counts) >= 1
    ways = itertools.product(range(1, groups + 1), repeat=len(speeds))
    least = min(max(n / s for n, s in zip(way, speeds, strict=True)) for way in ways if sum(way) == groups)
    assert max(n / s for n, s in zip(counts, speeds, strict=True)) <= least * (1 + 1e-12)


def test_cards_share_layers_over_a_fast_link_alone_and_in_proportion():
    ask = replace(ASK, micro_batches=1)
    for bandwidth, pays in ((1e12, True), (1e5, False)):
        fleet = fleet_of([3e9, 1e9], bandwidth)
        one = splits.search(SPEC, fleet, micro_batch=2, micro_batches=1, seq=16)
        chosen = copies.faster(one, tensor_search.best(ask, fleet, 2))
        assert (len(chosen.stages[0].cards) == 2) is pays
    shares = dict(zip(*((stage := tensor_search.best(ask, fleet_of([3e9, 1e9]), 2).stages[0]).cards, stage.shares),
                      strict=True))  # fmt: skip
    assert shares == {"0": 6, "1": 2}


def test_cards_of_two_hosts_and_more_than_asked_for_share_nothing():
    assert tensor_search.best(ASK, fleet_of([2e9, 1e9], hosts=("a", "b")), 2) is None
    found = tensor_search.best(ASK, fleet_of([2e9, 1e9, 1e9]), 2)
    assert max(len(stage.cards) for stage in found.stages) == 2


def test_cards_that_hold_no_table_alone_hold_it_together():
    fleet, spec = fleet_of([1e9] * 4, mem_bytes=4_000_000), replace(SPEC, layers=1, vocab=4000)
    with pytest.raises(DoesNotFit):
        splits.search(spec, fleet, micro_batch=1, micro_batches=4, seq=16)
    found = tensor_search.best(Ask(spec, 1, 4, 16, "fp32"), fleet, 2)
    assert found is not None and copies.fits(found)


@pytest.mark.parametrize("count", [3, 6])
def test_what_is_proposed_computes_what_one_process_does(count):
    bench = load("training/together")
    tiny = ModelSpec("llama", 3, 24, 12, 6, 4, 40, 53, 64, qkv_bias=True, qk_norm=True)
    found = tensor_search.best(Ask(tiny, 1, 4, 6, "fp32"), fleet_of([3e9, 2e9, 1e9] * (count // 3)), 3)
    assert max(len(set(stage.shares)) for stage in found.stages) > 1
    plan = load("training/placements").joined(tiny, found.pipelines)
    assert bench.gradient_error(bench.job_of(plan)) < 1e-5


def test_a_run_takes_it_where_its_file_says_so():
    said = {"micro_batches": 1, "micro_batch": 2}
    runs = [Run.model_validate({"danlu": 1, "data": {"seq": 16}, "plan": {**said, "tensor": most}}) for most in (1, 2)]
    plans = [plan_of(run, SPEC, fleet_of([3e9, 1e9])) for run in runs]
    assert [len(plan.stages[0].cards) for plan in plans] == [1, 2]
    assert plans[1].forecast.step_s < plans[0].forecast.step_s
