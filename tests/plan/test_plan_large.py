"""The search over large unlike fleets."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.fleet.groups import shorthand
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan.groups import advice, choose, large, put_off
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.pricing import singles
from danlu.plan.groups.simple import WITHIN, different, preferred, simplest
from danlu.plan.groups.stage_ways import USABLE
from danlu.plan.stated.stack_memory import CONTEXT_BYTES

SMALL = ModelSpec("llama", 12, 2048, 16, 8, 128, 5632, 32000, 4096)
speeds = st.builds(
    lambda i, count, flops, mem: Group(f"card{i}", count, flops * 1e13, mem << 30, 1e12, 2e11, 2.5e10, 4),
    st.integers(0, 99), st.sampled_from([3, 4, 8, 12, 30]), st.integers(2, 40), st.sampled_from([6, 16, 40]),
)  # fmt: skip


def complete(plan: GroupedPlan) -> None:
    """Every pipeline covers every unit once, on cards that are there and hold it; together they do the batch."""
    units = len(plan.model.units)
    for each in plan.replicas:
        ends = [0, *(stage.stop for stage in each.stages)]
        assert [stage.start for stage in each.stages] == ends[:-1] and ends[-1] == units
        assert all(stage.stop > stage.start for stage in each.stages)
        for stage in each.stages:
            assert stage.bytes < stage.peak < plan.fleet.groups[stage.group].mem_bytes
        assert each.seconds <= plan.seconds
    assert all(n <= group.count for n, group in zip(plan.used, plan.fleet.groups, strict=True))
    over = sum(each.sequences for each in plan.replicas) - plan.batch
    assert over >= 0
    assert all(over < each.micro_batch or each.micro_batches == len(each.stages) for each in plan.replicas)
    assert all(each.micro_batches >= len(each.stages) for each in plan.replicas)
    least = sum(each.copies * ((len(each.stages) - 1) * each.micro_batch + 1) for each in plan.replicas)
    assert least <= plan.batch


@settings(max_examples=5, deadline=None)
@given(st.lists(speeds, min_size=1, max_size=3), st.sampled_from([3, 16, 60]))
def test_mixed_is_never_slower_than_the_best_single_type(groups, batch):
    fleet = GroupedFleet("random", tuple(groups))
    try:
        found = large.search(SMALL, fleet, batch=batch, seq=2048)
    except large.DoesNotFit:
        return
    assert found.over_best_single >= 1.0
    for plan in found.alternatives:
        complete(plan)
        assert plan.seconds >= found.plan.seconds
        assert sum(plan.terms.values()) == pytest.approx(1.0)
    simple = simplest(found)
    if simple is not None:
        complete(simple)
        alone = [each.seconds for each in found.alone.values() if each is not None]
        assert simple.seconds <= min(found.plan.seconds * (1 + WITHIN), *alone, math.inf)
        assert different(simple) < different(found.plan)


def test_a_second_type_of_cards_makes_the_step_shorter():
    model = ModelSpec("llama", 32, 4096, 32, 8, 128, 11008, 32000, 4096)
    found = large.search(model, shorthand("64xA100-80+64xH20"), batch=256, seq=4096)
    assert found.over_best_single > 1.2
    assert 0.8 < found.sum_share < 1.1


def test_what_a_zero_bubble_order_keeps_is_told_where_it_has_no_room():
    fleet = shorthand("16xA100-80+16xH20")
    made = large.search(ModelSpec("llama", 40, 8192, 64, 8, 128, 28672, 32000, 4096), fleet, batch=64, seq=4096).plan
    need = max(stage.peak + at * stage.kept for each in made.replicas for at, stage in enumerate(each.stages))

    def on(mem_bytes: float) -> GroupedPlan:
        groups = tuple(replace(group, mem_bytes=int(mem_bytes)) for group in fleet.groups)
        return replace(made, fleet=GroupedFleet("same", groups))

    room = (need + CONTEXT_BYTES) / USABLE
    assert put_off.longest(on(1.01 * room)) == put_off.longest(replace(made, schedule="1f1b")) == made.seconds
    tight = on(0.99 * room)
    assert sum(put_off.short(tight, each) for each in made.replicas) > 0
    assert made.seconds <= put_off.longest(tight) < 1.3 * made.seconds


def test_of_plans_that_take_hardly_longer_the_simplest_is_chosen_and_says_so():
    model, fleet = ModelSpec("llama", 40, 8192, 64, 8, 128, 28672, 32000, 4096), shorthand("64xA100-80+64xH20")
    chosen = preferred(choose.best(model, fleet, batch=256, seq=4096), fleet)
    assert chosen.fastest is not None and chosen.fastest in chosen.others
    plan, fastest = chosen.best.plan, chosen.fastest.plan
    complete(plan)
    assert fastest.seconds < plan.seconds <= fastest.seconds * (1 + WITHIN) and different(plan) < different(fastest)
    assert chosen.found.plan is plan
    said = [line for line in advice.why(chosen, fleet) if "slower than the fastest plan found" in line]
    assert len(said) == 1 and f"{len({each.stages for each in plan.replicas})} kinds" in said[0]


def test_a_batch_smaller_than_the_pipeline_says_what_batch_fills_it():
    cards = GroupedFleet("thin", (Group("old", 8, 1e14, 14 << 30, 1e12, 2e11, 2.5e10, 1),))
    model = ModelSpec("llama", 12, 4096, 32, 8, 128, 11008, 32000, 4096)
    with provoke("DL-MEM-004") as caught:
        large.search(model, cards, batch=2, seq=2048)
    batch = int(caught.error.fix.split()[1])
    complete(large.search(model, cards, batch=batch, seq=2048).plan)


def test_a_model_that_fits_nowhere_says_what_is_missing():
    huge = ModelSpec("llama", 126, 16384, 128, 8, 128, 53248, 128256, 8192)
    with provoke("DL-MEM-001") as caught:
        large.search(huge, shorthand("8xA100-40"), batch=8, seq=4096)
    assert "GiB" in caught.error.why
    with provoke("DL-CFG-002"):
        large.search(huge, shorthand("8xA100-40"), batch=0, seq=4096)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_one_type_is_no_slower_than_pipelines_of_one_stage(schedule):
    model = ModelSpec("llama", 32, 4096, 32, 8, 128, 11008, 32000, 4096)
    found = large.search(model, shorthand("64xH20"), batch=256, seq=4096, schedule=schedule)
    for where in found.ask.spaces(16, 64):
        for each in singles(where):
            copies = 64 // int(each.cards[0])
            least = each.seconds(math.ceil(256 / copies / each.micro_batch))
            assert copies < 16 or found.plan.seconds <= least * 1.02  # of 16 to 64, sums of gradients differ
