"""The sub-layers as a trainer runs them: few products, few passes over memory, backward by hand.

The clear version is layers.py, and tests hold the two equal. Here q, k and v are one product, so are gate and up; the
residual rides on the last product; norms, gate and rotation are the row operators of danlu/kernels/rows.py; gradients
of weights go where `Halves` says. A sub-layer that has more than that (a bias of its output, shares of other cards)
runs as layers.py has it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.kernels import rows, wide
from danlu.model.halves import Halves, Left
from danlu.model.layers import Attention, Embed, Head, Mlp
from danlu.model.parts import Context, Linear, Norm
from danlu.model.products import PLAIN, Products

Run = Callable[[Tensor, Context], Tensor]
Begin = Callable[[Tensor], Tensor]
End = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def fused(unit: nn.Module, halves: Halves, products: Products = PLAIN) -> Run:
    """The unit as a trainer runs it; itself where this file has nothing for it. Its weights must have their `grad`."""
    if type(unit) is Mlp and unit.sums.reduce is None:
        gate, up, down = unit.gate, unit.up, unit.down
        assert isinstance(gate, Linear) and isinstance(up, Linear) and isinstance(down, Linear)
        if (gate_up := joined([gate.weight, up.weight])) is not None:
            return _FusedMlp(unit.norm, gate_up, down.weight, halves, products)
    if type(unit) is Attention and unit.sums.reduce is None:
        inputs = (unit.q, unit.k, unit.v)
        qkv, biases = joined([each.weight for each in inputs]), [each.bias for each in inputs if each.bias is not None]
        bias = joined(biases) if len(biases) == len(inputs) else None
        plain = unit.o.bias is None and all(type(each) is Linear for each in (*inputs, unit.o))
        if qkv is not None and plain and (bias is not None or not biases):
            return _FusedAttention(unit, qkv, bias, halves, products)
    return unit


def fused_head(head: Head, halves: Halves) -> End | None:
    """The head as a trainer runs it; None where this file has nothing for it."""
    return _FusedHead(head, halves) if head.sums.reduce is None else None


def fused_embed(embed: Embed) -> Begin:
    """The embedding as a trainer runs it. Its weight must have its `grad`."""
    return functools.partial(embed.rows, look_up=_EmbedPass.apply)


class _EmbedPass(torch.autograd.Function):
    """Rows of a table, whose gradients are added where they are kept: torch's own makes a whole table of zeros first,
    46 ms a micro-batch of 1,024 tokens where there are 32,000 rows of 512, and this 0.2.
    """

    @staticmethod
    def forward(ctx: Any, ids_T: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(ids_T)
        ctx.weight = weight_VD  # saved by torch it would come back without its grad
        return F.embedding(ids_T, weight_VD)

    @staticmethod
    def backward(ctx: Any, g_TD: Tensor) -> tuple[None, None]:
        (ids_T,), grad_VD = ctx.saved_tensors, ctx.weight.grad
        if grad_VD.device.type == "cpu":
            grad_VD.index_add_(0, ids_T, g_TD)
        else:
            grad_VD.index_put_((ids_T,), g_TD, accumulate=True)  # the same bits in every run, which index_add_ has not
        return None, None


def joined(weights: Sequence[Tensor]) -> Tensor | None:
    """Matrices of one width, or vectors, that lie one after the other in memory as one, with its `grad`; None where
    they do not.
    """

    def one(parts: Sequence[Tensor]) -> Tensor | None:
        end = parts[0].data_ptr()
        for each in parts:
            if each.data_ptr() != end or not each.is_contiguous():
                return None
            end += each.nbytes
        return torch.as_strided(parts[0].detach(), (sum(map(len, parts)), *parts[0].shape[1:]), parts[0].stride())

    grads = [weight.grad for weight in weights if weight.grad is not None]
    if len(grads) < len(weights):
        return None
    whole, grad = one(weights), one(grads)
    if whole is None or grad is None:
        return None
    whole.grad = grad
    return whole


class _FusedMlp:
    def __init__(self, norm: Norm, gate_up: Tensor, down: Tensor, halves: Halves, products: Products) -> None:
        self.norm, self.gate_up, self.down, self.halves, self.products = norm, gate_up, down, halves, products

    def __call__(self, x_TD: Tensor, context: Context) -> Tensor:
        found: Tensor = _MlpPass.apply(x_TD, self)  # type: ignore[no-untyped-call]
        return found


class _MlpPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, unit: _FusedMlp) -> Tensor:
        h, rstd = rows.norm(x, unit.norm.weight, unit.norm.eps)
        seen, products = unit.products.seen(h), unit.products
        ab = products.ahead(seen, unit.gate_up)
        ctx.save_for_backward(x, rstd, ab, *seen)
        ctx.unit = unit
        return products.ahead(products.seen(rows.gate(ab)), unit.down, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x, rstd, ab, *seen), unit, products = ctx.saved_tensors, ctx.unit, ctx.unit.products
        g = g.contiguous()
        back = products.back(g)
        dab, p = rows.gate_back(ab, products.behind(back, unit.down))
        unit.halves.end(Left(unit.down, products.seen(p), back, products))
        back = products.back(dab)
        unit.halves.end(Left(unit.gate_up, tuple(seen), back, products))
        return through_norm(unit.norm, x, rstd, products.behind(back, unit.gate_up), g), None


class _FusedAttention:
    def __init__(
        self, unit: Attention, qkv: Tensor, bias: Tensor | None, halves: Halves, products: Products
    ) -> None:  # fmt: skip
        self.norm, self.qkv, self.o, self.halves, self.products = unit.norm, qkv, unit.o.weight, halves, products
        self.bias = bias
        self.layer, self.window, self.size = unit.layer, unit.window, unit.size
        self.widths = [len(each.weight) for each in (unit.q, unit.k, unit.v)]
        self.head_norms = [each for each in (unit.q_norm, unit.k_norm) if each is not None]

    def __call__(self, x_TD: Tensor, context: Context) -> Tensor:
        assert context.cos_T1K is not None and context.sin_T1K is not None
        half = self.size // 2
        cos, sin = context.cos_T1K[:, 0, :half], context.sin_T1K[:, 0, half:]  # the first half of sin is negated
        q, k, v, residual = _Heads.apply(x_TD, cos, sin, self)  # type: ignore[no-untyped-call]
        o = context.state.attend(self.layer, q, k, v, context.meta, scale=self.size**-0.5, window=self.window)
        found: Tensor = _Output.apply(o.reshape(len(x_TD), -1), residual, self)  # type: ignore[no-untyped-call]
        return found


class _Heads(torch.autograd.Function):
    """Norm, projections and rotation: q, k, v by heads. x goes through it as the residual, whose gradient the norm's
    backward adds in the same pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, unit: _FusedAttention
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, rstd = rows.norm(x, unit.norm.weight, unit.norm.eps)
        seen = unit.products.seen(h)
        qkv = unit.products.ahead(seen, unit.qkv, unit.bias)
        ctx.unit = unit
        q, k, v = (each.view(len(x), -1, unit.size) for each in torch.split(qkv, unit.widths, 1))
        if unit.head_norms:
            raw, (q_norm, k_norm) = (q, k), unit.head_norms
            q, q_rstd = _headwise(q, q_norm, cos, sin)
            k, k_rstd = _headwise(k, k_norm, cos, sin)
            ctx.save_for_backward(x, rstd, cos, sin, *raw, q_rstd, k_rstd, *seen)
        else:
            ctx.save_for_backward(x, rstd, cos, sin, *seen)
            turned = qkv[:, : unit.widths[0] + unit.widths[1]].view(len(x), -1, unit.size)  # q and k lie side by side
            rows.turn(turned, turned, cos, sin)
        return q, k, v, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x, rstd, cos, sin, *seen), unit, products = ctx.saved_tensors, ctx.unit, ctx.unit.products
        if unit.head_norms:
            *raw, q_rstd, k_rstd = seen[:4]
            seen = seen[4:]
        dq, dk, dv, residual = grads
        dqkv = x.new_empty(len(x), sum(unit.widths))
        parts = torch.split(dqkv, unit.widths, 1)
        for g, part in zip((dq, dk, dv), parts, strict=True):
            part = part.view(g.shape)
            if g is dv:
                part.copy_(g)
            else:
                g = g if g.stride(1) == unit.size and g.stride(2) == 1 else g.contiguous()
                rows.turn(g, part, cos, sin, back=True)
        if unit.head_norms:
            for norm, part, before, each in zip(unit.head_norms, parts, raw, (q_rstd, k_rstd), strict=False):
                flat = part.reshape(-1, unit.size)
                found = through_norm(norm, before.reshape(-1, unit.size), each, flat, torch.zeros_like(flat))
                part.copy_(found.view_as(part))
        if unit.bias is not None:
            assert unit.bias.grad is not None
            unit.bias.grad.add_(dqkv.sum(0))
        back = products.back(dqkv)
        unit.halves.end(Left(unit.qkv, tuple(seen), back, products))
        return through_norm(unit.norm, x, rstd, products.behind(back, unit.qkv), residual), None, None, None


