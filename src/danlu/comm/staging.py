"""Between a card's memory and arrays that travel: two host buffers, so that one fills while the other is read.

The buffers of a real card are pinned, and copies to and from it run beside its work (never run by us); on a CPU the
same code copies at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from danlu.comm.hosted import bits
from danlu.comm.numbers import Array


class Staging:
    """Owns two buffers of `size` bytes between tensors on `device` and numpy arrays. Used by one thread."""

    def __init__(self, device: torch.device, size: int) -> None:
        self._real = device.type != "cpu"
        self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=self._real) for _ in range(2)]
        self._ends: list[Any] = [torch.Event(device) if self._real else None for _ in range(2)]
        self._turn = 0

    def down(self, tensors: Iterable[Tensor]) -> Iterator[Array]:
        """An array of its own for every flat tensor; the next one is on its way while one is taken."""
        before: tuple[int, Tensor] | None = None
        for tensor in tensors:
            at, view = self._next(tensor)
            view.copy_(tensor, non_blocking=True)
            self._mark(at)
            if before is not None:
                yield self._taken(*before)
            before = at, view
        if before is not None:
            yield self._taken(*before)

    def up(self, array: Array, tensor: Tensor) -> None:
        """A flat tensor becomes the array; the copy to the card may still run when this returns."""
        at, view = self._next(tensor)
        bits(view).numpy()[...] = array
        tensor.copy_(view, non_blocking=True)
        self._mark(at)

    def _next(self, like: Tensor) -> tuple[int, Tensor]:
        """The other buffer, as `like`, once nothing reads or fills it."""
        self._turn = at = 1 - self._turn
        self._wait(at)
        return at, self._buffers[at][: like.nbytes].view(like.dtype)

    def _taken(self, at: int, view: Tensor) -> Array:
        self._wait(at)
        found: Array = bits(view).numpy().copy()
        return found

    def _mark(self, at: int) -> None:
        if self._real:
            self._ends[at].record()

    def _wait(self, at: int) -> None:
        if self._real:
            self._ends[at].synchronize()


def leaving(tensor: Tensor) -> Array | Callable[[], Array]:
    """A contiguous tensor's bits for Wire.post: its own memory on a CPU; else a function that waits for their copy.

    The copy waits for what the card still computes, on a stream of its own, and nobody waits for the copy but the
    thread that sends: the card goes on with its next instruction meanwhile. Never run by us.
    """
    assert tensor.is_contiguous()
    if tensor.device.type == "cpu":
        found: Array = bits(tensor.detach()).numpy()
        return found
    side, made, copied = _side(tensor.device), torch.Event(tensor.device), torch.Event(tensor.device)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    made.record()
    side.wait_event(made)
    with side:
        host.copy_(tensor.detach(), non_blocking=True)
    copied.record(side)
    tensor.record_stream(side)  # its memory is not given to others before

    def waited() -> Array:
        copied.synchronize()
        found: Array = bits(host).numpy()
        return found

    return waited


@functools.cache
def _side(device: torch.device) -> torch.Stream:
    """A card's stream for copies to the host."""
    return torch.Stream(device)


def memory(device: torch.device) -> Callable[[int], Any]:
    """What a Wire receives into: pinned where it goes on to a card, so that it is not copied once more on the way."""
    if device.type == "cpu":
        return bytearray
    return lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()


def blank(like: Tensor) -> Array:
    """An array for the numbers of a flat tensor, not set."""
    found: Array = bits(torch.empty(like.numel(), dtype=like.dtype)).numpy()
    return found
