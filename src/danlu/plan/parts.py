"""Context parallelism: pipelines that compute parts of the same sequences.

A part is a run of tokens, as long as its cards are fast: under causal attention a later token costs more, so that equal
cards take unequal parts. Runs, and not a zigzag, because then nothing but gradients goes back: the first part never
waits for the others going forward, and they follow it a layer behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from danlu.errors import BadContext
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


def parts(plan: Plan) -> tuple[Part, ...]:
    """The part of every pipeline. Raises BadContext where parts do not come to sequences, or cannot go in step."""
    found: list[Part] = []
    at = copy = first = 0
    for number, each in enumerate(plan.pipelines):
        first = number if at == 0 else first
        stop = at + (each.context or plan.seq)
        if stop > plan.seq or each.context < 0:
            said = [one.context or plan.seq for one in plan.pipelines[first : number + 1]]
            raise _bad(plan, number, f"its part and those before it are {said} tokens of sequences of {plan.seq}")
        if at and _pace(plan.pipelines[first]) != _pace(each):
            alike = f"those of pipeline {first}, which computes other tokens of the same sequences"
            raise _bad(plan, number, f"its cuts, recompute, micro-batches or orders are not {alike}")
        found.append(Part(copy, at, stop))
        at, copy = (0, copy + 1) if stop == plan.seq else (stop, copy)
    if at:
        raise _bad(plan, len(found) - 1, f"the sequences of its copy end at token {at} of {plan.seq}")
    return tuple(found)


def _pace(pipeline: Replica) -> tuple[object, ...]:
    """What parts of one copy must have alike: they meet in every layer of every micro-batch."""
    stages = tuple((stage.start, stage.stop, stage.recompute) for stage in pipeline.stages)
    return stages, pipeline.micro_batches, pipeline.orders


def _bad(plan: Plan, number: int, why: str) -> BadContext:
    cards = ", ".join(card for stage in plan.pipelines[number].stages for card in stage.cards)
    return BadContext(
        f"pipeline {number} cannot compute {plan.pipelines[number].context or plan.seq} tokens of a sequence",
        where=f"cards {cards}",
        why=why,
        fix='give pipelines that follow each other "context"s that sum to "seq", with equal cuts and micro-batches',
    )


def sequences_before(plan: Plan, number: int) -> int:
    """Sequences of a step that the copies of the model before a pipeline's own one compute."""
    found = parts(plan)
    firsts = [at for at, part in enumerate(found) if part.start == 0 and part.copy < found[number].copy]
    return plan.micro_batch * sum(plan.pipelines[at].micro_batches for at in firsts)