def _headwise(x: Tensor, norm: Norm, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The norm of every head, turned: (T, H, K), and 1 / rms of each (T * H,)."""
    found, rstd = rows.norm(x.reshape(-1, x.shape[-1]), norm.weight, norm.eps)
    turned = found.view(x.shape)
    rows.turn(turned, turned, cos, sin)
    return turned, rstd


class _Output(torch.autograd.Function):
    """The projection of the heads' outputs, and the residual."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, residual: Tensor, unit: _FusedAttention) -> Tensor:
        ctx.save_for_backward(o)  # as it is: attention keeps it anyway
        ctx.unit = unit
        return unit.products.ahead(unit.products.seen(o), unit.o, residual)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        (o,), unit, products = ctx.saved_tensors, ctx.unit, ctx.unit.products
        g = g.contiguous()
        back = products.back(g.view_as(g))
        unit.halves.end(Left(unit.o, products.seen(o.detach()), back, products))
        return products.behind(back, unit.o), g, None


class _FusedHead:
    def __init__(self, head: Head, halves: Halves) -> None:
        self.norm, self.weight, self.halves = head.norm, head.weight, halves

    def __call__(self, x_TD: Tensor, rows_R: Tensor | None, borrowed_VD: Tensor | None) -> Tensor:
        x_RD = x_TD if rows_R is None else x_TD[rows_R]
        weight = self.weight if self.weight is not None else borrowed_VD
        found: Tensor = _HeadPass.apply(x_RD, weight, self)  # type: ignore[no-untyped-call]
        return found


class _HeadPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, unit: _FusedHead) -> Tensor:
        h, rstd = rows.norm(x, unit.norm.weight, unit.norm.eps)
        ctx.save_for_backward(x, h, rstd)
        ctx.weight, ctx.unit = weight, unit  # saved by torch it would come back without its grad
        return wide.mm(h, weight.t())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (x, h, rstd), unit = ctx.saved_tensors, ctx.unit
        g = g.contiguous()
        unit.halves.end(Left(ctx.weight, (h,), (g,)))
        return through_norm(unit.norm, x, rstd, wide.mm(g, ctx.weight), torch.zeros_like(x)), None, None


def through_norm(norm: Any, x: Tensor, rstd: Tensor, g: Tensor, residual: Tensor) -> Tensor:
    """The gradient of a norm's input, whose result has gradient g, plus the residual's; the weight's is added."""
    assert norm.weight.grad is not None
    return rows.norm_back(x, norm.weight, rstd, g, residual.contiguous(), norm.weight.grad)
