"""AdamW over one flat tensor: few calls, one pass over memory, and snapshots that are three copies.

Parameters and gradients of a decoder become views of flat buffers. Order is fixed (decayed first, then the rest, each
by module order) and every view starts on a cache line; the padding stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.float32]
ALIGN = 16  # fp32 elements of a cache line
BETAS, EPS = (0.9, 0.95), 1e-8
FLOOR = 0.1  # of the peak learning rate at the end of the cosine


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up over `warmup` steps, then a cosine to FLOOR * peak at `steps`. Steps count from 1."""
    if step <= warmup:
        return peak * step / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one parameter lies in the flat buffers."""

    start: int
    shape: torch.Size

    def of(self, flat: Tensor) -> Tensor:
        """Its view of a flat buffer."""
        return flat[self.start : self.start + self.shape.numel()].view(self.shape)


@dataclass(frozen=True, slots=True)
class Copy:
    """The state after one step, in host memory: weights and both moments, flat, and where each parameter lies.

    used  all weights a rank holds, where the flats are only those it updates
    """

    step: int
    slots: Mapping[str, Slot]
    flats: tuple[Tensor, Tensor, Tensor]
    used: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(flat.nbytes for flat in self.flats) + (0 if self.used is None else self.used.nbytes)

    def tensors(self, without: frozenset[str] = frozenset()) -> dict[str, Array]:
        """Arrays by name: weights, "<name>.m" and "<name>.v"; views, nothing is copied."""
        kept = {name: slot for name, slot in self.slots.items() if name not in without}
        parts = zip(("", ".m", ".v"), self.flats, strict=True)
        return {name + mark: slot.of(flat).numpy() for mark, flat in parts for name, slot in kept.items()}


class Gradients:
    """What backward passes leave: `grad` of a micro-batch in the decoder's dtype, `total` of the step in fp32.

    In an fp32 decoder both are one tensor.
    """

    grad: Tensor
    total: Tensor

    def collect(self) -> None:
        """Add what a micro-batch left in `grad` to the step's gradient. In fp32 it is there already."""
        if self.total is not self.grad:
            self.total.add_(self.grad)
            self.grad.zero_()

    def clear(self) -> None:
        """Set the gradient to zero."""
        self.grad.zero_()
        self.total.zero_()


class AdamW(Gradients):
    """Owns the flat weights, gradients and moments of one decoder (Loshchilov & Hutter 2019; decay on matrices only).

    Moments and master weights are fp32; a decoder of another dtype gets its weights rounded from them after each step,
    and its gradients, one micro-batch at a time, are added up in fp32 (`collect`, `total`).
    """

    def __init__(self, module: nn.Module, *, weight_decay: float) -> None:
        named = dict(module.named_parameters())
        order = sorted(named, key=lambda name: named[name].ndim < 2)
        self.slots: dict[str, Slot] = {}
        at = matrices = 0
        for name in order:
            self.slots[name] = Slot(at, named[name].shape)
            at += -(-named[name].numel() // ALIGN) * ALIGN
            matrices = at if named[name].ndim >= 2 else matrices
        first = named[order[0]]
        self.flat = torch.zeros(at, device=first.device)
        self.m, self.v = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self._mixed = first.dtype != torch.float32
        self.used = self.flat.to(first.dtype) if self._mixed else self.flat
        self.grad = torch.zeros_like(self.used)
        self.total = torch.zeros_like(self.flat) if self._mixed else self.grad
        for name, slot in self.slots.items():
            slot.of(self.flat).copy_(named[name].detach())
            slot.of(self.used).copy_(named[name].detach())
            named[name].data = slot.of(self.used)
            named[name].grad = slot.of(self.grad)
        self._cuts = [cut for cut in ((0, matrices, weight_decay), (matrices, at, 0.0)) if cut[0] < cut[1]]
        self._count = torch.zeros((), device=first.device)  # steps taken, as the fused operator wants it

    @property
    def state_bytes(self) -> dict[str, int]:
        """Bytes held: weights, gradients, optimizer."""
        mixed = self.flat.nbytes if self._mixed else 0
        gradients = self.grad.nbytes + (self.total.nbytes if self._mixed else 0)
        return {"weights": self.used.nbytes, "gradients": gradients, "optimizer": 2 * self.m.nbytes + mixed}

    def grad_of(self, name: str) -> Tensor:
        """The gradient of one parameter, a view: the step's in fp32, the micro-batch's in another dtype."""
        return self.slots[name].of(self.grad)

    def total_of(self, name: str) -> Tensor:
        """The step's gradient of one parameter in fp32, a view."""
        return self.slots[name].of(self.total)

    def norm_squared(self, without: str | None) -> float:
        """Sum of squares of the gradient; `without` a parameter whose gradient another stage counts."""
        total = float(torch.linalg.vector_norm(self.total)) ** 2
        if without is not None:
            total -= float(torch.linalg.vector_norm(self.total_of(without))) ** 2
        return max(0.0, total) if math.isfinite(total) else total

    def update(self, rate: float, scale: float) -> None:
        """One step with the gradient times `scale`; the gradient is zero afterwards."""
        if scale != 1.0:
            self.total.mul_(scale)
        self._count += 1
        for start, stop, decay in self._cuts:
            w, g, m, v = (each[start:stop] for each in (self.flat, self.total, self.m, self.v))
            adamw_((w, g, m, v), self._count, rate, decay)
        if self._mixed:
            self.used.copy_(self.flat)
        self.clear()

    def copy(self, step: int) -> Copy:
        """The state now, in host memory."""
        return Copy(step, self.slots, (self.flat.cpu().clone(), self.m.cpu().clone(), self.v.cpu().clone()))

    def restore(self, copy: Copy) -> None:
        """Go to a state taken by `copy`; the gradient is zero afterwards."""
        for mine, theirs in zip((self.flat, self.m, self.v), copy.flats, strict=True):
            mine.copy_(theirs)
        self.used.copy_(self.flat)
        self.clear()
        self._count.fill_(copy.step)

    def restore_named(self, step: int, tensors: Mapping[str, Array]) -> None:
        """The same from arrays by name ("<name>", "<name>.m", "<name>.v"), as a snapshot keeps them."""
        flats = (torch.zeros_like(self.flat), torch.zeros_like(self.flat), torch.zeros_like(self.flat))
        for mark, flat in zip(("", ".m", ".v"), flats, strict=True):
            for name, slot in self.slots.items():
                slot.of(flat).copy_(torch.from_numpy(tensors[name + mark]))
        self.restore(Copy(step, self.slots, flats))


def adamw_(flats: tuple[Tensor, Tensor, Tensor, Tensor], count: Tensor, rate: float, decay: float) -> None:
    """One AdamW step in place, of weights, gradient and both moments, all flat fp32; `count` steps with this one.

    The fused operator is called by its own name: torch.optim.AdamW loads torch's compiler, 1.9 s of CPU a process.
    """
    w, g, m, v = ([flat] for flat in flats)
    torch._fused_adamw_(
        w, g, m, v, [], [count], lr=rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=decay, eps=EPS, amsgrad=False,
        maximize=False,
    )  # fmt: skip
