"""Interleaved 1F1B: the formula's bubble, memory and messages, played event by event; chosen only where it pays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import titan_file
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.fleet.groups import shorthand
from danlu.plan import presets
from danlu.plan.groups import emit, interleaved, large
from danlu.plan.groups.grouped import GroupStage, Replicas
from danlu.plan.groups.interleaved import best, dealt, in_flight, order, seconds
from danlu.plan.groups.timeline import Parts
from danlu.plan.groups.unit_cost import Way
from danlu.plan.stated.mixed import pipeline
from danlu.plan.stated.stack_memory import in_flight as published_in_flight

LLAMA = presets.preset("llama-3-8b")
amounts = st.floats(0.01, 5.0)
shapes = st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 3, 4]), st.integers(1, 4))


@given(shapes)
def test_every_chunk_of_every_micro_batch_goes_there_once_and_back_once(shape):
    stages, chunks, groups = shape
    many = stages * groups
    for stage in range(stages):
        found = order(stages, chunks, many, stage)
        every = sorted((what, chunk, mb) for what in "BF" for chunk in range(chunks) for mb in range(many))
        assert sorted(found) == every
        assert all(found.index(("F", c, mb)) < found.index(("B", c, mb)) for _, c, mb in found)


@given(shapes, amounts, amounts)
def test_equal_chunks_take_the_published_time_and_memory(shape, forward, backward):
    stages, chunks, groups = shape
    many, part = stages * groups, Parts(forward / chunks, backward / chunks, 0.0, 0.0, 0.0)
    took = seconds([[part] * chunks] * stages, many)
    assert took == pytest.approx((many + (stages - 1) / chunks) * (forward + backward))
    if chunks > 1 and groups > 1:
        run = replace(presets_run(stages, chunks), global_batch=many)
        assert in_flight(stages, chunks, many, 0) == pytest.approx(published_in_flight(run, 0))


def presets_run(stages, chunks):
    from danlu.plan.stated.setup import Setup

    return Setup("A", stages, 8, None, 64, 64, 4, 4, 64, True, 64, 64, 8, micro_batch=1, tp=1, pp=stages,
                 interleave=chunks)  # fmt: skip


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=5), st.integers(1, 8))
def test_one_chunk_of_unequal_stages_is_1f1b(costs, many):
    mine = seconds([[Parts(forward, backward, 0.0, 0.0, 0.0)] for forward, backward in costs], many)
    assert mine == pytest.approx(pipeline(costs, [0.0] * (len(costs) - 1), many))


@given(st.data(), shapes, amounts)
@settings(max_examples=40)
def test_no_order_beats_what_a_stage_and_the_way_there_take(data, shape, message):
    stages, chunks, groups = shape
    costs = [[Parts(data.draw(amounts), data.draw(amounts), message, message, data.draw(amounts))] * chunks
             for _ in range(stages)]  # fmt: skip
    took = seconds(costs, stages * groups)
    for each in costs:
        assert took >= stages * groups * chunks * (each[0].forward + each[0].backward) + each[0].once - 1e-9
    way = sum(part.forward + part.backward + 2 * message * (stages > 1) for each in costs for part in each)
    assert took >= way - 2 * message - 1e-9


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 6))
def test_layers_are_dealt_over_chunks_and_none_is_lost(layers, chunks):
    found = dealt(layers, chunks)
    if not found:
        assert min(layers) < chunks
        return
    stages = len(layers)
    assert min(found) >= 1 and [sum(found[i::stages]) for i in range(stages)] == layers


def plan_of(cards, many, network=2.5e10):
    """One pipeline of 8 alike stages of 4 layers."""
    fleet = shorthand(cards, network=network, per_host=1)
    found = large.search(LLAMA, fleet, batch=many, seq=4096).plan
    ends = [0, *(1 + 8 * n for n in range(1, 8)), 66]
    sent = 2 * 4096 * LLAMA.hidden / (0.8 * network)
    stages = tuple(GroupStage(0, Way(), a, b, 0.1, 0.05, 0.05, 40 << 30, sent, sent)
                   for a, b in zip(ends, ends[1:], strict=False))  # fmt: skip
    return replace(found, replicas=(Replicas(1, stages, 1, many, 1.0),))


def test_chunks_pay_with_few_micro_batches_and_not_over_a_slow_line():
    found = {many: best(plan, plan.replicas[0], [4] * 8) for many in (8, 64) for plan in [plan_of("8xA100-80", many)]}
    assert found[8].chunks > 1 and found[8].seconds < 0.8 * found[8].plain
    assert found[64].plain / found[64].seconds < found[8].plain / found[8].seconds
    slow = plan_of("8xA100-80", 8, network=2e7)
    assert best(slow, slow.replicas[0], [4] * 8).chunks == 1
    odd = plan_of("8xA100-80", 9)
    assert best(odd, odd.replicas[0], [4] * 8).chunks == 1
    full = replace(plan_of("8xA100-80", 8).replicas[0], stages=tuple(
        replace(stage, bytes=int(75e9)) for stage in plan_of("8xA100-80", 8).replicas[0].stages))  # fmt: skip
    assert best(plan_of("8xA100-80", 8), full, [4] * 8).chunks == 1


def test_frameworks_are_told_the_chunks():
    plan = plan_of("8xA100-80", 8)
    chunks = best(plan, plan.replicas[0], [4] * 8).chunks
    script = emit.megatron(plan, LLAMA)
    layout = next(line for line in script.files["megatron.sh"].splitlines() if "parallel-layout" in line)
    assert layout.count("|") == 8 * chunks - 1 and layout.count("t") - layout.split("'")[0].count("t") == 32
    assert any(f"with {chunks} chunks" in each for each in script.cannot)
    said = titan_file.settings(emit.torchtitan(plan, LLAMA).files["torchtitan_plan.py"])
    assert said["parallelism.pipeline_parallel_schedule"] == "Interleaved1F1B"
    assert len(said["parallelism.module_fqns_per_model_part"]) == 8 * chunks
    assert interleaved.CHUNKS[0] == 1
