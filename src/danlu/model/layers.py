"""The sub-layers a decoder is made of; each is one unit of a pipeline. Axes are the letters of state.py.

A new kind of sub-layer is a class here with forward(x_TD, context) -> x_TD, its name in SUBLAYERS, and its parameters'
shapes and cut axes in danlu/families.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.halves import Halves
from danlu.model.rope import rotate
from danlu.model.shard import Share
from danlu.model.state import Meta, State
from danlu.nouns import ModelSpec

Reduce = Callable[[Tensor], Tensor]  # sums a partial result over the cards that share it


class Linear(nn.Module):
    """y = x W^T + b with W (out, in). Replaced in place by its quantized form, which answers the same call.

    halves  where a trainer's weight gradients go; None for torch's own backward
    """

    halves: Halves | None = None

    def __init__(self, rows: int, columns: int, bias: bool, dtype: torch.dtype, device: str | torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.empty(rows, dtype=dtype, device=device)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        if self.halves is not None:
            return self.halves.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class Norm(nn.Module):
    """RMSNorm over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: str | torch.device) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True, slots=True)
class Made:
    """What every unit is made from."""

    spec: ModelSpec
    share: Share
    reduce: Reduce | None
    dtype: torch.dtype
    device: str | torch.device

    def linear(self, rows: int, columns: int, bias: bool = False) -> Linear:
        """An uninitialised linear layer."""
        return Linear(rows, columns, bias, self.dtype, self.device)

    def norm(self, size: int) -> Norm:
        """A norm whose weight is one."""
        return Norm(size, self.spec.norm_eps, self.dtype, self.device)


@dataclass(frozen=True, slots=True)
class Context:
    """One forward pass, as every unit of it sees it. `cos`, `sin` are (T, 1, K); the first half of sin is negated."""

    state: State
    meta: Meta
    cos_T1K: Tensor | None
    sin_T1K: Tensor | None


class Attention(nn.Module):
    """Norm, grouped-query attention with rotary positions, residual."""

    def __init__(self, made: Made, layer: int) -> None:
        super().__init__()
        spec, share = made.spec, made.share
        self.layer, self.window, self.reduce, self.size = layer, spec.window, made.reduce, spec.head_dim
        q = (share.heads[1] - share.heads[0]) * spec.head_dim
        kv = (share.kv_heads[1] - share.kv_heads[0]) * spec.head_dim
        self.norm = made.norm(spec.hidden)
        self.q = made.linear(q, spec.hidden, spec.qkv_bias)
        self.k = made.linear(kv, spec.hidden, spec.qkv_bias)
        self.v = made.linear(kv, spec.hidden, spec.qkv_bias)
        self.o = made.linear(spec.hidden, q, spec.out_bias and share.first)
        self.q_norm = made.norm(spec.head_dim) if spec.qk_norm else None
        self.k_norm = made.norm(spec.head_dim) if spec.qk_norm else None

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        h_TD = self.norm(x_TD)
        q_THK = self.q(h_TD).view(len(h_TD), -1, self.size)
        k_TGK = self.k(h_TD).view(len(h_TD), -1, self.size)
        v_TGK = self.v(h_TD).view(len(h_TD), -1, self.size)
        if self.q_norm is not None and self.k_norm is not None:
            q_THK, k_TGK = self.q_norm(q_THK), self.k_norm(k_TGK)
        assert context.cos_T1K is not None and context.sin_T1K is not None
        q_THK = rotate(q_THK, context.cos_T1K, context.sin_T1K)
        k_TGK = rotate(k_TGK, context.cos_T1K, context.sin_T1K)
        o_THK = context.state.attend(
            self.layer, q_THK, k_TGK, v_TGK, context.meta, scale=self.size**-0.5, window=self.window
        )
        y_TD = self.o(o_THK.reshape(len(h_TD), -1))
        return x_TD + (y_TD if self.reduce is None else self.reduce(y_TD))


class Mlp(nn.Module):
    """Norm, gated MLP with SiLU (Shazeer 2020), residual."""

    def __init__(self, made: Made, layer: int) -> None:
        super().__init__()
        spec, ffn = made.spec, made.share.ffn[1] - made.share.ffn[0]
        self.reduce = made.reduce
        self.norm = made.norm(spec.hidden)
        self.gate = made.linear(ffn, spec.hidden)
        self.up = made.linear(ffn, spec.hidden)
        self.down = made.linear(spec.hidden, ffn)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        h_TD = self.norm(x_TD)
        y_TD = self.down(F.silu(self.gate(h_TD)) * self.up(h_TD))
        return x_TD + (y_TD if self.reduce is None else self.reduce(y_TD))


class Embed(nn.Module):
    """Token ids to vectors. A card that holds part of the vocabulary gives zeros for the rest; the sum is whole."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.start, self.stop = made.share.vocab
        self.reduce = made.reduce if self.stop - self.start < made.spec.vocab else None
        self.weight = nn.Parameter(
            torch.empty(self.stop - self.start, made.spec.hidden, dtype=made.dtype, device=made.device)
        )

    def forward(self, ids_T: Tensor) -> Tensor:
        """int64 (T,) -> (T, D)."""
        if self.reduce is None:
            return F.embedding(ids_T, self.weight)
        mine_T = (ids_T >= self.start) & (ids_T < self.stop)
        x_TD = F.embedding((ids_T - self.start) * mine_T, self.weight) * mine_T[:, None]
        return self.reduce(x_TD)


class Head(nn.Module):
    """Final norm and the map to logits. It has no weight of its own where the embedding that it is tied to is held."""

    halves: Halves | None = None

    def __init__(self, made: Made, borrows: bool) -> None:
        super().__init__()
        start, stop = made.share.vocab
        self.norm = made.norm(made.spec.hidden)
        self.weight = (
            None if borrows
            else nn.Parameter(torch.empty(stop - start, made.spec.hidden, dtype=made.dtype, device=made.device))
        )  # fmt: skip

    def forward(self, x_TD: Tensor, rows_R: Tensor | None, borrowed_VD: Tensor | None) -> Tensor:
        """(T, D) -> logits (R, V); V is this share's part of the vocabulary."""
        x_RD = x_TD if rows_R is None else x_TD[rows_R]
        weight = self.weight if self.weight is not None else borrowed_VD
        assert weight is not None
        if self.halves is not None:
            return self.halves.linear(self.norm(x_RD), weight)
        return F.linear(self.norm(x_RD), weight)


SUBLAYERS: dict[str, Callable[[Made, int], nn.Module]] = {"attn": Attention, "mlp": Mlp}
