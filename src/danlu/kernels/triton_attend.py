"""Attention over paged keys and values on a GPU, by Triton: pages are read where they lie, none is gathered.
Never run by us on a GPU: tests/kernels/test_triton.py runs it in Triton's interpreter, beside torch.

One program has some tokens of one sequence and all query heads of one key-value head, so that keys are read once for
them; where few programs would leave the card idle, the keys of a sequence are cut among several (flash decoding: Dao et
al., 2023), whose sums are joined by their weights. Softmax runs along the keys in one pass (Milakov and Gimelshein,
arXiv 1805.02867).

Axes: T tokens, H query heads, G key-value heads, K width of a head, S slots of the pages, B sequences, P pages of one,
X programs' blocks, R parts of the keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.events import fallback
from danlu.kernels.step import Piece

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU
    triton = None

KEYS = 64  # of one turn: whole pages
ROWS_FEW, ROWS_MANY = 16, 64  # tokens x query heads of one program: of a decode step, of a prompt
PROGRAMS = 256  # that keep a card busy; fewer cut the keys
LEAST_KEYS = 512  # of a part
NO_WINDOW = 1 << 30


def _attend(
    q: Any, keys: Any, values: Any, table: Any, blocks: Any, out: Any, weight: Any, tokens: Any, kv_heads: Any,
    pages: Any, scale: Any, window: Any, part_keys: Any, GROUP: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    M: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
) -> None:  # fmt: skip
    """One block of tokens, one key-value head, one part of the keys."""
    at = blocks + tl.program_id(0) * 4
    piece, row, count, start = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
    g, part = tl.program_id(1), tl.program_id(2)
    m, k = tl.arange(0, M), tl.arange(0, K)
    token, head = m // GROUP, g * GROUP + m % GROUP
    live, wide = token < count, k < WIDTH
    place = (row + token).to(tl.int64) * (kv_heads * GROUP) + head
    q_MK = tl.load(q + place[:, None] * WIDTH + k[None, :], mask=live[:, None] & wide[None, :], other=0.0)
    position = start + token
    first = tl.maximum(start - window + 1, part * part_keys) // L * L
    stop = tl.minimum(start + count, (part + 1) * part_keys)
    most = tl.full((M,), float("-inf"), dtype=tl.float32)
    total, sums = tl.zeros((M,), dtype=tl.float32), tl.zeros((M, K), dtype=tl.float32)
    for begin in range(first, stop, L):
        i = begin + tl.arange(0, L)
        there = i < stop
        page = tl.load(table + piece * pages + i // PAGE, mask=there, other=0)
        slot = (page.to(tl.int64) * PAGE + i % PAGE) * kv_heads + g
        where = slot[:, None] * WIDTH + k[None, :]
        k_LK = tl.load(keys + where, mask=there[:, None] & wide[None, :], other=0.0)
        seen = there[None, :] & (i[None, :] <= position[:, None]) & (i[None, :] > position[:, None] - window)
        score = tl.where(seen, tl.dot(q_MK, tl.trans(k_LK), input_precision="ieee") * scale, float("-inf"))
        more = tl.maximum(most, tl.max(score, 1))
        base = tl.where(more == float("-inf"), 0.0, more)  # a row that saw nothing yet
        share, kept = tl.exp(score - base[:, None]), tl.exp(most - base)
        v_LK = tl.load(values + where, mask=there[:, None] & wide[None, :], other=0.0)
        sums = sums * kept[:, None] + tl.dot(share.to(v_LK.dtype), v_LK, input_precision="ieee")
        total, most = total * kept + tl.sum(share, 1), more
    to = part.to(tl.int64) * tokens * (kv_heads * GROUP) + place
    result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + to[:, None] * WIDTH + k[None, :], result, mask=live[:, None] & wide[None, :])
    tl.store(weight + to, most + tl.log(tl.where(total == 0.0, 1.0, total)), mask=live)


if triton is not None:
    attend_blocks = triton.jit(_attend)


@dataclass(frozen=True, slots=True)
class Walk:
    """What the programs of one step read; made once, used by every layer.

    table_BP  pages of every sequence
    blocks    (X, 4) sequence, first row of the step, tokens, position of the first: of decoding, and of prompts
    longest   keys of the longest sequence
    """

    table_BP: Tensor
    blocks: tuple[Tensor, Tensor]
    longest: int

    @staticmethod
    def of(pieces: Sequence[Piece], group: int, page: int, device: torch.device | str) -> Walk:
        """group  query heads of one key-value head, ROWS_FEW at most;  page  tokens of a page"""
        held = [-(-piece.stop // page) for piece in pieces]
        table_BP = torch.zeros(len(pieces), max(held), dtype=torch.int32)
        few: list[tuple[int, int, int, int]] = []
        many: list[tuple[int, int, int, int]] = []
        row, step = 0, ROWS_MANY // group
        for b, piece in enumerate(pieces):
            table_BP[b, : held[b]] = torch.tensor(list(piece.pages[: held[b]]), dtype=torch.int32)
            if piece.stop - piece.start == 1:
                few.append((b, row, 1, piece.start))
            else:
                many += [(b, row + start - piece.start, min(step, piece.stop - start), start)
                         for start in range(piece.start, piece.stop, step)]  # fmt: skip
            row += piece.stop - piece.start
        few_X4, many_X4 = (torch.tensor(each, dtype=torch.int32).view(-1, 4).to(device) for each in (few, many))
        return Walk(table_BP.to(device), (few_X4, many_X4), max(piece.stop for piece in pieces))


@functools.cache
def available() -> bool:
    """Whether Triton is installed here; said once where a GPU could use it."""
    if triton is None:
        fallback("kernel.triton_attend", "torch gathers keys and values for attention: Triton is not installed")
    return triton is not None


def attend(
    q_THK: Tensor, keys_SGK: Tensor, values_SGK: Tensor, walk: Walk, *, page: int, scale: float, window: int | None
) -> Tensor:
    """Attention of every token over its own sequence, (T, H, K) in the dtype of q; sums in float32.

    keys_SGK, values_SGK  with the keys and values of these tokens already in them
    window  keys that a token sees, itself included; None for all before it
    """
    (tokens, heads, width), kv_heads = q_THK.shape, keys_SGK.shape[1]
    out_THK = q_THK.new_empty(tokens, heads, width)
    launch: Callable[[int, Tensor], None] = functools.partial(
        _launch, q_THK.to(keys_SGK.dtype).contiguous(), keys_SGK, values_SGK, walk, out_THK, kv_heads, page, scale,
        NO_WINDOW if window is None else window,
    )  # fmt: skip
    for rows, blocks_X4 in zip((ROWS_FEW, ROWS_MANY), walk.blocks, strict=True):
        if len(blocks_X4):
            launch(rows, blocks_X4)
    return out_THK


def _launch(
    q_THK: Tensor, keys_SGK: Tensor, values_SGK: Tensor, walk: Walk, out_THK: Tensor, kv_heads: int, page: int,
    scale: float, window: int, rows: int, blocks_X4: Tensor,
) -> None:  # fmt: skip
    """Fill in the rows of these blocks."""
    tokens, heads, width = q_THK.shape
    span = min(walk.longest, KEYS + window) if rows == ROWS_FEW else walk.longest
    parts = min(-(-PROGRAMS // (len(blocks_X4) * kv_heads)), -(-span // LEAST_KEYS))
    part_keys = -(-walk.longest // (parts * KEYS)) * KEYS
    sums_RTHK = torch.empty(parts, tokens, heads, width, dtype=torch.float32, device=q_THK.device)
    weight_RTH = torch.empty(parts, tokens, heads, dtype=torch.float32, device=q_THK.device)
    attend_blocks[(len(blocks_X4), kv_heads, parts)](
        q_THK, keys_SGK, values_SGK, walk.table_BP, blocks_X4, sums_RTHK, weight_RTH, tokens, kv_heads,
        walk.table_BP.shape[1], scale, window, part_keys, heads // kv_heads, width, page, rows,
        max(16, triton.next_power_of_2(width)), KEYS,
    )  # fmt: skip
    mine_T = _rows_of(blocks_X4)
    share_RTH1 = weight_RTH[:, mine_T].softmax(0).unsqueeze(-1)
    out_THK[mine_T] = (sums_RTHK[:, mine_T] * share_RTH1).sum(0).to(out_THK.dtype)


def _rows_of(blocks_X4: Tensor) -> Tensor:
    """Rows of the step that the blocks have."""
    first_X, count_X = blocks_X4[:, 1].long(), blocks_X4[:, 2].long()
    starts_T = (first_X - (count_X.cumsum(0) - count_X)).repeat_interleave(count_X)
    return starts_T + torch.arange(len(starts_T), device=blocks_X4.device)
