"""The two halves of a linear layer's backward: to its input, which the stage before waits for, and to its weights.

While one card trains a model alone both run at once. In a pipeline the second half may be left for a moment when the
card would wait. Either way the weights' gradient is added where it is kept, by the product itself: no gradient of one
micro-batch is ever written down, which torch's own linear does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.kernels import wide


class Left(NamedTuple):
    """A weights' half that was left: weight (out, in), bias (out,) or None, x (T, in), g (T, out)."""

    weight: Tensor
    bias: Tensor | None
    x: Tensor
    g: Tensor

    def run(self) -> None:
        """Add the gradients of this micro-batch. The weights' `grad` must be there."""
        assert self.weight.grad is not None
        wide.add_mm_(self.weight.grad, self.g.t(), self.x)
        if self.bias is not None:
            assert self.bias.grad is not None
            self.bias.grad.add_(self.g.sum(0))


class Halves:
    """Owns what a backward leaves; `later` says whether it leaves anything. Used by one thread."""

    def __init__(self) -> None:
        self.later = False
        self._left: list[Left] = []

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """F.linear whose weights' gradients come as this object says. x (..., in) -> (..., out)."""
        if not torch.is_grad_enabled():
            return wide.linear(x, weight, bias)
        found: Tensor = _Linear.apply(x, weight, bias, self)  # type: ignore[no-untyped-call]
        return found

    def take(self) -> list[Left]:
        """What was left since the last call, in the order in which it came."""
        found, self._left = self._left, []
        return found

    def end(self, left: Left) -> None:
        """Do a weights' half, or leave it."""
        if self.later:
            self._left.append(left)
        else:
            left.run()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, halves: Halves) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias, ctx.halves = weight, bias, halves  # saved by torch they come back without their grad
        return wide.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x,), weight = ctx.saved_tensors, ctx.weight
        # detach: a saved input holds its graph, and the graph would live as long as what is left (20% slower)
        flat_g = g.reshape(-1, g.shape[-1])
        ctx.halves.end(Left(weight, ctx.bias, x.detach().reshape(-1, x.shape[-1]), flat_g))
        back = wide.mm(flat_g, weight).view(x.shape) if ctx.needs_input_grad[0] else None
        return back, None, None, None
