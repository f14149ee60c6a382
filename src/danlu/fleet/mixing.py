"""What a mixture of experts does to tokens beside products, as a probe times it: that of model/fused_experts.py.

Here once more, since the fleet's room imports no other. `pool` is danlu.fleet.measure's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Way = tuple[Callable[[], Any], Callable[[Any], Any]]  # what to draw, and what to run on it


def bags(pool: Any, rows: int, columns: int) -> dict[str, Way]:
    """A mixture's sum of what experts made of every token, of two rows each, and its backward."""
    import torch
    import torch.nn.functional as F

    tokens, pairs = max(1, rows // 2), max(1, rows // 2) * 2
    place, weight = torch.randperm(pairs).view(tokens, 2), torch.rand(tokens, 2).to(pool.dtype)
    order = place.flatten().argsort()

    def bag(found: Any) -> Any:
        return F.embedding_bag(place, found, mode="sum", per_sample_weights=weight)

    def back(given: Any) -> Any:
        found, g = given
        spread = g.index_select(0, order // 2)
        weights = (spread.float() * found.float()).sum(-1).to(pool.dtype)
        return spread.mul_(weight.flatten()[order, None]), weights[place]

    return {"bag": (lambda: pool.take(pairs, columns), bag),
            "bag_back": (lambda: (pool.take(pairs, columns), pool.take(tokens, columns)), back)}  # fmt: skip


def routes(pool: Any, rows: int, experts: int, used: int) -> dict[str, Way]:
    """Choosing and sorting the experts of every token, and the backward of their weights."""
    import torch
    import torch.nn.functional as F

    def chosen(logits: Any) -> Any:
        best, which = F.softmax(logits, -1, dtype=torch.float32).topk(used)
        return (best / best.sum(-1, keepdim=True)).to(pool.dtype), which

    def route(logits: Any) -> Any:
        weight, which = chosen(logits)
        order = which.flatten().argsort(stable=True)
        counts = which.flatten().bincount(minlength=experts).tolist()
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return weight, counts, place

    def ahead() -> Any:
        logits = pool.learn(rows, experts)
        return chosen(logits)[0], logits, pool.take(rows, used)

    return {"route": (lambda: pool.learn(rows, experts), route),
            "route_back": (ahead, lambda given: torch.autograd.grad(*given))}  # fmt: skip
