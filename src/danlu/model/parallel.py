"""A layer shared by several cards: where its parts are summed going forward, and where going back.

Everything between `spread` and `total` is cut over the cards; everything outside is computed by all of them alike. Both
are the conjugate pair f and g of Megatron-LM (Shoeybi 2019, figure 3). Whatever an uncut value meets inside a cut part
goes through `spread` too, be it a weight: each card then has a part of its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Reduce = Callable[[Tensor], Tensor]  # sums a tensor over the cards that share a stage; may keep its argument


@dataclass(frozen=True, slots=True)
class Sums:
    """The two ends of a cut part; `reduce` is None where nothing is cut."""

    reduce: Reduce | None

    def spread(self, x: Tensor) -> Tensor:
        """x, used by every card's part; its gradient is the sum of theirs."""
        if self.reduce is None or not (torch.is_grad_enabled() and x.requires_grad):
            return x
        spread: Tensor = _Spread.apply(x, self.reduce)  # type: ignore[no-untyped-call]
        return spread

    def total(self, x: Tensor) -> Tensor:
        """The sum of every card's x; each gets the whole of its gradient."""
        if self.reduce is None:
            return x
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.reduce(x)
        total: Tensor = _Total.apply(x, self.reduce)  # type: ignore[no-untyped-call]
        return total


def cross_entropy(logits_TV: Tensor, targets_T: Tensor, start: int, card: int, cards: int, reduce: Reduce) -> Tensor:
    """Sum of -log softmax at the targets, of logits whose vocabulary is cut over cards.

    start      first token id of this card's columns
    card       its number among `cards`
    targets_T  ids of the whole vocabulary; a token with one below 0 has no part in the loss
    Returns the same scalar on every card. Two sums: the largest logit of each card, then exp-sums and target logits.
    """
    loss: Tensor = _CutLoss.apply(logits_TV, targets_T, start, card, cards, reduce)  # type: ignore[no-untyped-call]
    return loss


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reduce: Reduce) -> Tensor:
        ctx.reduce = reduce
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.reduce(grads[0].contiguous()), None


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reduce: Reduce) -> Tensor:
        return reduce(x.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _CutLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, logits_TV: Tensor, targets_T: Tensor, start: int, card: int, cards: int, reduce: Reduce
    ) -> Tensor:
        largest = logits_TV.new_zeros(len(logits_TV), cards)  # a sum over one column each is a gathering
        largest[:, card] = logits_TV.amax(-1)
        shifted_TV = logits_TV - reduce(largest).amax(-1, keepdim=True)
        local_T = targets_T - start
        mine_T = (local_T >= 0) & (local_T < logits_TV.shape[1])
        local_T = local_T * mine_T
        exp_TV = shifted_TV.exp()
        hit_T = shifted_TV.gather(1, local_T[:, None])[:, 0] * mine_T
        sums = reduce(torch.stack((exp_TV.sum(-1), hit_T)))
        counts_T = targets_T >= 0
        ctx.save_for_backward(exp_TV.mul_((counts_T / sums[0])[:, None]), local_T, mine_T)
        return ((sums[0].log() - sums[1]) * counts_T).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        softmax_TV, local_T, mine_T = ctx.saved_tensors
        grad = softmax_TV.clone()
        grad[torch.arange(len(grad)), local_T] -= mine_T.to(grad.dtype)
        return grad * grads[0], None, None, None, None, None
