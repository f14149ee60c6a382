"""Which rank holds which part of which parameter, who adds its gradients up, and who updates it.

A cell is the largest part of a parameter that every rank holds whole or not at all. One of its holders owns it: only
the owner keeps its moments (ZeRO stage 1, Rajbhandari 2020), and the parts may be as uneven as the plan. All of this
follows from the plan, so every rank finds the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from danlu import recipe
from danlu.errors import BadShares
from danlu.nouns import ModelSpec, Plan
from danlu.plan.ranks.parts import deals, parts
from danlu.plan.ranks.seats import seats
from danlu.shares import Share, cut, whole


@dataclass(frozen=True, slots=True)
class Held:
    """A rank's hold on a cell: `name` of its own parameter (a tied head has a copy of the embedding), where in it."""

    rank: int
    replica: int
    name: str
    offset: int


@dataclass(frozen=True, slots=True)
class Cell:
    """Part of a parameter: [start, stop) of `axis`; axis None for all of it.

    shape    of this part
    owner    rank that updates it
    sources  holds whose gradients sum to the whole one, in the order they are added: one for each copy of the model
             (two for a tied embedding whose ends lie on two stages)
    holders  everyone who holds it
    """

    name: str
    axis: int | None
    start: int
    stop: int
    shape: tuple[int, ...]
    matrix: bool
    owner: int
    sources: tuple[Held, ...]
    holders: tuple[Held, ...]

    @property
    def key(self) -> str:
        """Its name in a snapshot: the parameter's, and where it lies when it is a part ("checkpoint" in formats.md)."""
        return self.name if self.axis is None else f"{self.name}@{self.axis}:{self.start}:{self.stop}"


def share_of(plan: Plan, replica: int, stage: int, part: int) -> Share:
    """What one card holds of its stage's units. Raises BadShares."""
    here, deal = plan.pipelines[replica].stages[stage], deals(plan)[replica]
    spec = replace(plan.model, experts=deal.stop - deal.start)
    try:
        found = whole(spec) if len(here.cards) == 1 else cut(spec, here.shares, experts=here.experts or None)[part]
    except BadShares as error:
        where = f"stage {stage} of copy {replica}, cards {', '.join(here.cards)}"
        raise BadShares(error.what, where=where, why=error.why, fix=error.fix) from error
    return replace(found, experts=(found.experts[0] + deal.start, found.experts[1] + deal.start))


def cells(plan: Plan) -> tuple[Cell, ...]:
    """Every cell of a plan, by parameter in the model's order. Raises BadShares, BadContext."""
    parts(plan)  # is there to be refused
    spec, found = plan.model, []
    holds = _holds(plan)
    load: dict[int, int] = defaultdict(int)
    for name, held in holds.items():
        weight = recipe.weight_of(spec, name)
        edges = sorted({edge for _, span in held for edge in span})
        for start, stop in pairwise(edges):
            inside = [
                (Held(hold.rank, hold.replica, hold.name, start - span[0]))
                for hold, span in held if span[0] <= start and stop <= span[1]
            ]  # fmt: skip
            axis = weight.axis if len(edges) > 2 else None
            shape = list(weight.shape)
            if weight.axis is not None:
                shape[weight.axis] = stop - start
            found.append((name, axis, start, stop, tuple(shape), len(shape) > 1, inside))
    owners = _owners([(prod(each[4]), [hold.rank for hold in each[6]]) for each in found], load)
    return tuple(
        Cell(*each[:6], owner, _sources(each[6], owner), tuple(each[6]))
        for each, owner in zip(found, owners, strict=True)
    )


def _holds(plan: Plan) -> dict[str, list[tuple[Held, tuple[int, int]]]]:
    """By parameter: who holds which span of the axis it may be cut along (all of its first one when there is none)."""
    spec: ModelSpec = plan.model
    found: dict[str, list[tuple[Held, tuple[int, int]]]] = defaultdict(list)
    for seat in seats(plan):
        stage = plan.pipelines[seat.replica].stages[seat.stage]
        units, share = spec.units[stage.start : stage.stop], share_of(plan, seat.replica, seat.stage, seat.part)
        names = [(f"{unit}.{each.name}", each) for unit in units for each in recipe.weights(spec, recipe.kind_of(unit))]
        for name, weight in names:
            if share.holds(weight):
                span = share.span(spec, name) or (0, 0, weight.shape[0])
                found[name].append((Held(seat.rank, seat.replica, name, 0), span[1:]))
        if spec.tied and "head" in units and "embed" not in units:
            span = share.span(spec, "embed.weight") or (0, 0, spec.vocab)
            found["embed.weight"].append((Held(seat.rank, seat.replica, "head.weight", 0), span[1:]))
    return found


def _owners(wanted: Sequence[tuple[int, Sequence[int]]], load: dict[int, int]) -> list[int]:
    """A holder for each (size, holders), so that the sizes owned are as even as they can be, the largest placed first.

    What has one holder is placed before anything else.
    """
    owners = [0] * len(wanted)
    for index in sorted(range(len(wanted)), key=lambda i: (len(wanted[i][1]) > 1, -wanted[i][0], i)):
        size, holders = wanted[index]
        owners[index] = min(holders, key=lambda rank: (load[rank], rank))
        load[owners[index]] += size
    return owners


def _sources(holders: Sequence[Held], owner: int) -> tuple[Held, ...]:
    """One hold for each copy and role; the owner's own where it has one, so that least is sent."""
    found: dict[tuple[int, str], Held] = {}
    for hold in holders:
        if hold.rank == owner or (hold.replica, hold.name) not in found:
            found[hold.replica, hold.name] = hold
    return tuple(found[key] for key in sorted(found))
