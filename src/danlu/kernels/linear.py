"""x @ w.T for a 4-bit matrix in a precision chosen by name: native on a CPU, Triton on a GPU, torch anywhere else.

| precision | inputs are brought to | relative error beside the exact product, Gaussian inputs |
|---|---|---|
| fp32 | nothing | 2e-7 |
| int16 | 14 bits a block of 64 (levels 13) | 2e-4 |
| bf16 | bf16 (levels too); int16 on a CPU without it | 2e-3 |
| int8 | 8 bits a block of 64 (levels 8) | 1e-2 |
A precision is the least that is given: a kernel may be more exact where that costs nothing. Triton and torch multiply
in the dtype of x whatever the precision.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from danlu.events import fallback
from danlu.kernels import ops, q4

Precision = Literal["fp32", "int16", "int8", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # in the order of enum danlu_precision
PANEL_FLOATS = 1 << 22  # weights unpacked at a time when they are multiplied by torch: 16 MiB


def linear(x: Tensor, w: q4.Q4, bias: Tensor | None = None, precision: Precision = "int16") -> Tensor:
    """x (..., K) @ w.T + bias (N,), in the dtype of x; differentiable in x and bias (then torch multiplies)."""
    wants_grad = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    native = ops.find("linear_q4") if x.device.type == "cpu" and not wants_grad else None
    x_RK = x.reshape(-1, w.shape[1])
    if x.device.type == "cuda" and not wants_grad and (gpu := _triton()):
        out_RN = gpu(x_RK, w, bias).to(x.dtype)
    elif native is None or not len(x_RK):
        out_RN = linear_torch(x_RK, w, bias)
    else:
        out_RN = linear_native(native, x_RK, w, bias, precision)
        if w.rest is not None:
            out_RN += linear_native(native, x_RK, w.rest, None, precision)
        out_RN = out_RN.to(x.dtype)
    return out_RN.view(*x.shape[:-1], w.shape[0])


@functools.cache
def _triton() -> Callable[[Tensor, q4.Q4, Tensor | None], Tensor] | None:
    """The GPU's own product, or None where Triton is not: torch then unpacks panels of weights."""
    from danlu.kernels import triton_q4  # loads Triton, which takes a second

    if not triton_q4.available():
        fallback("kernel.triton", "torch unpacks 4-bit weights for every product on this GPU: Triton is not installed")
        return None
    return triton_q4.linear_triton


def linear_native(
    native: ops.Native, x_RK: Tensor, w: q4.Q4, bias: Tensor | None, precision: Precision, threads: int | None = None
) -> Tensor:
    """The product by one native function, float32 (R, N); threads None is torch's own number."""
    x_RK = x_RK.detach().float().contiguous()
    bias = None if bias is None else bias.detach().float().contiguous()
    out_RN = torch.empty(x_RK.shape[0], w.shape[0])
    status = native(
        ctypes.byref(w.view),
        ctypes.c_void_p(x_RK.data_ptr()),
        ctypes.c_int64(x_RK.shape[0]),
        ctypes.c_int64(x_RK.numel()),
        ctypes.c_void_p(None if bias is None else bias.data_ptr()),
        ctypes.c_void_p(out_RN.data_ptr()),
        ctypes.c_int64(out_RN.numel()),
        PRECISIONS.index(precision),
        threads or torch.get_num_threads(),
    )
    ops.check(status, "linear_q4")
    return out_RN


def linear_torch(x_RK: Tensor, w: q4.Q4, bias: Tensor | None) -> Tensor:
    """The product by torch, a panel of rows at a time to bound memory; differentiable in x and bias."""
    step = max(1, PANEL_FLOATS // w.shape[1])
    panels: list[Any] = []
    for n in range(0, w.shape[0], step):
        panels.append(x_RK @ q4.dequantize(w, n, min(n + step, w.shape[0])).to(x_RK.dtype).T)
    out_RN = panels[0] if len(panels) == 1 else torch.cat(panels, -1)
    return out_RN if bias is None else out_RN + bias.to(x_RK.dtype)
