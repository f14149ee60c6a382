"""The 4-bit product as an operator of torch's own: danlu::linear_q4, for torch.compile, export and autograd.

Importing this file registers it. The parts of a matrix are passed one by one, since an operator takes tensors.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from danlu.kernels import linear, q4


@torch.library.custom_op("danlu::linear_q4", mutates_args=())
def linear_q4(
    x: Tensor, codes: Tensor, absmax: Tensor, scale: Tensor, levels: Tensor, rows: int, columns: int,
    absmax_map: Tensor | None, offset: Tensor, bias: Tensor | None, precision: str,
) -> Tensor:  # fmt: skip
    """x (..., columns) @ w.T + bias, as `linear.linear`; precision is one of linear.PRECISIONS."""
    w = q4.Q4(codes, absmax, scale, levels, (rows, columns), absmax_map, offset)
    with torch.no_grad():
        return linear.linear(x, w, bias, cast(linear.Precision, precision))


@linear_q4.register_fake
def _shape(x: Tensor, codes: Tensor, absmax: Tensor, scale: Tensor, levels: Tensor, rows: int, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, absmax, scale, levels, rows, columns, absmax_map, offset, bias, _ = inputs
    ctx.save_for_backward(codes, absmax, scale, levels, absmax_map, offset)
    ctx.shape, ctx.with_bias = (rows, columns), bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of x and of the bias; the weights have none. Panels of rows bound the memory."""
    codes, absmax, scale, levels, absmax_map, offset = ctx.saved_tensors
    w = q4.Q4(codes, absmax, scale, levels, ctx.shape, absmax_map, offset)
    rows, columns = ctx.shape
    flat, step = grad.reshape(-1, rows), max(1, linear.PANEL_FLOATS // columns)
    out = flat.new_zeros(len(flat), columns)
    for n in range(0, rows, step):
        out += flat[:, n : n + step] @ q4.dequantize(w, n, min(n + step, rows)).to(grad.dtype)
    bias = flat.sum(0) if ctx.with_bias else None
    return out.view(*grad.shape[:-1], columns), *([None] * 8), bias, None


linear_q4.register_autograd(_backward, setup_context=_keep)
