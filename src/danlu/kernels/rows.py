"""The row operators of a training step: RMS norm, gated SiLU, rotary positions, forward and backward.

Native for fp32 on one thread, which is what a rank on CPU cards runs; torch otherwise. Each native call goes over
memory once where torch makes three to eight passes, so 16-bit rows are widened, computed in fp32 and rounded once.
Axes: T tokens, D columns, F width of a gated MLP, K head size.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.kernels.ops import check, find
from danlu.kernels.wide import NARROW

LANES = 8  # columns a native norm takes at once


def native(x: Tensor, columns: int) -> bool:
    """True when the native operators run on tensors like x with rows of so many columns."""
    return x.dtype == torch.float32 and _here(x, columns)


def _narrow(x: Tensor, columns: int) -> bool:
    """True when the native operators run on tensors like x once they are widened."""
    return x.dtype in NARROW and _here(x, columns)


def _here(x: Tensor, columns: int) -> bool:
    fits = x.device.type == "cpu" and columns % LANES == 0
    return fits and torch.get_num_threads() == 1 and find("norm") is not None


def norm(x_TD: Tensor, w_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMS norm of every row (Zhang & Sennrich 2019), and 1 / the root mean square of each (T,), never below fp32."""
    if _narrow(x_TD, x_TD.shape[1]):
        h_TD, rstd_T = norm(x_TD.float(), w_D.float(), eps)
        return h_TD.to(x_TD.dtype), rstd_T
    if not native(x_TD, x_TD.shape[1]):
        rstd_T = torch.rsqrt(x_TD.float().square().mean(-1) + eps)
        return (x_TD.float() * rstd_T[:, None]).to(x_TD.dtype) * w_D, rstd_T
    h_TD, rstd_T = torch.empty_like(x_TD), x_TD.new_empty(len(x_TD))
    _call("norm", x_TD, w_D, h_TD, rstd_T, *x_TD.shape, ctypes.c_float(eps))
    return h_TD, rstd_T


def norm_back(x_TD: Tensor, w_D: Tensor, rstd_T: Tensor, g_TD: Tensor, other_TD: Tensor, dw_D: Tensor) -> Tensor:
    """The gradient of x: through the norm, whose result has gradient g, plus `other`; dw is added to."""
    if _narrow(x_TD, x_TD.shape[1]):
        sums_D = dw_D.float()
        dx_TD = norm_back(x_TD.float(), w_D.float(), rstd_T, g_TD.float(), other_TD.float(), sums_D)
        dw_D.copy_(sums_D)
        return dx_TD.to(x_TD.dtype)
    if not native(x_TD, x_TD.shape[1]):
        unit_TD = x_TD.float() * rstd_T[:, None]
        dw_D.add_((g_TD.float() * unit_TD).sum(0).to(dw_D.dtype))
        scaled_TD = g_TD.float() * w_D.float()
        mean_T1 = (scaled_TD * unit_TD).mean(-1, keepdim=True)
        return other_TD + ((scaled_TD - unit_TD * mean_T1) * rstd_T[:, None]).to(x_TD.dtype)
    dx_TD = torch.empty_like(x_TD)
    _call("norm_back", x_TD, w_D, rstd_T, g_TD, other_TD, dx_TD, dw_D, *x_TD.shape)
    return dx_TD


def gate(ab_T2F: Tensor) -> Tensor:
    """silu(a) * b, of rows [a | b]."""
    rows, width = len(ab_T2F), ab_T2F.shape[1] // 2
    if _narrow(ab_T2F, width):
        return gate(ab_T2F.float()).to(ab_T2F.dtype)
    if not native(ab_T2F, width):
        a_TF, b_TF = ab_T2F.chunk(2, 1)
        return F.silu(a_TF) * b_TF
    p_TF = ab_T2F.new_empty(rows, width)
    _call("gate", ab_T2F, p_TF, rows, width)
    return p_TF


def gate_back(ab_T2F: Tensor, g_TF: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of [a | b], and silu(a) * b once more, so that nobody need keep it."""
    rows, width = g_TF.shape
    if _narrow(ab_T2F, width):
        wide_T2F, again_TF = gate_back(ab_T2F.float(), g_TF.float())
        return wide_T2F.to(ab_T2F.dtype), again_TF.to(g_TF.dtype)
    if not native(ab_T2F, width):
        a_TF, b_TF = ab_T2F.chunk(2, 1)
        s_TF, silu_TF = torch.sigmoid(a_TF), F.silu(a_TF)
        slope_TF = s_TF + silu_TF * (1 - s_TF)
        return torch.cat((g_TF * b_TF * slope_TF, g_TF * silu_TF), 1), silu_TF * b_TF
    dab_T2F, p_TF = torch.empty_like(ab_T2F), torch.empty_like(g_TF)
    _call("gate_back", ab_T2F, g_TF, dab_T2F, p_TF, rows, width)
    return dab_T2F, p_TF


def turn(x_THK: Tensor, y_THK: Tensor, cos_TK: Tensor, sin_TK: Tensor, *, back: bool = False) -> None:
    """Write x turned by its rows' angles (Su 2021, halves rather than pairs) to y, which may be x; `back` turns back.

    x, y  heads of K together, rows any number apart; cos, sin (T, K / 2), their rows as far apart as each other's
    """
    tokens, heads, size = x_THK.shape
    half = size // 2
    if _narrow(x_THK, LANES):
        wide_THK = x_THK.float()
        turn(wide_THK, wide_THK, cos_TK.float(), sin_TK.float(), back=back)
        y_THK.copy_(wide_THK)
        return
    if not native(x_THK, LANES):
        sin = -sin_TK[:, None] if back else sin_TK[:, None]
        cos, left, right = cos_TK[:, None], x_THK[..., :half], x_THK[..., half:]
        y_THK.copy_(torch.cat((left * cos - right * sin, right * cos + left * sin), -1))
        return
    sign = ctypes.c_float(-1.0 if back else 1.0)
    _call("turn", x_THK, y_THK, cos_TK, sin_TK, tokens, heads, half,
          x_THK.stride(0), y_THK.stride(0), cos_TK.stride(0), sign)  # fmt: skip


def _call(operator: str, *arguments: Any) -> None:
    function = find(operator)
    assert function is not None
    check(function(*(_plain(each) for each in arguments)), operator)


def _plain(each: Any) -> Any:
    if isinstance(each, Tensor):
        return ctypes.c_void_p(each.data_ptr())
    return ctypes.c_int64(each) if isinstance(each, int) else each
