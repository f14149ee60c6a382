"""A mixture as a trainer runs it: tokens gathered once, all gates in one pass, no scatter, backward by hand.

The clear version is experts.py, and tests hold the two equal. Every pair of a token and an expert of its has one place
among the rows, so that what scatters elsewhere is a gather here: a token's sum is a bag of its rows. Axes: T tokens, A
experts of a token, N = T * A rows by expert, D columns, F width of an expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.kernels import rows
from danlu.model.experts import Experts, by_expert
from danlu.model.fused import joined, through_norm
from danlu.model.halves import Halves, Left
from danlu.model.parts import Context, Linear, Norm
from danlu.model.products import PLAIN, Products

Pair = tuple[Tensor, Tensor]  # an expert's [gate | up] and its down


def fused_experts(unit: Experts, halves: Halves, products: Products = PLAIN) -> FusedExperts | None:
    """The unit as a trainer runs it; None where cards share experts' columns, or weights lie apart."""
    if unit.sums.reduce is not None or not _each_once(unit):
        return None
    held = [_pair(unit.experts.get_submodule(str(at))) for at in unit.held]
    shared = [_pair(unit.shared)] if unit.shares else []
    pairs = [pair for pair in (*held, *shared) if pair is not None]
    if len(pairs) < len(held) + len(shared):
        return None
    return FusedExperts(unit, pairs[: len(held)], pairs[len(held) :], halves, products)


def _each_once(unit: Experts) -> bool:
    """True when every expert's tokens go to exactly one card: its own rows and those posted are all pairs."""
    away = () if unit.post is None else unit.post.sends
    seen = [i for start, stop in ((unit.held.start, unit.held.stop), *away) for i in range(start, stop)]
    return sorted(seen) == list(range(unit.count))


def _pair(expert: nn.Module) -> Pair | None:
    gate, up, down = expert.gate, expert.up, expert.down
    assert isinstance(gate, Linear) and isinstance(up, Linear) and isinstance(down, Linear)
    whole = joined([gate.weight, up.weight])
    return None if whole is None else (whole, down.weight)


