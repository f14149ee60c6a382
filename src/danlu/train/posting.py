"""Tokens for experts of other ranks, and theirs for the own ones, by the wire."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.model.post import Counts
from danlu.nouns import Plan
from danlu.plan.ranks.seats import Seat
from danlu.plan.ranks.spread import lanes
from danlu.train.swap import Swap


class RankPost(Swap):
    """The face of model.post.Post. Before there is a wire, guests come as if tokens spread evenly, and are zero."""

    def __init__(self, plan: Plan, seat: Seat) -> None:
        super().__init__()
        found = lanes(plan, seat)
        away = [lane for lane in found if lane.sender == seat.rank]
        self.sends = tuple((lane.start, lane.stop) for lane in away)
        self._receivers = [lane.receiver for lane in away]
        self._senders = [lane.sender for lane in found if lane.receiver == seat.rank]
        used, every = plan.model.experts_used, plan.model.experts
        self._usual = [lane.tokens * used // every for lane in found if lane.receiver == seat.rank]

    def announce(self, name: str, counts: Sequence[Counts], own: int) -> list[list[int]]:
        """Rows of each receiver's experts; what each sender says of the `own` ones. Raises what Wire.take raises."""
        if self.wire is None:
            return [[usual] * own for usual in self._usual]
        told = {peer: torch.tensor(each) for peer, each in zip(self._receivers, counts, strict=True)}
        came = self.swap(name, told, dict.fromkeys(self._senders, (own,)), torch.zeros(0, dtype=torch.int64))
        return [came[peer].tolist() for peer in self._senders]

    def out(self, name: str, rows_ND: Tensor, counts: Counts, due: Counts) -> Tensor:
        """Rows to the receivers; those that came. Raises what Wire.take raises."""
        return self._rows(name, rows_ND, dict(zip(self._receivers, counts, strict=True)),
                          dict(zip(self._senders, due, strict=True)))  # fmt: skip

    def back(self, name: str, rows_ND: Tensor, counts: Counts, due: Counts) -> Tensor:
        """Rows to the senders; those that came. Raises what Wire.take raises."""
        return self._rows(name, rows_ND, dict(zip(self._senders, counts, strict=True)),
                          dict(zip(self._receivers, due, strict=True)))  # fmt: skip

    def _rows(self, name: str, rows_ND: Tensor, counts: dict[int, int], due: dict[int, int]) -> Tensor:
        if self.wire is None:
            return rows_ND.new_zeros(sum(due.values()), rows_ND.shape[1])
        told = dict(zip(counts, torch.split(rows_ND, list(counts.values())), strict=True))
        shapes = {peer: (count, rows_ND.shape[1]) for peer, count in due.items()}
        came = self.swap(name, told, shapes, rows_ND)
        return torch.cat([rows_ND[:0], *(came[peer] for peer in due)])
