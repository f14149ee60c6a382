"""Interleaving as a class of the search: formula against events, covers against brute force, plans that hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu import native
from danlu.cli import app, plan, plan_emit
from danlu.fleet.groups import shorthand
from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan import presets
from danlu.plan.groups import choose, emit_alike, interleaved, large
from danlu.plan.groups.chunks import ORDERS, depths, in_chunks, of_layers
from danlu.plan.groups.covers import Tried, covers, in_numpy
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.pipelines import Span, pipeline
from danlu.plan.groups.pricing import space
from danlu.plan.groups.stage_ways import StageWays, stage_ways
from danlu.plan.proof import certificate

GPT = presets.preset("gpt3-175b")


def ways_of(layers: int, chunks: int, fleet: str = "64xA100-80") -> tuple[ModelSpec, StageWays]:
    spec = ModelSpec("llama", layers, 2048, 16, 8, 128, 5632, 32000, 4096)
    found = stage_ways(spec, shorthand(fleet), micro_batch=1, seq=2048, replicas=4)
    return spec, found if chunks == 1 else in_chunks(found, chunks)


@given(st.integers(2, 6), st.sampled_from([2, 4]), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_the_formula_of_equal_stages_is_what_the_events_take(stages, chunks, turns):
    spec, fine = ways_of(stages * chunks, chunks, "64xH100")
    ways = of_layers(fine, spec)
    each = pipeline(ways, [Span(0, at * chunks, (at + 1) * chunks) for at in range(stages)], 1)
    plain = replace(each.ways, chunks=1)
    whole = pipeline(replace(plain, fill=ways.time), each.stages, 1)
    assert each.even and each.turn == stages and each.whole(1) == stages
    assert (each.bytes >= whole.bytes).all()  # more in flight
    # Compute alone: the first and the last stage have embed, head and one message less.
    busy = float((ways.time[0, 1 + chunks] - ways.time[0, 1]) / chunks)
    part = interleaved.Parts(busy / 3, 2 * busy / 3, 0.0, 0.0, 0.0)
    took = interleaved.seconds([[part] * chunks] * stages, turns * stages)
    assert took == pytest.approx(busy * chunks * (turns * stages + (stages - 1) / chunks))
    kept = [interleaved.in_flight(stages, chunks, turns * stages, at) for at in range(stages)]
    said = ways.in_flight(stages, np.arange(stages - 1, -1, -1))
    assert (np.array(kept) <= said + 1e-9).all()
    if turns > 1:
        assert kept == pytest.approx(said)


@pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")
@given(st.integers(4, 9), st.sampled_from([2, 4]), st.integers(1, 5), st.floats(0.01, 2.0))
@settings(max_examples=25, deadline=None)
def test_covers_of_chunks_are_those_of_numpy_and_cost_what_their_pipelines_do(layers, chunks, limits, price):
    spec, fine = ways_of(layers, chunks, "32xA100-80+32xH20")
    where = space(of_layers(fine, spec), 2, 4, fewest=4)
    ways = where.ways
    limit = np.geomspace(np.diff(ways.time).max() * 2, 1.0, limits)
    tried = Tried(price * ways.cards * (1.0 + ways.group), limit, 0.5 / limit, 1.0 / limit, np.full(limits, np.inf),
                  np.full(limits, 99))  # fmt: skip
    fast, plain = covers(ways, where.memory, tried), in_numpy(ways, where.memory, tried)
    assert np.allclose(fast.whole, plain.whole, rtol=1e-9)
    wanted = [(at, n) for at in range(limits) for n in range(1, 5) if np.isfinite(fast.whole[at, n])]
    for (at, n), stages in zip(wanted, fast.stages(wanted), strict=True):
        each = pipeline(ways, stages, 2)
        cost = sum(tried.price[span.way] for span in stages) + tried.weight[at] * each.fill
        assert cost == pytest.approx(fast.whole[at, n])
        assert ((each.time + each.after / tried.many[at]) <= limit[at] * (1 + 1e-9)).all()
        room = [ways.room[span.way, int(i == n - 1)] for i, span in enumerate(stages)]
        assert (each.bytes <= room).all()


def test_every_number_of_stages_is_looked_at():
    assert list(depths(20)) == [4, 8, 16, 20] and list(depths(3)) == [3] and list(depths(1)) == []
    assert tuple(ORDERS) == plan.SCHEDULES


def sound(found: GroupedPlan) -> None:
    """The plan does its batch in turns, on the cards there are, layers cut whole, no faster than its events."""
    used = [0] * len(found.fleet.groups)
    for each in found.replicas:
        assert each.chunks == 1 or each.micro_batches % len(each.stages) == 0
        for stage in each.stages:
            used[stage.group] += each.copies * stage.cards
            assert stage.bytes <= found.fleet.groups[stage.group].mem_bytes
        if each.chunks > 1:
            layers = interleaved.layers_of(found, each)
            assert sum(layers) == found.model.layers and min(layers) >= each.chunks
            ends = [max(bar.stop for bar in stage) for stage in interleaved.bars(found, each)]
            assert each.seconds >= max(ends) * (1 - 1e-9)
    assert used <= [group.count for group in found.fleet.groups]
    assert sum(each.sequences for each in found.replicas) >= found.batch


@pytest.mark.parametrize(("fleet", "batch"), [("16xA100-80", 24), ("8xH100+16xA100-40", 32)])
def test_chunks_are_never_worse_than_none(fleet, batch):
    spec = ModelSpec("llama", 16, 4096, 32, 8, 128, 14336, 32000, 4096)
    plain, woven = (large.search(spec, shorthand(fleet), batch=batch, seq=2048, schedule=schedule).plan
                    for schedule in ("1f1b", "interleaved"))  # fmt: skip
    assert woven.seconds <= plain.seconds * (1 + 1e-9)
    sound(woven)


def test_chunks_pay_where_a_pipeline_is_deep_and_micro_batches_are_few(tmp_path):
    fleet = shorthand("128xA100-80")
    chosen = choose.best(GPT, fleet, batch=96, seq=2048, schedule="interleaved")
    plain = large.search(presets.dense(GPT), fleet, batch=96, seq=2048, schedule="1f1b").plan
    with provoke("DL-CFG-002"):
        certificate.prove_gap(chosen.found)
    assert chosen.best.plan.seconds < 0.95 * plain.seconds and "interleaved" in chosen.best.plan.name
    for each in (chosen.best, *chosen.others):
        sound(each.plan)
    even = next(each for each in (chosen.best, *chosen.others) if emit_alike.is_even(each.plan))
    (one,) = even.plan.replicas
    assert one.copies * one.micro_batch * one.micro_batches == 96
    made = plan_emit.emitted(chosen, "megatron", "128xA100-80", tmp_path)
    layout = next(line for line in made.files["megatron.sh"].splitlines() if "parallel-layout" in line)
    assert (
        layout.count("|") == len(one.stages) * one.chunks - 1 and "--global-batch-size 96" in made.files["megatron.sh"]
    )
    assert not any("kinds of pipelines" in each or "schedule" in each for each in made.cannot)


def test_unlike_cards_are_joined_in_alike_pipelines_that_other_frameworks_run(tmp_path):
    fleet = shorthand("16xA100-80+16xH20")
    chosen = choose.best(presets.preset("llama-3-8b"), fleet, batch=64, seq=4096, schedule="interleaved")
    found = next(each.plan for each in (chosen.best, *chosen.others) if emit_alike.is_even(each.plan))
    (one,) = found.replicas
    sound(found)
    assert one.copies * one.micro_batch * one.micro_batches == 64 and min(found.used) == 16
    alone = min(each.seconds for each in chosen.found.alone.values() if each is not None)
    assert found.seconds < 0.8 * alone and found.seconds < 1.1 * chosen.best.plan.seconds
    made = plan_emit.emitted(chosen, "megatron", "16xA100-80+16xH20", tmp_path)
    assert "rank blocks to cards in the order of the stages" in made.files["megatron.sh"]
    assert not any("between attention and MLP" in each for each in made.cannot)


def test_a_schedule_that_there_is_not_or_that_danlu_does_not_run_is_refused(capsys):
    with provoke("DL-CFG-002"):
        large.search(GPT, GroupedFleet("one", shorthand("8xH100").groups), batch=8, seq=128, schedule="gpipe")
    assert app.main(["plan", "llama-3-8b", "8xH100", "--emit", "danlu", "--schedule", "any"]) == 2
    assert "one piece" in capsys.readouterr().err
