"""A mixture of experts: a router sends every token through a few of many gated MLPs. Axes: A experts of a token."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.parts import Context, Linear, Made, Norm, gated
from danlu.model.post import back, out

Compute = Callable[[Tensor, list[list[int]]], Tensor]  # rows by source, then by expert; how many of each


class Sent(NamedTuple):
    """Which pairs of a token and an expert of its this card sees to: those of experts held here, then by receiver.

    pairs_N  token * A + which of its experts, by expert within each receiver
    own      rows of each expert held here;  told  of each expert of each receiver
    """

    pairs_N: Tensor
    own: list[int]
    told: list[list[int]]


class Experts(nn.Module):
    """Norm, top-k of softmax over all experts (Mixtral, arXiv 2401.04088), a shared expert if there is one, residual.

    Cards share either every expert's columns, or the experts themselves; both ways each computes a part of a sum. All
    of them route all tokens alike. Experts that no card of these holds get their tokens by `post`.
    """

    norm: Norm
    router: Linear
    experts: nn.Module
    shared: nn.Module
    shared_gate: Linear

    def __init__(self, made: Made, layer: int) -> None:
        super().__init__()
        spec = made.spec
        self.sums, self.count, self.used, self.scaled = made.sums, spec.experts, spec.experts_used, spec.norm_topk
        self.held, self.shares = range(*made.share.experts), spec.shared_ffn > 0
        self.layer, self.post = layer, made.post
        made.furnish(self, "moe")

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        h_TD = self.norm(x_TD)
        weight_TA, chosen_TA = self.route(h_TD)
        seen_TD = self.sums.spread(h_TD)
        y_TD = self._mix(seen_TD, self.sums.spread(weight_TA), chosen_TA)
        if self.shares:
            gate_T1 = self.sums.spread(self.shared_gate(h_TD).sigmoid())
            y_TD = y_TD + gate_T1 * gated(self.shared, seen_TD)
        return x_TD + self.sums.total(y_TD)

    def route(self, h_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of each token's experts, (T, A) both. The softmax is at least fp32."""
        wide = torch.promote_types(h_TD.dtype, torch.float32)
        weight_TA, chosen_TA = F.softmax(self.router(h_TD), -1, dtype=wide).topk(self.used)
        if self.scaled:
            weight_TA = weight_TA / weight_TA.sum(-1, keepdim=True)
        return weight_TA.to(h_TD.dtype), chosen_TA

    def _mix(self, h_TD: Tensor, weight_TA: Tensor, chosen_TA: Tensor) -> Tensor:
        """Sum over the experts held here of weight * expert(h), and over those that tokens are posted to."""
        sent = self.sent(chosen_TA)
        rows = sent.pairs_N // self.used
        found = self.through(h_TD[rows], sent, self._computed)
        if not len(rows):
            return torch.zeros_like(h_TD) + 0 * (h_TD.sum() + weight_TA.sum() + found.sum())
        parts = found * weight_TA.flatten()[sent.pairs_N, None]
        return torch.zeros_like(h_TD).index_add(0, rows, parts)

    def sent(self, chosen_TA: Tensor) -> Sent:
        """Where every token goes."""
        order = chosen_TA.flatten().argsort(stable=True)
        counts = chosen_TA.flatten().bincount(minlength=self.count).tolist()
        away = () if self.post is None else self.post.sends
        edges = [0, *accumulate(counts)]
        spans = [(self.held.start, self.held.stop), *away]
        pairs = order if spans == [(0, self.count)] else torch.cat([order[edges[a] : edges[b]] for a, b in spans])
        return Sent(pairs, counts[self.held.start : self.held.stop], [counts[start:stop] for start, stop in away])

    def through(self, seen_ND: Tensor, sent: Sent, compute: Compute) -> Tensor:
        """What its expert makes of every row, be it held here or elsewhere: (N, D) -> (N, D)."""
        if self.post is None:
            return compute(seen_ND, [sent.own])
        count, post = sum(sent.own), self.post
        came = post.announce(f"n{self.layer}", sent.told, len(self.held))
        sizes, due = [sum(each) for each in sent.told], [sum(each) for each in came]
        guests = out(post, f"t{self.layer}", seen_ND[count:], sizes, due)
        found = compute(torch.cat((seen_ND[:count], guests)), [sent.own, *came])
        # A card that no one sends to takes part with no rows: its peers wait for it in the backward too.
        return torch.cat((found[:count], back(post, f"y{self.layer}", found[count:], due, sizes)))

    def _computed(self, rows_ND: Tensor, counts: list[list[int]]) -> Tensor:
        """expert(h) of rows that lie by source, then by expert."""
        return by_expert(rows_ND, counts, self._each)

    def _each(self, rows_ND: Tensor, counts: list[int]) -> Tensor:
        blocks = zip(self.held, torch.split(rows_ND, counts), strict=True)
        made = [gated(self.experts.get_submodule(str(i)), block) for i, block in blocks if len(block)]
        return torch.cat([rows_ND[:0], *made])


def by_expert(rows_ND: Tensor, counts: list[list[int]], each: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """What `each` makes of rows by expert, of rows that lie by source, then by expert.

    Every expert sees all its tokens in one batch, wherever they came from.
    """
    if len(counts) == 1:
        return each(rows_ND, counts[0])
    blocks = torch.split(rows_ND, [count for source in counts for count in source])
    experts = len(counts[0])
    sorted_ND = torch.cat([blocks[source * experts + at] for at in range(experts) for source in range(len(counts))])
    made = torch.split(
        each(sorted_ND, [sum(group) for group in zip(*counts, strict=True)]),
        [source[at] for at in range(experts) for source in counts],
    )
    return torch.cat([made[at * len(counts) + source] for source in range(len(counts)) for at in range(experts)])
