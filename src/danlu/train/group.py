"""The ranks that share a stage: their sum, in rank order, so that all of them, and every run, get the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.comm.header import Tag
from danlu.comm.staging import leaving
from danlu.comm.wire import Message, Wire
from danlu.fleet.pace import Pacer

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "int64"}
TORCH = {name: dtype for dtype, name in NAMES.items()}


class Group:
    """Sums tensors over `ranks` by the wire of the step that runs; before there is one, it is the only member.

    Everyone sends to everyone: for the few cards that share a layer one hop beats a ring's many. A paced card waits for
    the links between them in the middle of its instruction. Used by one thread.
    """

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks
        self._wire: Wire | None = None
        self._pacer: Pacer | None = None
        self._step = self._count = 0

    def begin(self, wire: Wire | None, step: int, pacer: Pacer | None = None) -> None:
        """Sums from now on belong to a step; every member begins it at its start, on the clock of its card."""
        self._wire, self._pacer, self._step, self._count = wire, pacer, step, 0

    def __call__(self, x: Tensor) -> Tensor:
        """The sum over the group, added in fp32, in the dtype of x. Raises what Wire.take raises."""
        wire = self._wire
        if wire is None:
            return x
        tag, self._count = Tag("sum", self._step, self._count), self._count + 1
        mine, name = x.detach().contiguous(), NAMES[x.dtype]
        shape, others = tuple(mine.shape), [rank for rank in self.ranks if rank != wire.rank]
        sent = self._pacer.pause() if self._pacer is not None else 0.0
        for peer in others:
            wire.post(peer, tag, leaving(mine), name, shape, sent)
        came = {peer: wire.take(peer, tag, name, shape) for peer in others}
        if self._pacer is not None:
            self._pacer.resume(max(message.header.ready for message in came.values()))
        total = torch.zeros_like(mine, dtype=torch.float32)
        for rank in self.ranks:
            total += mine if rank == wire.rank else as_tensor(came[rank], mine.device)
        for message in came.values():
            wire.recycle(message.body)
        return total.to(x.dtype)


def as_tensor(message: Message, device: torch.device) -> Tensor:
    """A message's body as a tensor; on the CPU it shares the body's memory."""
    header = message.header
    return torch.frombuffer(message.body, dtype=TORCH[header.dtype]).view(header.shape).to(device)
