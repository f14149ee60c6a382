"""Products and attention of 16-bit tensors on a CPU that has no instructions for them: in fp32, rounded once.

torch's own go element by element there: on AVX2 g @ w in bf16 ran at 1.2 GFLOP/s where fp32 has 80, x @ w.T at 8.5, the
backward of attention ten times as long. Widening the operands costs a pass over each. Sums are fp32 either way.
Elsewhere these are torch's own. Axes: B batch, H heads, G key-value heads, S tokens, P keys, K head size.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NARROW = (torch.bfloat16, torch.float16)


def widened(x: Tensor) -> bool:
    """True where tensors like x are computed with in fp32."""
    return x.dtype in NARROW and x.device.type == "cpu" and not _instructions(x.dtype)


@functools.cache
def _instructions(dtype: torch.dtype) -> bool:
    """True when this CPU multiplies in that dtype, by what torch's library for it says."""
    asked = getattr(torch.ops.mkldnn, f"_is_mkldnn_{'bf16' if dtype == torch.bfloat16 else 'fp16'}_supported", None)
    return asked is not None and bool(asked())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b: (..., in) -> (..., out)."""
    if not widened(x):
        return F.linear(x, weight, bias)
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a @ b, to `out` if there is one."""
    if not widened(a):
        return torch.mm(a, b) if out is None else torch.mm(a, b, out=out)
    found = torch.mm(a.float(), b.float())
    return found.to(a.dtype) if out is None else out.copy_(found)


def addmm(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c + a @ b."""
    if not widened(a):
        return torch.addmm(c, a, b)
    return torch.addmm(c.float(), a.float(), b.float()).to(c.dtype)


def add_mm_(c: Tensor, a: Tensor, b: Tensor) -> None:
    """c += a @ b."""
    if widened(a):
        c.copy_(torch.addmm(c.float(), a.float(), b.float()))
    else:
        c.addmm_(a, b)


def attention(q_BHSK: Tensor, k_BGPK: Tensor, v_BGPK: Tensor, mask_SP: Tensor | None, scale: float) -> Tensor:
    """Scaled dot-product attention, causal where there is no mask: (B, H, S, K). H is a multiple of G."""
    if widened(q_BHSK):
        found: Tensor = _Attention.apply(q_BHSK, k_BGPK, v_BGPK, mask_SP, scale)  # type: ignore[no-untyped-call]
        return found
    return F.scaled_dot_product_attention(
        q_BHSK, k_BGPK, v_BGPK, attn_mask=mask_SP, is_causal=mask_SP is None, scale=scale,
        enable_gqa=q_BHSK.shape[1] != k_BGPK.shape[1],
    )  # fmt: skip


class _Attention(torch.autograd.Function):
    """Torch's flash attention on CPUs, called in fp32 by its own name: what is kept for the backward stays narrow."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        more = None if mask is None else torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))
        wide, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q.float(), k.float(), v.float(), 0.0, mask is None, attn_mask=more, scale=scale
        )
        out: Tensor = wide.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.mask, ctx.scale = more, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, sums = ctx.saved_tensors
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grads[0].float(), q.float(), k.float(), v.float(), out.float(), sums, 0.0, ctx.mask is None,
            attn_mask=ctx.mask, scale=ctx.scale,
        )  # fmt: skip
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None
