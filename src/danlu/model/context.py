"""Attention of a part of every sequence, where other cards compute the parts before and behind it.

Axes beside those of state.py: P tokens before the own ones, C columns (heads, or channels), W numbers of a column.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from danlu.kernels import wide
from danlu.model.state import Meta


class Call(NamedTuple):
    """One exchange between parts.

    name   tells exchanges apart: at most 7 ASCII letters and digits
    axis   field of danlu.shares.Share that says which columns a card holds; "" where it holds all
    reach  tokens before its own that a part needs; None for all
    """

    name: str
    axis: str
    reach: int | None


class Neighbours(Protocol):
    """The parts before and behind the own one. Every part calls the same, in the same order."""

    def before(self, call: Call, own_BSCW: Tensor) -> Tensor:
        """Rows of the parts before, (B, P, C, W); those behind get their rows of `own`."""
        ...

    def behind(self, call: Call, before_BPCW: Tensor, own_BSCW: Tensor) -> Tensor:
        """Gradients of the own rows: `own` and what the parts behind found for them. `before` goes to its parts."""
        ...


class CausalPart:
    """State without a memory for tokens [start, stop) of `batch` sequences, flat, sequence by sequence."""

    def __init__(self, batch: int, start: int, stop: int, neighbours: Neighbours) -> None:
        self.batch, self.start, self.stop, self._neighbours = batch, start, stop, neighbours
        self._masks: dict[tuple[int, int | None, torch.device], Tensor] = {}

    def meta(self, rows_R: Tensor | None = None, device: str | torch.device = "cpu") -> Meta:
        """The Meta that goes with this state: positions are those in the whole sequence."""
        return Meta(torch.arange(self.start, self.stop, device=device).repeat(self.batch), rows_R)

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, meta: Meta, *, scale: float, window: int | None
    ) -> Tensor:
        """Attention over the whole sequence up to each token, or over its last `window` tokens."""
        reach = None if window is None else window - 1
        keys_BPG = self._whole(Call(f"kv{layer}", "kv_heads", reach), torch.cat((k_TGK, v_TGK), -1))
        k, v = (each.transpose(1, 2) for each in torch.split(keys_BPG, k_TGK.shape[-1], -1))
        q = q_THK.view(self.batch, -1, *q_THK.shape[1:]).transpose(1, 2)
        square = k.shape[2] == q.shape[2] and (window is None or window >= q.shape[2])
        mask = None if square else self._mask(k.shape[2], window, q.device)
        return wide.attention(q, k, v, mask, scale).transpose(1, 2).reshape(q_THK.shape)

    def before(self, layer: int, number: int, x_TC: Tensor, meta: Meta) -> Tensor:
        """The row above, also of the part before; zero where a sequence begins, and at a position 0."""
        axis = ("", "filter")[number]
        columns_TCW = x_TC[:, :, None] if axis else x_TC[:, None, :]
        found = self._whole(Call(f"c{number}x{layer}", axis, 1), columns_TCW).flatten(2)
        if not self.start:
            found = F.pad(found, (0, 0, 1, 0))
        return found[:, :-1].reshape(x_TC.shape) * meta.positions_T.ne(0)[:, None]

    def _whole(self, call: Call, own_TCW: Tensor) -> Tensor:
        """Own rows behind those of the parts before: (B, P + S, C, W)."""
        own = own_TCW.reshape(self.batch, -1, *own_TCW.shape[1:])
        found: Tensor = _Whole.apply(own, call, self._neighbours)  # type: ignore[no-untyped-call]
        return found

    def _mask(self, keys: int, window: int | None, device: torch.device) -> Tensor:
        if (keys, window, device) not in self._masks:
            row = torch.arange(self.start, self.stop, device=device)
            behind = row[:, None] - torch.arange(self.stop - keys, self.stop, device=device)[None, :]
            self._masks[keys, window, device] = (behind >= 0) & (behind < (window or self.stop))
        return self._masks[keys, window, device]


class _Whole(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, call: Call, neighbours: Neighbours) -> Tensor:
        ctx.call, ctx.neighbours, ctx.rows = call, neighbours, own.shape[1]
        return torch.cat((neighbours.before(call, own.contiguous()), own), 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        edge = grads[0].shape[1] - ctx.rows
        return ctx.neighbours.behind(ctx.call, grads[0][:, :edge], grads[0][:, edge:]), None, None
