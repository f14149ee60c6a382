"""x @ w.T for a 4-bit matrix on a GPU, by Triton: the weights stay packed in the card's memory and are unpacked in its
registers. Never run by us on a GPU: tests/kernels/test_triton.py runs it in Triton's interpreter, beside torch.

A byte of `Q4.codes` has two columns that are 4 apart, so a block of 64 columns is two products of 32: its low nibbles
with their inputs, its high ones with theirs.

Axes: T tokens, N rows of the matrix, 32 bytes of a row in one block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.kernels import q4

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU
    triton = None

FEW = 8  # tokens that are multiplied and summed; more go to the tensor cores, which take 16 at least
ROWS_FEW, ROWS_MANY, TOKENS = 32, 64, 64  # of one program


def _unpack(
    codes: Any, absmax: Any, scale: Any, levels: Any, absmax_map: Any, offset: Any, n: Any, b: Any, rows: Any,
    blocks: Any, shift: Any, stride: Any, MAPPED: tl.constexpr,
) -> Any:  # fmt: skip
    """Low and high halves of block b of rows n as float32 (N, 32) each: columns 8 v + i and 8 v + 4 + i."""
    live = n < rows
    byte = tl.arange(0, 32)
    block = (n // 16).to(tl.int64) * blocks + b
    at = block[:, None] * 512 + (n % 16)[:, None] * 4 + (byte // 4 * 64 + byte % 4)[None, :]
    packed = tl.load(codes + at, mask=live[:, None], other=0).to(tl.int32)
    code = tl.load(absmax + block * 16 + n % 16, mask=live, other=0).to(tl.int32)
    if MAPPED:
        index = (shift + n.to(tl.int64) * stride + b) // 256
        size = tl.load(absmax_map + code) * tl.load(scale + index, mask=live, other=0.0) + tl.load(offset)
    else:
        span = ((n // 16).to(tl.int64) * ((shift + blocks + 15) // 16) + (shift + b) // 16) * 2
        step = tl.load(scale + span, mask=live, other=0.0)
        size = code.to(tl.float32) * step + tl.load(scale + span + 1, mask=live, other=0.0)
    low = tl.load(levels + (packed & 15)) * size[:, None]
    return low, tl.load(levels + (packed >> 4)) * size[:, None]


def _few(
    x: Any, codes: Any, absmax: Any, scale: Any, levels: Any, absmax_map: Any, offset: Any, out: Any, rows: Any,
    columns: Any, blocks: Any, shift: Any, stride: Any, MAPPED: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """N rows times one token."""
    n = tl.program_id(0) * N + tl.arange(0, N)
    t = tl.program_id(1).to(tl.int64)
    byte = tl.arange(0, 32)
    total = tl.zeros((N, 32), dtype=tl.float32)
    for b in range(blocks):
        low, high = unpack(codes, absmax, scale, levels, absmax_map, offset, n, b, rows, blocks, shift, stride, MAPPED)
        k = b * 64 + byte // 4 * 8 + byte % 4
        x_low = tl.load(x + t * columns + k, mask=k < columns, other=0.0).to(tl.float32)
        x_high = tl.load(x + t * columns + k + 4, mask=k + 4 < columns, other=0.0).to(tl.float32)
        total += low * x_low[None, :] + high * x_high[None, :]
    tl.store(out + t * rows + n, tl.sum(total, 1), mask=n < rows)


def _many(
    x: Any, codes: Any, absmax: Any, scale: Any, levels: Any, absmax_map: Any, offset: Any, out: Any, tokens: Any,
    rows: Any, columns: Any, blocks: Any, shift: Any, stride: Any, MAPPED: tl.constexpr, N: tl.constexpr,
    T: tl.constexpr,
) -> None:  # fmt: skip
    """N rows times T tokens, on the tensor cores in the dtype of x."""
    n = tl.program_id(0) * N + tl.arange(0, N)
    t = tl.program_id(1) * T + tl.arange(0, T)
    byte = tl.arange(0, 32)
    row = x + t.to(tl.int64)[:, None] * columns
    total = tl.zeros((T, N), dtype=tl.float32)
    for b in range(blocks):
        low, high = unpack(codes, absmax, scale, levels, absmax_map, offset, n, b, rows, blocks, shift, stride, MAPPED)
        k = (b * 64 + byte // 4 * 8 + byte % 4)[None, :]
        live = (t < tokens)[:, None]
        x_low = tl.load(row + k, mask=live & (k < columns), other=0.0)
        x_high = tl.load(row + k + 4, mask=live & (k + 4 < columns), other=0.0)
        total += tl.dot(x_low, tl.trans(low.to(x_low.dtype)), input_precision="ieee")
        total += tl.dot(x_high, tl.trans(high.to(x_low.dtype)), input_precision="ieee")
    place = out + t.to(tl.int64)[:, None] * rows + n[None, :]
    tl.store(place, total, mask=(t < tokens)[:, None] & (n < rows)[None, :])


if triton is not None:
    unpack, few, many = (triton.jit(each) for each in (_unpack, _few, _many))


def available() -> bool:
    """Whether Triton is installed here."""
    return triton is not None


def linear_triton(x_TK: Tensor, w: q4.Q4, bias: Tensor | None) -> Tensor:
    """The product in the dtype of x (T, N), sums in float32; all parts of w are where x is.

    Many tokens multiply in the dtype of x (float16, bfloat16 or float32; others in float32), few in float32.
    """
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    x_TK = x_TK.contiguous() if x_TK.dtype in kinds else x_TK.float().contiguous()
    (tokens, columns), rows = x_TK.shape, w.shape[0]
    out_TN = torch.empty(tokens, rows, dtype=torch.float32, device=x_TK.device)
    mapped, blocks = w.map is not None, -(-columns // q4.BLOCK)
    sizes = (columns, blocks, w.shift, w.stride or blocks)
    parts = (x_TK, w.codes, w.absmax, w.scale, w.levels, w.map if mapped else w.levels, w.offset, out_TN)
    if 0 < tokens <= FEW:
        few[(triton.cdiv(rows, ROWS_FEW), tokens)](*parts, rows, *sizes, mapped, ROWS_FEW)
    elif tokens:
        grid = (triton.cdiv(rows, ROWS_MANY), triton.cdiv(tokens, TOKENS))
        many[grid](*parts, tokens, rows, *sizes, mapped, ROWS_MANY, TOKENS)
    out_TN = out_TN if w.rest is None else out_TN + linear_triton(x_TK, w.rest, None)
    return out_TN if bias is None else out_TN + bias
