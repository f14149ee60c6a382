"""KV memory in pages, and attention over it: the decoder's state when it serves.

Axes: T tokens of all sequences of a step, B sequences of a group, N tokens of each, P pages of each, L keys of each,
H query heads, G key-value heads, K width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.kernels.kv8 import UNIT_BYTES
from danlu.kernels.step import Cache, Piece
from danlu.model.net import Meta
from danlu.model.shared import cache_widths
from danlu.nouns import ModelSpec
from danlu.serve.pages import PAGE
from danlu.shares import Share

if TYPE_CHECKING:
    from danlu.kernels.triton_attend import Walk


def page_bytes(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers: keys, values, and the state of a local filter after its newest token."""
    head = (spec.head_dim + (UNIT_BYTES if dtype == torch.int8 else 0)) * dtype.itemsize
    return spec.layers * (2 * PAGE * spec.kv_heads * head + sum(edge_widths(spec)) * edge_dtype(dtype).itemsize)


def edge_dtype(dtype: torch.dtype) -> torch.dtype:
    """Element type of what convolutions look back at beside keys and values of that one: 8 bits are theirs alone."""
    return torch.bfloat16 if dtype == torch.int8 else dtype


def edge_widths(spec: ModelSpec) -> tuple[int, ...]:
    """Widths of what a layer's convolutions over time look back at by one token; none without a local filter."""
    return (spec.hidden, spec.hidden // 2) if "lfa" in spec.recipe else ()


class Paged:
    """Owns the KV tensors of `count` pages: per layer one of keys and one of values, (count * PAGE, G, K).

    A model with a local filter has its state there too, per layer and convolution (count, C): what the newest token of
    each page left behind. Prefixes are shared by whole pages, so a sequence that goes on always finds it at an edge.
    """

    def __init__(
        self, spec: ModelSpec, count: int, *, dtype: torch.dtype, device: torch.device | str = "cpu",
        share: Share | None = None,
    ) -> None:  # fmt: skip
        """dtype  torch.int8 for keys and values in 8 bits, which only the native engine reads
        share  of a rank that holds a part of the heads; None holds all of them
        """
        heads, widths = (spec.kv_heads, edge_widths(spec)) if share is None else cache_widths(spec, share)
        shape = (count * PAGE, heads, spec.head_dim + (UNIT_BYTES if dtype == torch.int8 else 0))
        self._layers = [
            (torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))
            for _ in range(spec.layers)
        ]
        self._edges = [
            [torch.zeros(count, width, dtype=edge_dtype(dtype), device=device) for width in widths]
            for _ in range(spec.layers)
        ]
        self._device, self._group = torch.device(device), spec.heads // spec.kv_heads

    @property
    def cache(self) -> Cache:
        """The same pages, as the native engine reads and writes them."""
        return Cache(self._layers, PAGE, self._edges)

    def at(self, pieces: Sequence[Piece]) -> Batch:
        """The state of one forward pass over `pieces`, flattened in the order given.

        Neighbours of alike length that have one token each attend together, so pieces sorted by length run fastest.
        """
        slots = [piece.pages[i // PAGE] * PAGE + i % PAGE for piece in pieces for i in range(piece.start, piece.stop)]
        groups: list[Group] = []
        row, todo = 0, list(pieces)
        while todo:
            size = _alike(todo)
            groups.append(Group.of(todo[:size], row, self._device))
            row += size * groups[-1].count
            del todo[:size]
        look = Look.of(pieces, self._device) if self._edges and self._edges[0] else None
        slots_T = torch.tensor(slots, device=self._device)
        return Batch(self._layers, slots_T, groups, self._edges, look, self._walk(pieces))

    def _walk(self, pieces: Sequence[Piece]) -> Walk | None:
        """How a GPU's own attention reads the pages; None where torch attends."""
        if self._device.type != "cuda":
            return None
        from danlu.kernels import triton_attend  # loads Triton, which takes a second

        if self._group > triton_attend.ROWS_FEW or not triton_attend.available():
            return None
        return triton_attend.Walk.of(pieces, self._group, PAGE, self._device)


def _alike(pieces: Sequence[Piece]) -> int:
    """How many pieces from the first on attend in one call: one token each, padded to at most twice their length."""
    first = pieces[0]
    size = 1
    if first.stop - first.start == 1:
        while size < len(pieces):
            piece = pieces[size]
            if piece.stop - piece.start != 1 or not piece.stop <= 2 * first.stop or not first.stop <= 2 * piece.stop:
                break
            size += 1
    return size


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that attend in one call: `batch` of them, `count` tokens each, rows `row`.. of the flat step.

    slots_L      B * L indices of the slots of their keys; beyond a sequence's own end, its first
    length       L, the longest of them
    positions_BN position of each query
    ragged       True when some are shorter than L
    """

    row: int
    batch: int
    count: int
    length: int
    ragged: bool
    slots_L: Tensor
    positions_BN: Tensor

    @staticmethod
    def of(pieces: Sequence[Piece], row: int, device: torch.device) -> Group:
        """The index tensors of one attention call, made once per step and used by every layer."""
        length = max(piece.stop for piece in pieces)
        count = pieces[0].stop - pieces[0].start
        table = torch.zeros(len(pieces), -(-length // PAGE), dtype=torch.int64)
        for i, piece in enumerate(pieces):
            held = -(-piece.stop // PAGE)
            table[i, :held] = torch.tensor(piece.pages[:held])
        slots = (table[:, :, None] * PAGE + torch.arange(PAGE)).flatten(1)[:, :length]
        # Padding must be finite: its weight is 0, but 0 times the NaN that a stale slot may hold is NaN.
        own = torch.arange(length) < torch.tensor([piece.stop for piece in pieces])[:, None]
        slots = torch.where(own, slots, slots[:, :1])
        positions = torch.tensor([range(piece.start, piece.stop) for piece in pieces])
        ragged = any(piece.stop != length for piece in pieces)
        return Group(row, len(pieces), count, length, ragged, slots.flatten().to(device), positions.to(device))

    def causal(self, window: int | None) -> bool:
        """True when the plain causal triangle is the mask: whole prompts from their first token."""
        return self.count == self.length > 1 and (window is None or window >= self.length)

    def mask(self, window: int | None) -> Tensor | None:
        """What each query may see, bool (B, 1, N, L), or None when that is every key."""
        if self.count == 1 and not self.ragged and (window is None or window >= self.length):
            return None
        keys_L = torch.arange(self.length, device=self.positions_BN.device)
        behind_BNL = self.positions_BN[:, :, None] - keys_L
        seen = behind_BNL >= 0
        if window is not None:
            seen &= behind_BNL < window
        return seen[:, None]


@dataclass(frozen=True, slots=True)
class Look:
    """Where the tokens of a step find their predecessors' filter state, and where they leave their own.

    fresh_B  rows of tokens that begin a sequence
    later_B  rows of first tokens that do not; from_B the pages of their predecessors
    last_P   rows of the newest token of each page written;  to_P  those pages
    """

    fresh_B: Tensor
    later_B: Tensor
    from_B: Tensor
    last_P: Tensor
    to_P: Tensor

    @staticmethod
    def of(pieces: Sequence[Piece], device: torch.device) -> Look:
        """The index tensors of one step, used by every layer."""
        fresh, later, source, last, target, row = [], [], [], [], [], 0
        for piece in pieces:
            if piece.start:
                later.append(row)
                source.append(piece.pages[(piece.start - 1) // PAGE])
            else:
                fresh.append(row)
            for page in range(piece.start // PAGE, -(-piece.stop // PAGE)):
                last.append(row + min((page + 1) * PAGE, piece.stop) - 1 - piece.start)
                target.append(piece.pages[page])
            row += piece.stop - piece.start
        found = (torch.tensor(each, dtype=torch.int64, device=device) for each in (fresh, later, source, last, target))
        return Look(*found)


class Batch:
    """The decoder's state for one forward pass: writes keys and values to their slots, attends over whole prefixes."""

    def __init__(
        self, layers: Sequence[tuple[Tensor, Tensor]], slots_T: Tensor, groups: Sequence[Group],
        edges: Sequence[Sequence[Tensor]] = (), look: Look | None = None, walk: Walk | None = None,
    ) -> None:  # fmt: skip
        self._layers, self._slots_T, self._groups = layers, slots_T, groups
        self._edges, self._look, self._walk = edges, look, walk
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, meta: Meta, *, scale: float, window: int | None
    ) -> Tensor:
        """Attention of every token over its own sequence; returns (T, H, K)."""
        keys, values = self._layers[layer]
        keys.index_copy_(0, self._slots_T, k_TGK.to(keys.dtype))
        values.index_copy_(0, self._slots_T, v_TGK.to(values.dtype))
        if self._walk is not None:
            from danlu.kernels.triton_attend import attend

            return attend(q_THK, keys, values, self._walk, page=PAGE, scale=scale, window=window)
        out = [self._group(i, group, keys, values, q_THK, scale, window) for i, group in enumerate(self._groups)]
        return out[0] if len(out) == 1 else torch.cat(out)

    def before(self, layer: int, number: int, x_TC: Tensor, meta: Meta) -> Tensor:
        """Each token's predecessor: the row above, for a piece's first token what its page kept, or zero."""
        look = self._look
        assert look is not None, "the model's recipe names no local filter"
        kept = self._edges[layer][number]
        past_TC = x_TC.roll(1, 0)
        past_TC[look.fresh_B] = 0
        past_TC[look.later_B] = kept[look.from_B].to(x_TC.dtype)
        kept[look.to_P] = x_TC[look.last_P].to(kept.dtype)
        return past_TC

    def _group(
        self, i: int, group: Group, keys: Tensor, values: Tensor, q_THK: Tensor, scale: float, window: int | None
    ) -> Tensor:
        size, heads = group.batch * group.count, q_THK.shape[1:]
        q = q_THK[group.row : group.row + size].reshape(group.batch, group.count, *heads).transpose(1, 2)
        # index_select, not keys[slots]: advanced indexing took 3-6 times as long on a CPU.
        shape = (group.batch, group.length, *keys.shape[1:])
        k = keys.index_select(0, group.slots_L).to(q.dtype).view(shape).transpose(1, 2)
        v = values.index_select(0, group.slots_L).to(q.dtype).view(shape).transpose(1, 2)
        causal = group.causal(window)
        if not causal and (i, window) not in self._masks:
            self._masks[i, window] = group.mask(window)
        mask = None if causal else self._masks[i, window]
        o = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=True)
        return o.transpose(1, 2).flatten(0, 1)
