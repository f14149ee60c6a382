"""The units of a dense decoder; each is one unit of a pipeline. Axes are the letters of state.py.

A new kind of sub-layer is a table in danlu/recipe.py and a class like these, with forward(x_TD, context) -> x_TD, named
in net.SUBLAYERS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.halves import Halves
from danlu.model.parallel import Sums
from danlu.model.parts import Context, Linear, Made, Norm, gated
from danlu.model.rope import rotate


class Projections(Protocol):
    """What grouped-query attention needs of the unit that runs it."""

    layer: int
    size: int
    window: int | None
    sums: Sums
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Norm | None
    k_norm: Norm | None


def attention(unit: Projections, seen_TD: Tensor, value_TD: Tensor, context: Context) -> Tensor:
    """Grouped-query attention with rotary positions: this card's part of (T, D), to be summed.

    seen_TD   what q and k are made of
    value_TD  what v is made of
    """
    tokens = len(seen_TD)
    q_THK = unit.q(seen_TD).view(tokens, -1, unit.size)
    k_TGK = unit.k(seen_TD).view(tokens, -1, unit.size)
    v_TGK = unit.v(value_TD).view(tokens, -1, unit.size)
    if unit.q_norm is not None and unit.k_norm is not None:
        q_THK, k_TGK = unit.q_norm(q_THK, unit.sums), unit.k_norm(k_TGK, unit.sums)
    assert context.cos_T1K is not None and context.sin_T1K is not None
    q_THK = rotate(q_THK, context.cos_T1K, context.sin_T1K)
    k_TGK = rotate(k_TGK, context.cos_T1K, context.sin_T1K)
    o_THK = context.state.attend(
        unit.layer, q_THK, k_TGK, v_TGK, context.meta, scale=unit.size**-0.5, window=unit.window
    )
    found: Tensor = unit.o(o_THK.reshape(tokens, -1))
    return found


class Attention(nn.Module):
    """Norm, grouped-query attention with rotary positions, residual."""

    norm: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Norm | None
    k_norm: Norm | None

    def __init__(self, made: Made, layer: int) -> None:
        super().__init__()
        self.layer, self.window, self.sums, self.size = layer, made.spec.window, made.sums, made.spec.head_dim
        made.furnish(self, "attn")
        if not made.spec.qk_norm:
            self.q_norm = self.k_norm = None

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        h_TD = self.sums.spread(self.norm(x_TD))
        return x_TD + self.sums.total(attention(self, h_TD, h_TD, context))


class Mlp(nn.Module):
    """Norm, gated MLP with SiLU (Shazeer 2020), residual."""

    norm: Norm

    def __init__(self, made: Made, layer: int) -> None:
        super().__init__()
        self.sums = made.sums
        made.furnish(self, "mlp")

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        return x_TD + self.sums.total(gated(self, self.sums.spread(self.norm(x_TD))))


class Embed(nn.Module):
    """Token ids to vectors. A card that holds part of the vocabulary gives zeros for the rest; the sum is whole."""

    weight: nn.Parameter

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.start, self.stop = made.share.vocab
        self.sums = made.sums if self.stop - self.start < made.spec.vocab else None
        made.furnish(self, "embed")

    def forward(self, ids_T: Tensor) -> Tensor:
        """int64 (T,) -> (T, D)."""
        return self.rows(ids_T, F.embedding)

    def rows(self, ids_T: Tensor, look_up: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The same by another way to look rows of a table up."""
        if self.sums is None:
            return look_up(ids_T, self.weight)
        mine_T = (ids_T >= self.start) & (ids_T < self.stop)
        return self.sums.total(look_up((ids_T - self.start) * mine_T, self.weight) * mine_T[:, None])


class Head(nn.Module):
    """Final norm and the map to logits. It has no weight of its own where the embedding that it is tied to is held."""

    norm: Norm
    halves: Halves | None = None

    def __init__(self, made: Made, borrows: bool) -> None:
        super().__init__()
        self.sums = made.sums
        made.furnish(self, "head")
        if made.spec.tied and not borrows:
            made.furnish(self, "embed")
        elif borrows:
            self.weight = None

    def forward(self, x_TD: Tensor, rows_R: Tensor | None, borrowed_VD: Tensor | None) -> Tensor:
        """(T, D) -> logits (R, V); V is this share's part of the vocabulary."""
        x_RD = x_TD if rows_R is None else x_TD[rows_R]
        weight = self.weight if self.weight is not None else borrowed_VD
        assert weight is not None
        h_RD = self.sums.spread(self.norm(x_RD))
        if self.halves is not None:
            return self.halves.linear(h_RD, weight)
        return F.linear(h_RD, weight)
