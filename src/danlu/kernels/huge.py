"""The weights of a model in one run of memory in large pages: they are read from end to end every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from danlu.kernels import pages, q4
from danlu.kernels.interpret import Weight

ALIGN = 64  # bytes: every tensor begins on a cache line of its own


class Room:
    """Owns a run of memory and gives it out, front to back."""

    def __init__(self, size: int) -> None:
        """size  bytes of all tensors to come, each rounded up to whole cache lines"""
        self._bytes, self._next = pages.room(size), 0

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of a CPU tensor in the next free place."""
        place = self._bytes[self._next : self._next + tensor.nbytes]
        self._next += taken(tensor)
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def taken(tensor: Tensor) -> int:
    """Bytes a tensor takes of a Room."""
    return -(-tensor.nbytes // ALIGN) * ALIGN


def parts(weight: Weight) -> list[Tensor]:
    """The tensors of a weight that are large with the model."""
    if isinstance(weight, Tensor):
        return [weight]
    return [weight.codes, weight.absmax, weight.scale, *(parts(weight.rest) if weight.rest is not None else [])]


def together(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The same weights, copied behind each other into huge pages; one that stands under two names stays one."""
    once = {id(weight): weight for weight in weights.values()}
    room = Room(sum(taken(part) for weight in once.values() for part in parts(weight)))
    moved = {name: _moved(weight, room) for name, weight in once.items()}
    return {name: moved[id(weight)] for name, weight in weights.items()}


def _moved(weight: Weight, room: Room) -> Weight:
    if isinstance(weight, Tensor):
        return room.copy(weight.detach())
    return _moved_q4(weight, room)


def _moved_q4(weight: q4.Q4, room: Room) -> q4.Q4:
    codes, absmax, scale = (room.copy(part) for part in (weight.codes, weight.absmax, weight.scale))
    rest = None if weight.rest is None else _moved_q4(weight.rest, room)
    return dataclasses.replace(weight, codes=codes, absmax=absmax, scale=scale, rest=rest)
