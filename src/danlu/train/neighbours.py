"""The ranks that compute other parts of the same sequences: rows handed on by the wire, their gradients handed back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.model.context import Call
from danlu.nouns import Plan
from danlu.plan.ranks.context import Piece, held, pieces
from danlu.plan.ranks.parts import parts
from danlu.plan.ranks.seats import Seat
from danlu.train.swap import Swap


@dataclass(frozen=True, slots=True)
class _Route:
    """Of a kind of call, what is heard going forward and what is sent; the first own column, None for a whole axis."""

    heard: tuple[Piece, ...]
    sent: tuple[Piece, ...]
    left: int | None

    def cut(self, x_BSCW: Tensor, start: int, piece: Piece) -> Tensor:
        """A piece of a tensor whose rows begin with token `start`, a view."""
        found = x_BSCW[:, piece.rows[0] - start : piece.rows[1] - start]
        return found if self.left is None else found[:, :, piece.columns[0] - self.left : piece.columns[1] - self.left]


class RankNeighbours(Swap):
    """The face of model.context.Neighbours; before there is a wire, rows are zero.

    Gradients are added in fp32, the own first, then by rank, so that every run gets the same bits.
    """

    def __init__(self, plan: Plan, seat: Seat) -> None:
        super().__init__()
        self._plan, self._seat, self._start = plan, seat, parts(plan)[seat.replica].start
        self._routes: dict[tuple[str, int | None], _Route] = {}

    def before(self, call: Call, own_BSCW: Tensor) -> Tensor:
        """Rows of the parts before, (B, P, C, W). Raises what Wire.take raises."""
        route = self._route(call)
        first = 0 if call.reach is None else max(0, self._start - call.reach)
        whole = own_BSCW.new_zeros(len(own_BSCW), self._start - first, *own_BSCW.shape[2:])
        told = {piece.receiver: route.cut(own_BSCW, self._start, piece) for piece in route.sent}
        blocks = {piece.sender: route.cut(whole, first, piece) for piece in route.heard}
        for sender, rows in self.swap(call.name, told, _shapes(blocks), whole).items():
            blocks[sender].copy_(rows)
        return whole

    def behind(self, call: Call, before_BPCW: Tensor, own_BSCW: Tensor) -> Tensor:
        """Gradients of the own rows, with what the parts behind found for them. Raises what Wire.take raises."""
        route, first = self._route(call), self._start - before_BPCW.shape[1]
        total = own_BSCW.to(torch.float32, copy=True)
        told = {piece.sender: route.cut(before_BPCW, first, piece) for piece in route.heard}
        blocks = {piece.receiver: route.cut(total, self._start, piece) for piece in route.sent}
        for receiver, rows in self.swap(f"d{call.name}", told, _shapes(blocks), own_BSCW).items():
            blocks[receiver].add_(rows)
        return total.to(own_BSCW.dtype)

    def _route(self, call: Call) -> _Route:
        key = call.axis, call.reach
        if key not in self._routes:
            found, rank = pieces(self._plan, self._seat, *key), self._seat.rank
            self._routes[key] = _Route(
                tuple(each for each in found if each.receiver == rank),
                tuple(each for each in found if each.sender == rank),
                held(self._plan, self._seat, call.axis)[0] if call.axis else None,
            )
        return self._routes[key]


def _shapes(blocks: Mapping[int, Tensor]) -> dict[int, tuple[int, ...]]:
    return {peer: tuple(block.shape) for peer, block in blocks.items()}
