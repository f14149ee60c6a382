"""What the cards of two parts of a sequence hand each other: keys and values, and the row before the first.

Which of them, by rank, follows from the plan, so both ends find the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from danlu.nouns import Plan
from danlu.plan.ranks.cells import share_of
from danlu.plan.ranks.parts import parts
from danlu.plan.ranks.seats import Seat, group, seats


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes from one rank to another of a tensor over (sequences, tokens, columns, ...).

    rows     tokens [start, stop) of a sequence;  columns  [start, stop) of the whole model's axis
    """

    sender: int
    receiver: int
    rows: tuple[int, int]
    columns: tuple[int, int]


def pieces(plan: Plan, seat: Seat, axis: str, reach: int | None) -> tuple[Piece, ...]:
    """What this seat hears of the parts before its own, and sends to those behind, in the order of ranks.

    axis   field of a Share that says which columns a card holds; "" for a tensor that every card of a stage holds whole
    reach  tokens before its own that a part needs; None for all of them
    Whoever sends a piece going forward gets its gradient going back.
    """
    every, found = seats(plan), list[Piece]()
    known, here = parts(plan), parts(plan)[seat.replica]
    peers = [each for each in every if known[each.replica].copy == here.copy and each.stage == seat.stage]
    for receiver in peers:
        own = known[receiver.replica]
        first = 0 if reach is None else max(0, own.start - reach)
        for sender in peers:
            rows = max(first, known[sender.replica].start), min(own.start, known[sender.replica].stop)
            columns = _columns(plan, every, sender, receiver, axis)
            if seat in (sender, receiver) and rows[0] < rows[1] and columns[0] < columns[1]:
                found.append(Piece(sender.rank, receiver.rank, rows, columns))
    return tuple(found)


def held(plan: Plan, seat: Seat, axis: str) -> tuple[int, int]:
    """Columns of an axis that a seat's card holds; (0, 1) where every card holds all of it."""
    span: tuple[int, int] = getattr(share_of(plan, seat.replica, seat.stage, seat.part), axis) if axis else (0, 1)
    return span


def _columns(plan: Plan, every: tuple[Seat, ...], sender: Seat, receiver: Seat, axis: str) -> tuple[int, int]:
    """Columns that go from one card to another: what both hold; of what all hold, one card of the stage sends it."""
    if not axis:
        return 0, int(receiver.part % len(group(every, sender)) == sender.part)
    mine, theirs = held(plan, receiver, axis), held(plan, sender, axis)
    return max(mine[0], theirs[0]), min(mine[1], theirs[1])
