"""A mixture of experts: a router sends every token through a few of many gated MLPs. Axes: A experts of a token."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.parts import Context, Linear, Made, Norm, gated
from danlu.model.post import Post, back, out


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
        order = chosen_TA.flatten().argsort(stable=True)
        counts = chosen_TA.flatten().bincount(minlength=self.count).tolist()
        edges = [0, *accumulate(counts)]
        kept = order[edges[self.held.start] : edges[self.held.stop]]
        rows, own = kept // self.used, [counts[i] for i in self.held]
        if self.post is None:
            found = self._computed(h_TD[rows], [own])
        else:
            away = torch.cat([kept[:0], *(order[edges[start] : edges[stop]] for start, stop in self.post.sends)])
            told = [counts[start:stop] for start, stop in self.post.sends]
            found = self._posted(self.post, h_TD, (rows, away // self.used), told, own)
            kept = torch.cat((kept, away))
            rows = kept // self.used
        if not len(kept):
            return torch.zeros_like(h_TD) + 0 * (h_TD.sum() + weight_TA.sum() + found.sum())
        parts = found * weight_TA.flatten()[kept, None]
        return torch.zeros_like(h_TD).index_add(0, rows, parts)

    def _posted(
        self, post: Post, h_TD: Tensor, rows: tuple[Tensor, Tensor], told: list[list[int]], own: list[int]
    ) -> Tensor:
        """What experts held here make of the first `rows`, and behind it what those held elsewhere make of the others.

        told  rows of each expert of each card that is sent to;  own  those of each expert held here
        """
        came = post.announce(f"n{self.layer}", told, len(self.held))
        sizes, due = [sum(each) for each in told], [sum(each) for each in came]
        guests = out(post, f"t{self.layer}", h_TD[rows[1]], sizes, due)
        found = self._computed(torch.cat((h_TD[rows[0]], guests)), [own, *came])
        count = len(rows[0])
        # A card that no one sends to takes part with no rows: its peers wait for it in the backward too.
        return torch.cat((found[:count], back(post, f"y{self.layer}", found[count:], due, sizes)))

    def _computed(self, rows_ND: Tensor, counts: list[list[int]]) -> Tensor:
        """expert(h) of rows that lie by source, then by expert: every expert sees all its tokens in one batch."""
        blocks = iter(torch.split(rows_ND, [count for each in counts for count in each]))
        by_source = [[next(blocks) for _ in each] for each in counts]
        made: list[list[Tensor]] = [[] for _ in counts]
        for at, expert in enumerate(self.held):
            mine = [each[at] for each in by_source]
            sizes = [len(each) for each in mine]
            if sum(sizes):
                whole = gated(self.experts.get_submodule(str(expert)), mine[0] if len(mine) == 1 else torch.cat(mine))
                for source, block in zip(made, torch.split(whole, sizes), strict=True):
                    source.append(block)
        return torch.cat([rows_ND[:0], *(block for source in made for block in source)])
