"""Tensors swapped between ranks in the middle of an instruction, by the wire of the step that runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod

from torch import Tensor

from danlu.comm.header import Tag
from danlu.comm.staging import leaving
from danlu.comm.wire import Wire
from danlu.fleet.pace import Pacer
from danlu.train.group import NAMES, as_tensor


class Swap:
    """Owns the number of the next message of each name. A paced card waits for the links between. For one thread."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self._pacer: Pacer | None = None
        self._step, self._counts = 0, Counter[str]()

    def begin(self, wire: Wire | None, step: int, pacer: Pacer | None = None) -> None:
        """Swaps from now on belong to a step; every rank begins it at its start, on the clock of its card."""
        self.wire, self._pacer, self._step, self._counts = wire, pacer, step, Counter()

    def swap(
        self, name: str, told: Mapping[int, Tensor], due: Mapping[int, tuple[int, ...]], like: Tensor
    ) -> dict[int, Tensor]:
        """Send tensors by rank, and take those of the shapes that are due, in the order of ranks; none without a wire.

        What has no numbers is not sent: both ends know.
        name  at most 8 ASCII letters and digits;  like  has the dtype of all of them, and the device
        Raises what Wire.take raises.
        """
        wire, dtype = self.wire, NAMES[like.dtype]
        if wire is None:
            return {}
        tag, self._counts[name] = Tag(name, self._step, self._counts[name]), self._counts[name] + 1
        sent = self._pacer.pause() if self._pacer is not None else 0.0
        for peer, values in told.items():
            if values.numel():
                body = values.contiguous()
                wire.post(peer, tag, leaving(body), dtype, tuple(body.shape), sent)
        came = {peer: wire.take(peer, tag, dtype, due[peer]) for peer in sorted(due) if prod(due[peer])}
        if self._pacer is not None:
            self._pacer.resume(max((message.header.ready for message in came.values()), default=0.0))
        found = {peer: as_tensor(message, like.device).clone() for peer, message in came.items()}
        for message in came.values():
            wire.recycle(message.body)
        return {peer: found.get(peer, like.new_empty(due[peer])) for peer in sorted(due)}