class FusedExperts:
    """Runs a unit's forward; what its backward leaves goes to `halves`."""

    def __init__(
        self, unit: Experts, pairs: Sequence[Pair], shared: Sequence[Pair], halves: Halves, products: Products
    ) -> None:
        self.unit, self.pairs, self.shared, self.halves, self.products = unit, pairs, shared, halves, products

    def __call__(self, x_TD: Tensor, context: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        unit = self.unit
        h_TD, residual_TD = _Normed.apply(x_TD, unit.norm)  # type: ignore[no-untyped-call]
        weight_TA, chosen_TA = unit.route(h_TD)
        sent = unit.sent(chosen_TA)
        place_TA = torch.empty_like(sent.pairs_N)
        place_TA[sent.pairs_N] = torch.arange(len(place_TA), device=place_TA.device)
        place_TA = place_TA.view_as(chosen_TA)
        seen_ND = _Gathered.apply(h_TD, sent.pairs_N // unit.used, place_TA)  # type: ignore[no-untyped-call]
        found_ND = unit.through(seen_ND, sent, lambda given, counts: by_expert(given, counts, self._each))
        if self.shared:
            shared_TD = _Gated.apply(h_TD, [len(h_TD)], self.shared, self)  # type: ignore[no-untyped-call]
            residual_TD = torch.addcmul(residual_TD, unit.shared_gate(h_TD).sigmoid(), shared_TD)
        found: Tensor = _Mixed.apply(found_ND, weight_TA, residual_TD, sent.pairs_N, place_TA)  # type: ignore[no-untyped-call]
        return found

    def _each(self, rows_ND: Tensor, counts: list[int]) -> Tensor:
        found: Tensor = _Gated.apply(rows_ND, counts, self.pairs, self)  # type: ignore[no-untyped-call]
        return found


class _Normed(torch.autograd.Function):
    """The norm, and x itself as the residual, whose gradient the norm's backward adds in the same pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        h, rstd = rows.norm(x, norm.weight, norm.eps)
        ctx.save_for_backward(x, rstd)
        ctx.norm = norm
        return h, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, rstd = ctx.saved_tensors
        return through_norm(ctx.norm, x, rstd, grads[0].contiguous(), grads[1]), None


class _Gathered(torch.autograd.Function):
    """Rows of tokens, by expert."""

    @staticmethod
    def forward(ctx: Any, h_TD: Tensor, token_N: Tensor, place_TA: Tensor) -> Tensor:
        ctx.save_for_backward(place_TA)
        return h_TD.index_select(0, token_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return F.embedding_bag(ctx.saved_tensors[0], grads[0].contiguous(), mode="sum"), None, None


class _Gated(torch.autograd.Function):
    """down(silu(gate x) * up x) of every expert on its rows."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, counts: list[int], pairs: Sequence[Pair], unit: FusedExperts) -> Tensor:
        x_ND = x_ND.detach()  # parts of it would want a gradient: what is left of a backward would grow a graph
        work, products, y_ND = _spans(counts, pairs), unit.products, torch.empty_like(x_ND)
        ab = x_ND.new_empty(len(x_ND), len(pairs[0][0]))
        seen = [products.seen(x_ND[span]) for span, _ in work]
        for x, (span, (gate_up, _)) in zip(seen, work, strict=True):
            products.ahead(x, gate_up, into=ab[span])
        p_NF = rows.gate(ab)
        for span, (_, down) in work:
            products.ahead(products.seen(p_NF[span]), down, into=y_ND[span])
        ctx.save_for_backward(ab, *(part for x in seen for part in x))
        ctx.work, ctx.unit, ctx.parts = work, unit, [len(x) for x in seen]
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (ab, *flat), g_ND = ctx.saved_tensors, grads[0].contiguous()
        products, end, kept = ctx.unit.products, ctx.unit.halves.end, iter(flat)
        seen = [tuple(next(kept) for _ in range(count)) for count in ctx.parts]
        dp_NF, dx_ND = ab.new_empty(len(ab), ab.shape[1] // 2), torch.empty_like(g_ND)
        backs = [products.back(g_ND[span]) for span, _ in ctx.work]
        for g, (span, (_, down)) in zip(backs, ctx.work, strict=True):
            products.behind(g, down, into=dp_NF[span])
        dab, p_NF = rows.gate_back(ab, dp_NF)
        for x, g, (span, (gate_up, down)) in zip(seen, backs, ctx.work, strict=True):
            back = products.back(dab[span])
            end(Left(down, products.seen(p_NF[span]), g, products))
            end(Left(gate_up, x, back, products))
            products.behind(back, gate_up, into=dx_ND[span])
        return dx_ND, None, None, None


def _spans(counts: list[int], pairs: Sequence[Pair]) -> list[tuple[slice, Pair]]:
    """The rows of every expert that has any."""
    found, start = [], 0
    for count, pair in zip(counts, pairs, strict=True):
        if count:
            found.append((slice(start, start + count), pair))
        start += count
    return found


class _Mixed(torch.autograd.Function):
    """Every token's weighted sum of what its experts made of it, and the residual."""

    @staticmethod
    def forward(
        ctx: Any, found_ND: Tensor, weight_TA: Tensor, residual_TD: Tensor, pairs_N: Tensor, place_TA: Tensor
    ) -> Tensor:
        ctx.save_for_backward(found_ND, weight_TA, pairs_N, place_TA)
        made: Tensor = F.embedding_bag(place_TA, found_ND, mode="sum", per_sample_weights=weight_TA)
        return made.add_(residual_TD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        found_ND, weight_TA, pairs_N, place_TA = ctx.saved_tensors
        g_ND = grads[0].index_select(0, pairs_N // place_TA.shape[1])
        weight_N = (g_ND.float() * found_ND.float()).sum(-1).to(weight_TA.dtype)
        g_ND.mul_(weight_TA.flatten()[pairs_N, None])
        return g_ND, weight_N[place_TA], grads[0], None, None
