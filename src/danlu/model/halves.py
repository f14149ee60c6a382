"""The two halves of a linear layer's backward: to its input, which the stage before waits for, and to its weights.

While one card trains a model alone both run at once. In a pipeline the second half may be left for a moment when the
card would wait. Either way the weights' gradient is added where it is kept (products.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.model.products import PLAIN, Operand, Products


class Left(NamedTuple):
    """A weights' half that was left: weight (out, in), and what its product reads of x (T, in) and g (T, out)."""

    weight: Tensor
    x: Operand
    g: Operand
    products: Products = PLAIN

    def run(self) -> None:
        """Add the gradient of this micro-batch. The weight's `grad` must be there."""
        assert self.weight.grad is not None
        self.products.add(self.weight.grad, self.g, self.x)


class Halves:
    """Owns what a backward leaves; `later` says whether it leaves anything. Used by one thread."""

    def __init__(self) -> None:
        self.later = False
        self._left: list[Left] = []

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, products: Products = PLAIN) -> Tensor:
        """F.linear whose weights' gradients come as this object says. x (..., in) -> (..., out)."""
        if not torch.is_grad_enabled():
            return products.ahead(products.seen(_rows(x)), weight, bias).view(*x.shape[:-1], -1)
        found: Tensor = _Linear.apply(_rows(x), weight, bias, self, products)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)

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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, halves: Halves, products: Products) -> Tensor:
        seen = products.seen(x)
        ctx.save_for_backward(*seen)
        # saved by torch they would come back without their grad
        ctx.weight, ctx.bias, ctx.halves, ctx.products = weight, bias, halves, products
        return products.ahead(seen, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        weight, products = ctx.weight, ctx.products
        # detach: a saved input holds its graph, and the graph would live as long as what is left (20% slower)
        seen, back = tuple(each.detach() for each in ctx.saved_tensors), products.back(g)
        ctx.halves.end(Left(weight, seen, back, products))
        if ctx.bias is not None:
            ctx.bias.grad.add_(g.sum(0))
        return products.behind(back, weight) if ctx.needs_input_grad[0] else None, None, None, None, None


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
