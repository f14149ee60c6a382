"""Ways to run a stage beyond tensor parallelism: sequences and experts cut over cards, states shared by replicas."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from brute_plans import is_best, random_ask
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke
from test_plan_large import complete

from danlu import native
from danlu.fleet.groups import shorthand
from danlu.nouns import Card, Fleet, Group, GroupedFleet
from danlu.plan import presets, text
from danlu.plan.groups import emit, large, zero
from danlu.plan.groups.assemble import Ask, finished
from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas
from danlu.plan.groups.pipelines import Span, pipeline
from danlu.plan.groups.stage_ways import rated
from danlu.plan.groups.unit_cost import Stack, Way, state_bytes
from danlu.plan.groups.way_choices import LONG, choices
from danlu.plan.proof import certificate, verify
from danlu.plan.stated.stack_time import published

LLAMA = presets.preset("llama-3-8b")
MIXTURE = presets.dense(presets.preset("mixtral-8x7b"))
groups = st.builds(lambda count, host, network: Group("card", count, 3e14, 80 << 30, 2e12, 2e11, network, host),
                   st.integers(1, 40), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1e9, 2.5e10]))  # fmt: skip


@given(groups, st.sampled_from([LLAMA, MIXTURE]), st.sampled_from([4096, 65536, 1 << 20]), st.integers(1, 3))
def test_every_way_can_be_built(group, spec, seq, level):
    found = choices(spec, group, 1, seq, level)
    assert len(set(found)) == len(found) and {way.zero for way in found} == set(range(1, level + 1))
    for way in found:
        assert way.cards <= group.count and spec.kv_heads % way.tp == 0 and seq % way.cp == 0 and way.ep in (1, way.cp)
        assert way.ep > 1 or way.cp == 1 or seq // way.cp >= LONG
        assert way.ep == 1 or (way.cards <= group.per_host and spec.experts % way.ep == 0)


@given(groups, st.integers(1, 64), st.sampled_from([1, 2, 8]))
def test_what_replicas_share_is_kept_once_and_sent_more_often(group, ranks, cp):
    def asked(level: int) -> tuple[float, float, float]:
        way = Way(1, 1, "none", cp, 1, level)
        given_ = {"seq": 4096, "stack": Stack(group.per_host, group.network), "constants": published()}
        forward, backward = zero.each(LLAMA, rated(group), way, ranks, **given_)
        return zero.once(LLAMA, rated(group), way, ranks, **given_), forward, backward

    once, forward, backward = zip(*(asked(level) for level in (1, 2, 3)), strict=True)
    held = [state_bytes(Stack(), ranks * cp, level) for level in (1, 2, 3)]
    if ranks * cp == 1:
        assert not any(forward) and not any(backward)
    else:
        assert once[0] > once[1] > once[2] and held[0] > held[1] > held[2]
        assert forward[0] == forward[1] == backward[0] == 0 and 0 < forward[2] < backward[1] < backward[2]


def test_a_million_tokens_are_cut_over_many_cards():
    found = large.search(LLAMA, shorthand("64xH100"), batch=4, seq=1 << 20)
    complete(found.plan)
    assert max(stage.way.cp for each in found.plan.replicas for stage in each.stages) >= 4
    assert max(stage.cards for each in found.plan.replicas for stage in each.stages) >= 8


def test_experts_are_cut_over_cards_where_that_pays_and_the_proof_holds():
    found = large.search(MIXTURE, shorthand("16xH100"), batch=64, seq=4096)
    complete(found.plan)
    assert any(stage.way.ep > 1 for each in found.plan.replicas for stage in each.stages)
    proved = certificate.prove_gap(found)
    assert verify.checked(certificate.as_dict(proved)) == pytest.approx(proved.gap, rel=1e-6)


def test_weights_are_shared_by_replicas_unasked_where_a_model_fits_no_other_way():
    found = large.search(LLAMA, shorthand("8xRTX-4090"), batch=64, seq=4096)
    complete(found.plan)
    assert found.unfit == (1, 2) and found.ask.zero == 3
    proved = certificate.prove_gap(found)
    assert verify.checked(certificate.as_dict(proved)) == pytest.approx(proved.gap, rel=1e-6)
    assert {stage.way.zero for each in found.plan.replicas for stage in each.stages} == {3}
    script = emit.megatron(found.plan, LLAMA)
    assert any("ZeRO-1, which keeps more" in each for each in script.cannot)


@pytest.mark.skipif(native.library() is None, reason="without a compiler only smaller fleets are looked at whole")
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**9), st.integers(2, 8), st.sampled_from([2, 3]), st.sampled_from([0, 4]))
def test_no_plan_of_these_ways_beats_the_search_either(seed, cards, level, experts):
    ask = random_ask(random.Random(seed), cards, 4, 6)
    spec = replace(ask.spec, experts=experts, experts_used=2, ffn=4096) if experts else ask.spec
    assert is_best(replace(ask, spec=spec, zero=level))


def test_cards_that_memory_keeps_out_share_more_unasked():
    """Fast cards that hold the model only together, beside a slow and far one that holds it."""
    slow = Group("old", 1, 2e13, 400 << 30, 8e11, 2e11, 1e7, 1)
    fleet = GroupedFleet("unlike", (slow, *shorthand("8xRTX-4090").groups))
    found = large.search(LLAMA, fleet, batch=64, seq=4096)
    asked = large.search(LLAMA, fleet, batch=64, seq=4096, zero=3)
    assert 0.99 * found.plan.seconds <= asked.plan.seconds and found.ask.zero == 3


def test_mlps_alone_are_computed_again_where_that_is_enough():
    fleet = shorthand("16xRTX-4090")
    found = large.search(LLAMA, fleet, batch=64, seq=4096)
    complete(found.plan)
    ways = {stage.recompute for each in found.plan.replicas for stage in each.stages}
    assert "mlp" in ways and "full" not in ways
    stages = (GroupStage(0, Way(2, 1, "mlp"), 0, len(LLAMA.units), 0.1, 0.0, 0.1, 1 << 30, 0.0, 0.0),)
    plan = replace(found.plan, replicas=(Replicas(8, stages, 1, 8, 1.0),))
    words = emit.megatron(plan, LLAMA).files["megatron.sh"]
    assert "--recompute-granularity selective" in words and "--recompute-modules mlp" in words
    assert any("every second matmul" in each for each in emit.torchtitan(plan, LLAMA).cannot)


def test_a_framework_is_told_how_sequences_and_experts_are_cut():
    stages = (GroupStage(0, Way(2, 1, "none", 4, 4), 0, len(MIXTURE.units), 0.1, 0.0, 0.1, 1 << 30, 0.0, 0.0),)
    plan = GroupedPlan("hybrid", MIXTURE, shorthand("8xH100"), 4, 4096, "1f1b", (Replicas(1, stages, 1, 4, 1.0),), 1.0)
    script = emit.megatron(plan, MIXTURE).files["megatron.sh"]
    for words in ("--context-parallel-size 4", "--expert-model-parallel-size 4", "--expert-tensor-parallel-size 2",
                  "8 ranks: 1 pipeline of 1 stage of 8 cards"):  # fmt: skip
        assert words in script, words
    seats = [[f"c{i}" for i in range(8)]]
    found = emit.danlu(plan, MIXTURE, Fleet("eight", tuple(Card(n, "cuda", "t", {"bf16": 1e9}, 1 << 30, 1e9)
                                                           for n in seats[0])), seats, "here")  # fmt: skip
    assert any("sequences and experts cut over cards" in each for each in found.cannot)
    assert len(text.loads(found.files["plan.json"]).stages[0].cards) == 8


def test_states_in_the_hosts_memory_make_a_model_fit_as_far_as_the_host_holds_them():
    model, fleet = replace(LLAMA, layers=80), shorthand("8xA100-40")
    (group,) = fleet.groups
    assert 18 * model.params > fleet.cards * group.mem_bytes
    with provoke("DL-MEM-001"):
        narrow = replace(group, host_link=2.5e10, host_mem_bytes=4 << 30)
        large.search(model, replace(fleet, groups=(narrow,)), batch=32, seq=4096)
    roomy = replace(group, host_link=2.5e10, host_mem_bytes=128 << 30)
    plan = large.search(model, replace(fleet, groups=(roomy,)), batch=32, seq=4096).plan
    complete(plan)
    assert any(stage.way.offload for each in plan.replicas for stage in each.stages)
    for stage in (stage for each in plan.replicas for stage in each.stages if stage.way.offload):
        held = sum(model.unit_params(unit) for unit in model.units[stage.start : stage.stop]) / stage.tp
        assert 12 * held / plan.pipelines / stage.way.cp <= 128 << 30
    whole = (replace(plan.replicas[0].stages[0], way=Way(8, offload="host"), start=0, stop=len(model.units)),)
    found = emit.megatron(replace(plan, replicas=(replace(plan.replicas[0], stages=whole),)), model)
    assert "--optimizer-cpu-offload" in found.files["megatron.sh"]


@given(st.integers(1, 64), st.integers(1, 1000))
def test_a_host_is_never_asked_for_more_than_it_has(ranks, gib):
    group = Group("card", 8, 3e14, 80 << 30, 2e12, 2e11, 2.5e10, host_link=2.5e10, host_mem_bytes=gib << 30)
    room, way = 0.95 * group.mem_bytes, Way(offload="host")
    held, seconds = zero.away(group, way, ranks, state_bytes(Stack(), ranks), room)
    most = room / held  # parameters that a card can have
    assert 12 / ranks * most <= group.host_mem_bytes * (1 + 1e-9) and seconds == pytest.approx(24 / ranks / 2.5e10)
    assert held >= 6


def test_activations_wait_in_the_hosts_memory_where_that_is_faster_than_making_them_anew():
    (group,) = shorthand("8xRTX-4090").groups
    host = replace(group, host_link=6e10, host_mem_bytes=128 << 30)
    found = large.search(LLAMA, GroupedFleet("eight", (host,)), batch=32, seq=8192)
    complete(found.plan)
    spilled = [stage for each in found.plan.replicas for stage in each.stages if stage.way.spill]
    assert spilled and all(stage.recompute == "none" for stage in spilled)
    slow = replace(host, host_link=1e9)
    slower = large.search(LLAMA, GroupedFleet("eight", (slow,)), batch=32, seq=8192).plan
    assert slower.seconds > found.plan.seconds
    proved = certificate.prove_gap(found)
    assert verify.checked(certificate.as_dict(proved)) == pytest.approx(proved.gap, rel=1e-6)


def test_states_on_disk_make_a_model_fit_that_fits_no_other_way():
    model = replace(LLAMA, layers=96)
    (group,) = shorthand("8xA100-40").groups
    with provoke("DL-MEM-001"):
        large.search(model, GroupedFleet("eight", (group,)), batch=32, seq=4096)
    disks = replace(group, disk_link=1e9, disk_bytes=1 << 40)
    plan = large.search(model, GroupedFleet("eight", (disks,)), batch=32, seq=4096).plan
    complete(plan)
    assert any(stage.way.offload == "disk" for each in plan.replicas for stage in each.stages)
    said = emit.megatron(replace(plan, replicas=(replace(plan.replicas[0], stages=(
        replace(plan.replicas[0].stages[0], way=Way(8, offload="disk", spill=True), start=0, stop=len(model.units)),
    )),)), model)  # fmt: skip
    assert any("on host or disk" in each for each in said.cannot)
    assert "--cpu-offloading-num-layers 95" in said.files["megatron.sh"]


@given(st.floats(1e3, 1e12), st.integers(1, 1000))
def test_what_waits_in_a_hosts_memory_fits_it_and_takes_the_links_time(kept, gib):
    group = Group("card", 8, 3e14, 80 << 30, 2e12, 2e11, 2.5e10, host_link=2.5e10, host_mem_bytes=gib << 30)
    room = 0.95 * group.mem_bytes
    counted, seconds = zero.spilled(group, kept, room)
    assert room / counted * kept == pytest.approx(group.host_mem_bytes) and seconds == kept / 2.5e10


@pytest.mark.skipif(native.library() is None, reason="without a compiler only smaller fleets are looked at whole")
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**9), st.integers(2, 6))
def test_no_plan_with_states_and_activations_elsewhere_beats_the_search(seed, cards):
    rng = random.Random(seed)
    ask = random_ask(rng, cards, 3, 5)
    groups = tuple(replace(group, host_link=rng.choice([1e9, 6e10]), host_mem_bytes=rng.choice([1, 64]) << 30,
                           disk_link=2e9, disk_bytes=1 << 36) for group in ask.fleet.groups)  # fmt: skip
    assert is_best(replace(ask, fleet=replace(ask.fleet, groups=groups)))


def test_a_message_goes_by_the_two_groups_that_it_joins():
    """Half a host each: inside it to cards of the same group, over the slower network to others, and never free."""
    slow, fast = (shorthand("8xA100-80", network=rate).groups[0] for rate in (2e9, 2.5e10))
    fleet = replace(shorthand("8xA100-80"), groups=(slow, fast))
    ways = Ask(LLAMA, fleet, 8, 4096).ways(1, 1, every=True)
    a, b = (next(i for i, way in enumerate(ways.ways) if way == Way(4) and ways.group[i] == at) for at in (0, 1))
    far = 2 * 4096 * LLAMA.hidden / 4 / (published().network * 2e9)
    assert ways.hops[a, 1] == pytest.approx(far) == ways.hops[b, 0]
    assert ways.hops[a, 0] < far / 20 and ways.hops[b, 1] == ways.hops[a, 0]
    units = ways.units
    inside, across = (pipeline(ways, (Span(way, 0, 33), Span(a, 33, units)), 2) for way in (a, b))
    assert across.time[1] - inside.time[1] == pytest.approx(far - ways.hops[a, 0])
    assert across.time[0] - inside.time[0] == pytest.approx(far - ways.hops[a, 0])
    (stage, _) = finished(Ask(LLAMA, fleet, 8, 4096), [(across, 1)], "hybrid").replicas[0].stages
    assert stage.ahead_s == stage.back_s == pytest.approx(far)
