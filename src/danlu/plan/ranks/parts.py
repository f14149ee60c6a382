"""Pipelines that go in step: those that compute parts of the same sequences, or that share experts.

A part is a run of tokens, as long as its cards are fast: under causal attention a later token costs more, so that equal
cards take unequal parts. Runs, and not a zigzag, because then nothing but gradients goes back: the first part never
waits for the others going forward, and they follow it a layer behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from danlu.errors import BadContext, BadShares
from danlu.nouns import Plan, Replica


@dataclass(frozen=True, slots=True)
class Part:
    """What a pipeline computes: tokens [start, stop) of every sequence of a copy of the model, counted from 0."""

    copy: int
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """How many."""
        return self.stop - self.start

    def words(self, seq: int) -> str:
        """For people: "", or " of tokens 0..89" where they are not the whole sequence."""
        return "" if self.tokens == seq else f" of tokens {self.start}..{self.stop - 1}"


@dataclass(frozen=True, slots=True)
class Deal:
    """The experts [start, stop) of every layer that a pipeline holds, among those of group `group` that share them."""

    group: int
    start: int
    stop: int

    def words(self, experts: int) -> str:
        """For people: "", or ", experts 0..2" where they are not all."""
        return "" if self.stop - self.start == experts else f", experts {self.start}..{self.stop - 1}"


def parts(plan: Plan) -> tuple[Part, ...]:
    """The part of every pipeline. Raises BadContext where parts do not come to sequences, or cannot go in step."""
    fix = 'give pipelines that follow each other "context"s that sum to "seq", with equal cuts and micro-batches'

    def refused(where: str, why: str) -> BadContext:
        return BadContext("sequences are cut into parts that do not hold", where=where, why=why, fix=fix)

    return tuple(Part(*each) for each in _runs(plan, [each.context for each in plan.pipelines], plan.seq, refused))


def deals(plan: Plan) -> tuple[Deal, ...]:
    """The experts of every pipeline. Raises BadShares where they do not come to all, or pipelines cannot go in step."""
    whole = plan.model.experts
    fix = f'give pipelines that follow each other "experts" that sum to {whole}, with equal cuts and micro-batches'

    def refused(where: str, why: str) -> BadShares:
        return BadShares("experts are spread in a way that does not hold", where=where, why=why, fix=fix)

    return tuple(Deal(*each) for each in _runs(plan, [each.experts for each in plan.pipelines], whole, refused))


def in_step(plan: Plan) -> tuple[int, ...]:
    """Of every pipeline, which group it goes in step with; groups are pipelines that follow each other."""
    found, number = [0], 0
    ties = [[part.copy for part in parts(plan)], [deal.group for deal in deals(plan)]]
    for at in range(1, len(plan.pipelines)):
        number += all(tie[at] != tie[at - 1] for tie in ties)
        found.append(number)
    return tuple(found)


def _runs(
    plan: Plan, sizes: Sequence[int], whole: int, refused: Callable[[str, str], Exception]
) -> list[tuple[int, int, int]]:
    """(run, start, stop) of each pipeline where those that follow each other come to `whole`.

    refused  the error to raise where they do not, given whose cards and why
    """
    found: list[tuple[int, int, int]] = []
    at = run = first = 0
    for number, (each, size) in enumerate(zip(plan.pipelines, sizes, strict=True)):
        first = number if at == 0 else first
        stop, where = at + (size or whole), _cards(plan, first, number)
        if size < 0 or stop > whole:
            raise refused(where, f"pipelines {first} to {number} have {list(sizes[first : number + 1])} of {whole}")
        if number > first and _pace(plan.pipelines[first]) != _pace(each):
            why = f"cuts, recompute, micro-batches or orders of pipeline {number} are not those of pipeline {first}"
            raise refused(where, why)
        found.append((run, at, stop))
        at, run = (0, run + 1) if stop == whole else (stop, run)
    if at:
        raise refused(_cards(plan, first, len(sizes) - 1), f"the last pipelines have {list(sizes[first:])} of {whole}")
    return found


def _cards(plan: Plan, first: int, last: int) -> str:
    stages = [stage for each in plan.pipelines[first : last + 1] for stage in each.stages]
    return "cards " + ", ".join(card for stage in stages for card in stage.cards)


def _pace(pipeline: Replica) -> tuple[object, ...]:
    """What pipelines that meet in every layer of every micro-batch must have alike."""
    stages = tuple((stage.start, stage.stop, stage.recompute) for stage in pipeline.stages)
    return stages, pipeline.micro_batches, pipeline.orders


def sequences_before(plan: Plan, number: int) -> int:
    """Sequences of a step that the copies of the model before a pipeline's own one compute."""
    found = parts(plan)
    firsts = [at for at, part in enumerate(found) if part.start == 0 and part.copy < found[number].copy]
    return plan.micro_batch * sum(plan.pipelines[at].micro_batches for at in firsts)
