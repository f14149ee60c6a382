"""The end of a step, as ranks tell it each other: gradients of what several hold, their norm and loss, new weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from danlu.comm.collect import gather_sum, share_all
from danlu.comm.header import Tag
from danlu.comm.staging import leaving
from danlu.comm.wire import Message, Wire
from danlu.model.net import Decoder
from danlu.nouns import Plan
from danlu.plan.ranks.seats import shared
from danlu.train.group import as_tensor
from danlu.train.optim import AdamW
from danlu.train.program import Work
from danlu.train.shared import SharedAdamW


def tied_here(plan: Plan, decoder: Decoder) -> str | None:
    """The parameter whose gradient is summed with another stage's: an end of a tied embedding that lies apart."""
    first, last = decoder.embed is not None, decoder.head is not None
    if not plan.model.tied or first == last or shared(plan):
        return None
    return "embed.weight" if first else "head.weight"


class Ending:
    """Owns what is on its way at the end of a step. Waits are before an instruction, sums are in it; one thread's."""

    def __init__(self, optimizer: AdamW | SharedAdamW, device: torch.device, *, tied: str | None, counts: bool) -> None:
        """tied  as of `tied_here`;  counts  False where another card of the stage tells the loss of both."""
        self._optimizer, self._device, self._tied, self._counts = optimizer, device, tied, counts
        self.loss = self.norm = math.nan

    def begin(self, wire: Wire, step: int) -> None:
        """What is exchanged from now on belongs to a step."""
        self._wire, self._number = wire, step
        self._came: list[Message] = []
        self._parts: dict[int, Tensor] = {}

    def collect(self, work: Work, clock: float) -> float:
        """Send what others need for an instruction and wait for what it needs of them; returns when all was there."""
        if work.op == "step":
            total, ready = gather_sum(self._wire, self._part, Tag("norm", self._number))
            self.norm, self.loss = math.sqrt(total[0]) if total[0] >= 0 else math.nan, float(total[1])
            return ready
        if work.op != "reduce" or work.what == "norm":
            return 0.0
        return self._swap_tied(work.peer, clock) if work.what == "tied" else self._swap(work.what, clock)

    def reduce(self, work: Work, loss: Tensor) -> None:
        """Add up, or take over, what came; of the norm, make this rank's part."""
        if work.what == "tied":
            self._tied_grad().add_(as_tensor(self._came[0], self._device))
        elif work.what == "norm":
            elsewhere = self._tied if self._tied == "head.weight" else None
            self._part = np.array([self._optimizer.norm_squared(elsewhere), float(loss) if self._counts else 0.0])
        else:
            assert isinstance(self._optimizer, SharedAdamW)
            (self._optimizer.gather if work.what == "data" else self._optimizer.take_over)(self._parts)
        for each in self._came:
            self._wire.recycle(each.body)
        self._came, self._parts = [], {}

    def post(self, work: Work, clock: float) -> None:
        """Send what an instruction made."""
        if work.op == "reduce" and work.what == "norm":
            share_all(self._wire, self._part, Tag("norm", self._number), clock)

    def _swap_tied(self, peer: int, clock: float) -> float:
        mine = self._tied_grad().clone()  # the sum is made in place while this is still being sent
        tag = Tag("tied", self._number)
        self._wire.post(peer, tag, leaving(mine), "fp32", tuple(mine.shape), clock)
        self._came = [self._wire.take(peer, tag, "fp32", tuple(mine.shape))]
        return self._came[0].header.ready

    def _swap(self, what: str, clock: float) -> float:
        """Gradients for their owners ("data"), or new weights for their holders."""
        optimizer = self._optimizer
        assert isinstance(optimizer, SharedAdamW)
        data, ready = what == "data", 0.0
        tag = Tag(what, self._number)
        for peer, values in (optimizer.parts() if data else optimizer.news()).items():
            self._wire.post(peer, tag, leaving(values), "fp32", tuple(values.shape), clock)
        for peer, count in sorted((optimizer.expected() if data else optimizer.expected_news()).items()):
            found = self._wire.take(peer, tag, "fp32", (count,))
            self._parts[peer], ready = as_tensor(found, self._device), max(ready, found.header.ready)
            self._came.append(found)
        return ready

    def _tied_grad(self) -> Tensor:
        assert self._tied is not None and isinstance(self._optimizer, AdamW)
        return self._optimizer.total_of(self._tied)
