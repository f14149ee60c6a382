"""The ranks that compute other parts of the same sequences: rows handed on by the wire, their gradients handed back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.comm.header import Tag
from danlu.comm.wire import Wire
from danlu.fleet.pace import Pacer
from danlu.model.context import Call
from danlu.nouns import Plan
from danlu.plan.context import Piece, held, pieces
from danlu.plan.parts import parts
from danlu.plan.seats import Seat
from danlu.train.group import NAMES, as_buffer, as_tensor


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


class RankNeighbours:
    """The face of model.context.Neighbours by the wire of the step that runs; before there is one, rows are zero.

    Gradients are added in fp32, the own first, then by rank, so that every run gets the same bits. A paced card waits
    for the links in the middle of its instruction. Used by one thread.
    """

    def __init__(self, plan: Plan, seat: Seat) -> None:
        self._plan, self._seat, self._start = plan, seat, parts(plan)[seat.replica].start
        self._routes: dict[tuple[str, int | None], _Route] = {}
        self._wire: Wire | None = None
        self._pacer: Pacer | None = None
        self._step, self._counts = 0, Counter[str]()

    def begin(self, wire: Wire | None, step: int, pacer: Pacer | None = None) -> None:
        """Exchanges from now on belong to a step; every part begins it at its start, on the clock of its card."""
        self._wire, self._pacer, self._step, self._counts = wire, pacer, step, Counter()

    def before(self, call: Call, own_BSCW: Tensor) -> Tensor:
        """Rows of the parts before, (B, P, C, W). Raises what Wire.take raises."""
        route = self._route(call)
        first = 0 if call.reach is None else max(0, self._start - call.reach)
        whole = own_BSCW.new_zeros(len(own_BSCW), self._start - first, *own_BSCW.shape[2:])
        told = {piece.receiver: route.cut(own_BSCW, self._start, piece) for piece in route.sent}
        blocks = {piece.sender: route.cut(whole, first, piece) for piece in route.heard}
        for sender, rows in self._swap(call.name, told, blocks, whole.dtype).items():
            blocks[sender].copy_(rows)
        return whole

    def behind(self, call: Call, before_BPCW: Tensor, own_BSCW: Tensor) -> Tensor:
        """Gradients of the own rows, with what the parts behind found for them. Raises what Wire.take raises."""
        route, first = self._route(call), self._start - before_BPCW.shape[1]
        total = own_BSCW.to(torch.float32, copy=True)
        told = {piece.sender: route.cut(before_BPCW, first, piece) for piece in route.heard}
        blocks = {piece.receiver: route.cut(total, self._start, piece) for piece in route.sent}
        for receiver, rows in self._swap(f"d{call.name}", told, blocks, own_BSCW.dtype).items():
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

    def _swap(
        self, name: str, told: Mapping[int, Tensor], due: Mapping[int, Tensor], dtype: torch.dtype
    ) -> dict[int, Tensor]:
        """Send by rank, and take what is to fit the tensors of `due`, in the order of ranks."""
        wire = self._wire
        if wire is None:
            return {}
        tag, self._counts[name] = Tag(name, self._step, self._counts[name]), self._counts[name] + 1
        sent = self._pacer.pause() if self._pacer is not None else 0.0
        for peer, values in told.items():
            body = values.contiguous()
            wire.post(peer, tag, as_buffer(body), NAMES[dtype], tuple(body.shape), sent)
        came = {peer: wire.take(peer, tag, NAMES[dtype], tuple(due[peer].shape)) for peer in sorted(due)}
        if self._pacer is not None:
            self._pacer.resume(max((message.header.ready for message in came.values()), default=0.0))
        found = {peer: as_tensor(message, next(iter(due.values())).device).clone() for peer, message in came.items()}
        for message in came.values():
            wire.recycle(message.body)
        return found
