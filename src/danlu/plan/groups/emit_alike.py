"""What the emitters share: a framework's files, and a plan as one whose pipelines and stages are all cut alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from danlu.errors import BadValue
from danlu.nouns import ModelSpec
from danlu.plan.groups import interleaved
from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas


@dataclass(frozen=True, slots=True)
class Emitted:
    """Files by name, how to start them, and what of the plan is not in them."""

    files: Mapping[str, str]
    start: str
    cannot: tuple[str, ...]


def many(count: int, what: str) -> str:
    """ "1 card", "2 cards"."""
    return f"{count} {what}{'s' * (count != 1)}"


def order_words(found: interleaved.Interleaved) -> str:
    """The order that stands in for a zero-bubble one, with the seconds of a simulated step."""
    if found.chunks == 1:
        return f"1F1B, {found.seconds:.4g} s by simulation; no number of chunks that fits is faster"
    return (f"1F1B with {found.chunks} chunks of layers a stage, {found.seconds:.4g} s by simulation; plain 1F1B takes "
            f"{found.plain:.4g} s")  # fmt: skip


def is_even(plan: GroupedPlan) -> bool:
    """Whether all its pipelines are alike, with stages cut alike: what Megatron-LM and torchtitan can run whole."""
    return len(plan.replicas) == 1 and len({_cut(stage) for stage in plan.replicas[0].stages}) == 1


def even(plan: GroupedPlan, framework: str) -> tuple[Replicas, list[str]]:
    """The kind of pipelines with most cards whose stages are all cut alike; and what that leaves out."""
    even = [each for each in plan.replicas if len({_cut(stage) for stage in each.stages}) == 1]
    if not even:
        sizes = sorted({_cut(stage) for each in plan.replicas for stage in each.stages})
        raise BadValue(f"{framework} cannot run this plan", why="it cuts all stages alike; every pipeline of the plan "
                       f"mixes {' and '.join(' x '.join(map(str, size)) for size in sizes)} (tensor-, context- and "
                       "expert-parallel cards)",
                       fix="--emit danlu, or plan for one card type")  # fmt: skip
    each = max(even, key=lambda one: one.copies * sum(stage.cards for stage in one.stages))
    cannot = []
    if len(plan.replicas) > 1:
        cards = each.copies * sum(stage.cards for stage in each.stages)
        cannot.append(f"{len(plan.replicas)} kinds of pipelines with {plan.batch} sequences: {framework} runs equal "
                      f"replicas; this is the kind of {each.copies} copies on {cards} of {sum(plan.used)} cards, "
                      f"{each.sequences} sequences a step")  # fmt: skip
    return each, cannot


def _cut(stage: GroupStage) -> tuple[int, int, int]:
    return stage.way.tp, stage.way.cp, stage.way.ep


def whole_layers(each: Replicas, spec: ModelSpec) -> tuple[list[int], list[str]]:
    """Layers of each stage when cuts inside a layer move to the nearest end; every stage keeps one."""
    per, count = len(spec.recipe), len(each.stages)
    ends = [round((stage.stop - 1) / per) for stage in each.stages[:-1]]
    for at in range(len(ends)):
        ends[at] = max(ends[at], at + 1, (ends[at - 1] + 1) if at else 1)
    for at in range(len(ends) - 1, -1, -1):
        ends[at] = min(ends[at], spec.layers - (count - 1 - at))
    borders = [0, *ends, spec.layers]
    inside = sum((stage.stop - 1) % per != 0 for stage in each.stages[:-1])
    said = [f"{many(inside, 'cut')} between attention and MLP: moved to the end of a layer"] if inside else []
    return [b - a for a, b in zip(borders, borders[1:], strict=False)], said


def one_recompute(each: Replicas, framework: str) -> list[str]:
    """What to say where stages compute again more or less than each other."""
    kinds = sorted({stage.recompute for stage in each.stages})
    return [f"recompute {' and '.join(kinds)} by stage: {framework} has one for all, the most is set"] if kinds[
        1:] else []  # fmt: skip


def bits(plan: GroupedPlan, each: Replicas, framework: str, cannot: list[str]) -> str:
    """The precision that all cards of these pipelines have: the framework has one."""
    wide = sorted({group.card for group in (plan.fleet.groups[stage.group] for stage in each.stages) if not group.fp8})
    if plan.dtype == "fp8" and wide:
        cannot.append(f"fp8 on some cards: {framework} has one precision for all, and {', '.join(wide)} cannot; bf16 "
                      "is set")  # fmt: skip
        return "bf16"
    return plan.dtype
