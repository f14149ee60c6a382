"""A mixture of experts: a router sends every token through a few of many gated MLPs. Axes: A experts of a token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.parts import Context, Linear, Made, Norm, gated


class Experts(nn.Module):
    """Norm, top-k of softmax over all experts (Mixtral, arXiv 2401.04088), a shared expert if there is one, residual.

    Cards share either every expert's columns, or the experts themselves; both ways each computes a part of a sum. All
    of them route all tokens alike.
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
        """Sum over the experts held here of weight * expert(h): every expert sees its tokens in one batch."""
        order = chosen_TA.flatten().argsort(stable=True)
        counts = chosen_TA.flatten().bincount(minlength=self.count).tolist()
        begin = sum(counts[: self.held.start])
        order = order[begin : begin + sum(counts[i] for i in self.held)]
        rows, out = order // self.used, []
        for expert, mine in zip(self.held, torch.split(rows, [counts[i] for i in self.held]), strict=True):
            if len(mine):
                out.append(gated(self.experts.get_submodule(str(expert)), h_TD[mine]))
        if not out:
            return torch.zeros_like(h_TD) + 0 * (h_TD.sum() + weight_TA.sum())
        parts = torch.cat(out) * weight_TA.flatten()[order, None]
        return torch.zeros_like(h_TD).index_add(0, rows, parts)
