"""The operators of an op program in torch: what csrc/engine/ is held to, and what runs where it lacks one.

Axes as in step.py; buffers are float32 (rows, columns) and are written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.kernels import kv8, q4
from danlu.kernels.linear import Precision
from danlu.kernels.linear import linear as linear_q4
from danlu.kernels.program import Code, Op
from danlu.kernels.ranks import Ranks
from danlu.kernels.step import Cache, Places, Step, slots_of, width

Weight = Tensor | q4.Q4


@dataclass(frozen=True, slots=True)
class Scene:
    """All that an operator may touch: step, buffers (cut to its rows), weights by name, pages, and the other ranks."""

    step: Step
    places: Places
    buffers: Sequence[Tensor]
    weights: Mapping[str, Weight]
    cache: Cache
    precision: Precision
    ranks: Ranks | None = None

    def vector(self, name: str) -> Tensor:
        """A weight that is a vector, in float32."""
        found = self.weights[name]
        assert isinstance(found, Tensor)
        return found.float()


def embed(s: Scene, op: Op) -> None:
    """Token ids to rows."""
    table, out = s.weights[op.weights[0]], s.buffers[op.out]
    if isinstance(table, Tensor):
        out.copy_(table[torch.tensor(s.step.tokens)])
    else:
        for row, token in zip(out, s.step.tokens, strict=True):
            row.copy_(q4.dequantize(table, token, token + 1)[0])


def take(s: Scene, op: Op) -> None:
    """The wanted rows."""
    s.buffers[op.out].copy_(s.buffers[op.source][torch.tensor(s.step.wanted, dtype=torch.int64)])


def norm(s: Scene, op: Op) -> None:
    """RMS norm of every row."""
    weight = s.vector(op.weights[0])
    s.buffers[op.out].copy_(F.rms_norm(s.buffers[op.source], weight.shape, weight, op.scale))


def linear(s: Scene, op: Op) -> None:
    """Up to three matrices on the same rows, side by side from a column on."""
    out, x, column = s.buffers[op.out], s.buffers[op.source], op.n[1]
    for name, bias in zip(op.weights, op.biases or (None,) * len(op.weights), strict=True):
        y = times(x, s.weights[name], s.precision)
        y = y if bias is None else y + s.vector(bias)
        here = out[:, column : column + y.shape[1]]
        here.copy_(here + y if op.n[0] else y)
        column += y.shape[1]


def times(x: Tensor, weight: Weight, precision: Precision) -> Tensor:
    """x @ weight.T, in float32."""
    if isinstance(weight, q4.Q4):
        return linear_q4(x, weight, precision=precision)
    return F.linear(x, weight.float())


def head_norm(s: Scene, op: Op) -> None:
    """RMS norm of every head."""
    heads, weight = columns(s.buffers[op.out], op), s.vector(op.weights[0])
    heads.copy_(F.rms_norm(heads, weight.shape, weight, op.scale))


def columns(x: Tensor, op: Op) -> Tensor:
    """n[1] heads of n[2] from column n[0] on, as (rows, heads, size); a view."""
    first, heads, size = op.n
    return x[:, first : first + heads * size].view(len(x), heads, size)


def angles(s: Scene, op: Op) -> None:
    """Cosines and sines of every position."""
    angle = s.places.positions_T[:, None].float() * s.vector(op.weights[0])
    s.buffers[op.out].copy_(torch.cat((angle.cos(), angle.sin()), -1))


def rope(s: Scene, op: Op) -> None:
    """Rotary positions, halves."""
    heads, (cos, sin) = columns(s.buffers[op.out], op), s.buffers[op.other][:, None].chunk(2, -1)
    a, b = heads.chunk(2, -1)
    heads.copy_(torch.cat((a * cos - b * sin, b * cos + a * sin), -1))


def store(s: Scene, op: Op) -> None:
    """Keys and values to their pages."""
    for column, target in zip(op.n[:2], s.cache.layers[op.n[2]], strict=True):
        heads, size = target.shape[1], width(target)
        rows = s.buffers[op.source][:, column : column + heads * size].reshape(-1, heads, size)
        packed = kv8.pack(rows) if target.dtype == torch.int8 else rows.to(target.dtype)
        target.index_copy_(0, s.places.slots_T, packed)


def attend(s: Scene, op: Op) -> None:
    """Attention of every token over its own sequence up to itself."""
    column, heads, layer, window = op.n
    keys, values = s.cache.layers[layer]
    size, row = width(keys), 0
    for piece in s.step.pieces:
        count, slots = piece.stop - piece.start, torch.tensor(slots_of(piece, s.cache.page))
        q = s.buffers[op.source][row : row + count, column : column + heads * size].view(count, heads, size)
        k, v = (floats(each[slots]).transpose(0, 1) for each in (keys, values))
        behind = torch.arange(piece.start, piece.stop)[:, None] - torch.arange(piece.stop)
        seen = (behind >= 0) & (behind < window) if window else behind >= 0
        o = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None], seen, scale=op.scale,
                                           enable_gqa=True)  # fmt: skip
        s.buffers[op.out][row : row + count].copy_(o[0].transpose(0, 1).flatten(1))
        row += count


def floats(pages: Tensor) -> Tensor:
    """Keys or values as float32."""
    return kv8.unpack(pages) if pages.dtype == torch.int8 else pages.float()


def gate(s: Scene, op: Op) -> None:
    """silu of one part of the columns times another."""
    out, source = s.buffers[op.out], s.buffers[op.source]
    a, b = (source[:, first : first + out.shape[1]] for first in op.n)
    out.copy_(F.silu(a) * b)


def add(s: Scene, op: Op) -> None:
    """A sum in place."""
    s.buffers[op.out].add_(s.buffers[op.source])


def past(s: Scene, op: Op) -> None:
    """Each token's predecessor; the newest token of every page leaves its row there."""
    out, x, kept, page = s.buffers[op.out], s.buffers[op.source], s.cache.edges[op.n[0]][op.n[1]], s.cache.page
    row = 0
    for piece in s.step.pieces:
        count = piece.stop - piece.start
        before = kept[piece.pages[(piece.start - 1) // page]].float() if piece.start else torch.zeros(x.shape[1])
        out[row] = before
        out[row + 1 : row + count] = x[row : row + count - 1]
        for number in range(piece.start // page, -(-piece.stop // page)):
            newest = min((number + 1) * page, piece.stop) - 1
            kept[piece.pages[number]] = x[row + newest - piece.start].to(kept.dtype)
        row += count


def route(s: Scene, op: Op) -> None:
    """The greatest of a softmax, and their shares of it."""
    out = s.buffers[op.out]
    weight, number = F.softmax(s.buffers[op.source], -1).topk(out.shape[1] // 2)
    out.copy_(torch.cat((number, weight / weight.sum(-1, keepdim=True) if op.n[0] else weight), -1))


def dealt(s: Scene, op: Op) -> list[Tensor]:
    """Per expert of this rank its slots: token * used + place among that token's experts, in order of the tokens."""
    number, first = s.buffers[op.other].chunk(2, -1)[0].flatten(), op.n[2 if op.code == Code.COLLECT else 1]
    return [(number == first + expert).nonzero().flatten() for expert in range(op.n[0])]


def experts(s: Scene, op: Op) -> None:
    """Two matrices of every expert on the rows routed to it."""
    out, x, row = s.buffers[op.out], s.buffers[op.source], 0
    used, count = s.buffers[op.other].shape[1] // 2, op.n[0]
    for expert, slots in enumerate(dealt(s, op)):
        mine = x[slots // used]
        pair = [times(mine, s.weights[op.weights[expert + i * count]], s.precision) for i in range(2) if len(slots)]
        if pair:
            out[row : row + len(slots)] = torch.cat(pair, -1)
        row += len(slots)


def collect(s: Scene, op: Op) -> None:
    """Back to the tokens, weighted."""
    out, x, row = s.buffers[op.out], s.buffers[op.source], 0
    weight = s.buffers[op.other].chunk(2, -1)[1]
    if op.n[1]:
        out.zero_()
    for expert, slots in enumerate(dealt(s, op)):
        if len(slots):
            y = times(x[row : row + len(slots)], s.weights[op.weights[expert]], s.precision)
            out.index_add_(0, slots // weight.shape[1], y * weight.flatten()[slots, None])
        row += len(slots)


def blend(s: Scene, op: Op) -> None:
    """A share of other rows added."""
    s.buffers[op.out].add_(s.buffers[op.source] * s.buffers[op.other][:, :1].sigmoid())


def reduce(s: Scene, op: Op) -> None:
    """The sum over ranks."""
    assert s.ranks is not None
    s.ranks.all_reduce(s.buffers[op.out].view(-1).numpy())


def gather(s: Scene, op: Op) -> None:
    """The columns of all ranks, side by side."""
    assert s.ranks is not None
    counts = s.vector(op.weights[0]).diff().int().tolist()
    for mine, row in zip(s.buffers[op.source], s.buffers[op.out], strict=True):
        row.copy_(torch.from_numpy(s.ranks.all_gather(mine.numpy(), counts)))


OPERATORS: Mapping[Code, Callable[[Scene, Op], None]] = {
    Code.EMBED: embed, Code.TAKE: take, Code.NORM: norm, Code.LINEAR: linear, Code.HEAD_NORM: head_norm,
    Code.ANGLES: angles, Code.ROPE: rope, Code.STORE: store, Code.ATTEND: attend, Code.GATE: gate, Code.ADD: add,
    Code.PAST: past, Code.ROUTE: route, Code.EXPERTS: experts, Code.COLLECT: collect, Code.BLEND: blend,
    Code.REDUCE: reduce, Code.GATHER: gather,
}  # fmt: skip
