"""Experts spread over pipelines: which rank sends tokens to which, and for which experts.

A pipeline's tokens go to every card that computes a part of an expert they want, each time from one card of the stage
that has them, and what came of them goes back the same way. Follows from the plan, so both ends find the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from danlu.nouns import Plan
from danlu.plan.ranks.cells import share_of
from danlu.plan.ranks.parts import deals, parts
from danlu.plan.ranks.seats import Seat, group, seats


@dataclass(frozen=True, slots=True)
class Lane:
    """Tokens go from `sender` to `receiver` for the experts [start, stop) that it holds.

    tokens  of a micro-batch that the sender's pipeline computes
    """

    sender: int
    receiver: int
    start: int
    stop: int
    tokens: int


def lanes(plan: Plan, seat: Seat) -> tuple[Lane, ...]:
    """Those that begin or end at this seat, in the order of ranks; none where its pipeline holds all experts."""
    every, known, cut = seats(plan), deals(plan), parts(plan)
    peers = [each for each in every
             if known[each.replica].group == known[seat.replica].group and each.stage == seat.stage]  # fmt: skip
    found = []
    for sender in peers:
        mine = group(every, sender)
        tokens = plan.micro_batch * cut[sender.replica].tokens
        for receiver in peers:
            if receiver.replica == sender.replica or receiver.part % len(mine) != sender.part:
                continue
            if seat in (sender, receiver):
                held = share_of(plan, receiver.replica, receiver.stage, receiver.part).experts
                found.append(Lane(sender.rank, receiver.rank, *held, tokens))
    return tuple(found)
