"""Where a step's numbers went wrong: the first unit, in the order of computing, that was not finite.

Nothing here runs in a good step. When the sum over ranks is no number, the ranks run the step's micro-batches once more
with every unit watched: weights have not changed since, so the same thing happens again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from danlu.comm.collect import all_sum
from danlu.comm.header import Tag
from danlu.comm.wire import Wire
from danlu.model.net import Decoder

WEIGHT, OUTPUT, GRADIENT = 0, 1, 2
WORDS = {WEIGHT: "a weight", OUTPUT: "the output", GRADIENT: "the gradient"}


class Finding(NamedTuple):
    """What was not finite; the smaller one came first.

    mb     micro-batch of the step, over all copies of the model; -1 for a weight, which was bad before any; ALL
    kind   WEIGHT, OUTPUT or GRADIENT
    place  index of the unit, negative going back
    """

    mb: float
    kind: float
    place: float

    def words(self, units: tuple[str, ...]) -> str:
        """As a person reads it: "the output of layers.3.mlp"."""
        return f"{WORDS[int(self.kind)]} of {units[abs(int(self.place))]}"


ALL = 1e9  # behind every micro-batch: what is only seen when all are through
NOTHING = Finding(math.inf, 0, 0)


class Watch:
    """Owns what was found on one rank; it is told which micro-batch runs."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._index = decoder, {unit: at for at, unit in enumerate(decoder.spec.units)}
        self.mb, self.first = 0, NOTHING
        for name, weight in decoder.named_parameters():
            self._note(weight, Finding(-1, WEIGHT, self._index[unit_of(name)]))
        decoder.watch(self._look)

    def gradients(self) -> None:
        """Look at the gradients of the weights, once all micro-batches are through."""
        for name, weight in self._decoder.named_parameters():
            if weight.grad is not None:
                self._note(weight.grad, Finding(ALL, GRADIENT, -self._index[unit_of(name)]))

    def _look(self, unit: str, out: Tensor) -> None:
        at, mb = self._index[unit], self.mb
        self._note(out.detach(), Finding(mb, OUTPUT, at))
        if out.requires_grad:
            out.register_hook(  # type: ignore[no-untyped-call]
                lambda grad: self._note(grad, Finding(mb, GRADIENT, -at))
            )

    def _note(self, values: Tensor, found: Finding) -> None:
        if found < self.first and not bool(torch.isfinite(values).all()):
            self.first = found


def unit_of(name: str) -> str:
    """The unit that holds a parameter."""
    words = name.split(".")
    return ".".join(words[:3]) if words[0] == "layers" else words[0]


def first(wire: Wire, mine: Finding, step: int) -> tuple[int, Finding]:
    """The earliest finding of all ranks, and whose it is; of equal ones the lowest rank's. Raises what take raises."""
    rows = np.zeros((len(wire.peers) + 1, 3))
    every = sorted((*wire.peers, wire.rank))
    rows[every.index(wire.rank)] = mine
    total, _ = all_sum(wire, rows, Tag("blame", step))
    return min(((rank, Finding(*row)) for rank, row in zip(every, total.tolist(), strict=True)), key=lambda f: f[1])


def find(decoder: Decoder, wire: Wire, step: int, again: Callable[[Watch], None]) -> tuple[int, Finding]:
    """Who was the first to go wrong in a step, and where; `again` runs its micro-batches once more."""
    watch = Watch(decoder)
    again(watch)
    watch.gradients()
    return first(wire, watch.first, step)
