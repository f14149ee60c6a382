"""A plan over a large fleet as a configuration that danlu, Megatron-LM or torchtitan runs.

Each function returns files by name, and in `cannot` every property of the plan that the framework has no word for: then
what is written is the nearest it can say, never silently. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from danlu.errors import BadValue
from danlu.nouns import Fleet, ModelSpec, Plan, Replica, Stage
from danlu.plan import text
from danlu.plan.groups.emit_alike import Emitted
from danlu.plan.groups.emit_megatron import megatron
from danlu.plan.groups.emit_torchtitan import torchtitan
from danlu.plan.groups.grouped import GroupedPlan, GroupStage
from danlu.plan.stand_ins import runs


def danlu(plan: GroupedPlan, spec: ModelSpec, fleet: Fleet, seats: Sequence[Sequence[str]], folder: str) -> Emitted:
    """Plan JSON for `danlu train`: every copy with its own stages and micro-batches.

    fleet   the cards by name; seats: names of each group's cards
    folder  where the files will lie
    Raises BadValue for a model that danlu does not run, and for sequences cut where heads cannot be.
    """
    if not runs(spec):
        raise BadValue(f"danlu train runs no {spec.family}", why="it is planned by its numbers alone",
                       fix="leave --emit danlu out")  # fmt: skip
    left = [list(names) for names in seats]
    cannot = _cut_otherwise(plan)
    if plan.schedule != "1f1b":
        cannot.append(f"schedule {plan.schedule}: written as 1f1b; danlu plan run.yaml makes orders of its own")
    if any(stage.recompute in ("selective", "mlp") for each in plan.replicas for stage in each.stages):
        cannot.append("recomputation of a part: written as full, which takes longer and keeps less")
    size = plan.replicas[0].micro_batch
    if any(each.micro_batch != size for each in plan.replicas):
        cannot.append(f"micro-batches of several sizes: all written as {size} sequences, their number made to fit")
    copies = [
        Replica(tuple(_stage(stage, spec, left[stage.group]) for stage in each.stages),
                max(1, round(each.micro_batch * each.micro_batches / size)))
        for each in plan.replicas for _ in range(each.copies)
    ]  # fmt: skip
    cpu = {card.vendor for card in fleet.cards} <= {"cpu", "emulated"}
    dtype = "fp8-mixed" if plan.dtype == "fp8" else "bf16" if plan.dtype == "fp16" else plan.dtype
    if plan.dtype == "fp16":
        cannot.append("fp16: danlu train runs 16 bits as bf16")
    found = Plan(spec, fleet, copies[0].stages, "1f1b", copies[0].micro_batches, size, plan.seq,
                 "fp32" if cpu else dtype, replicas=tuple(copies[1:]))  # fmt: skip
    run = (f"danlu: 1\nout: {folder}/run\nplan: {{path: {folder}/plan.json}}\n"
           f"data: {{seq: {plan.seq}}}\ntrain: {{steps: 100}}\n")  # fmt: skip
    return Emitted({"plan.json": text.dumps(found), "run.yaml": run}, f"danlu train {folder}/run.yaml", tuple(cannot))


def _cut_otherwise(plan: GroupedPlan) -> list[str]:
    """What `danlu train` has no word for in how stages are cut. Raises BadValue where heads cannot replace it."""
    found = []
    ways = {stage.way for each in plan.replicas for stage in each.stages}
    cut = [way for way in ways if way.cp > 1]
    if cut:
        most = max(way.cards for way in cut)
        if any(plan.model.kv_heads % way.cards for way in cut):
            raise BadValue("danlu train cannot run this plan", why=f"it cuts sequences over stages of {most} cards, "
                           f"which danlu train would have to cut by heads: the model has {plan.model.kv_heads} key "
                           "heads", fix="--emit megatron, or a shorter --seq")  # fmt: skip
        found.append("sequences and experts cut over cards: written as tensor parallelism over the same cards, which "
                     "keeps more activations and sends more")  # fmt: skip
    if any(way.zero > 1 for way in ways):
        found.append("gradients or weights shared by the replicas (ZeRO-2, 3): danlu train keeps them whole")
    if any(way.offload or way.spill for way in ways):
        found.append("states or activations in the host's memory or on disk: danlu train keeps them on the cards")
    return found


def _stage(stage: GroupStage, spec: ModelSpec, names: list[str]) -> Stage:
    cards = tuple(names.pop(0) for _ in range(stage.cards))
    shares = (spec.heads // stage.cards,) * stage.cards if stage.cards > 1 else ()
    recompute = "none" if stage.recompute == "none" else "full"
    return Stage(cards, stage.start, stage.stop, shares, recompute)


FRAMEWORKS: Mapping[str, Callable[[GroupedPlan, ModelSpec], Emitted]] = {
    "megatron": megatron,
    "torchtitan": torchtitan,
}
