"""ONE decoder with explicit state: forward(x, state, meta). Train, serve and scoring run this file.

Blocks know neither rank nor schedule: which units they hold is (start, stop), which part of every axis is a Share, what
they remember between calls is a State. Axes of tensors are letters at the end of a name:

    T tokens of all sequences, flat    R rows whose logits are wanted    D hidden    V vocabulary (of this share)
    H query heads    G key-value heads    K head size    B sequences    S tokens per sequence
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.families import unit_shapes
from danlu.model.rope import rope_frequencies, rotate
from danlu.model.shard import Share, whole
from danlu.nouns import ModelSpec

Reduce = Callable[[Tensor], Tensor]  # sums a partial result over the cards that share it


@dataclass(frozen=True, slots=True)
class Meta:
    """What a forward pass must know about its tokens.

    positions_T   int64 position of each token in its own sequence
    rows_R        int64 indices into T of the rows whose logits are wanted, None for all
    """

    positions_T: Tensor
    rows_R: Tensor | None = None


class State(Protocol):
    """What attention remembers. `layer` is the layer's number in the whole model; q and k are already rotated."""

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, meta: Meta, *, scale: float, window: int | None
    ) -> Tensor:
        """Attention of every token over its own sequence up to itself: o_THK."""
        ...


class Causal:
    """State without a memory, for training and scoring: T = batch * seq, sequence by sequence."""

    def __init__(self, batch: int, seq: int) -> None:
        self.batch, self.seq = batch, seq
        self._mask_SS: Tensor | None = None

    def meta(self, rows_R: Tensor | None = None, device: str | torch.device = "cpu") -> Meta:
        """The Meta that goes with this state: every sequence starts at position 0."""
        return Meta(torch.arange(self.seq, device=device).repeat(self.batch), rows_R)

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, meta: Meta, *, scale: float, window: int | None
    ) -> Tensor:
        """Attention inside each sequence, over the last `window` tokens (the token itself counts) if there is one."""
        q, k, v = (x.view(self.batch, self.seq, *x.shape[1:]).transpose(1, 2) for x in (q_THK, k_TGK, v_TGK))
        mask = None if window is None or window >= self.seq else self._mask(window, q_THK.device)
        o = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return o.transpose(1, 2).reshape(q_THK.shape)

    def _mask(self, window: int, device: torch.device) -> Tensor:
        if self._mask_SS is None or self._mask_SS.device != device:
            row = torch.arange(self.seq, device=device)
            behind = row[:, None] - row[None, :]
            self._mask_SS = (behind >= 0) & (behind < window)
        return self._mask_SS


class Linear(nn.Module):
    """y = x W^T + b with W (out, in). Replaced in place by its quantized form, which answers the same call."""

    def __init__(self, rows: int, columns: int, bias: bool, dtype: torch.dtype, device: str | torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.empty(rows, dtype=dtype, device=device)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
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
        return F.linear(self.norm(x_RD), weight)


SUBLAYERS: dict[str, Callable[[Made, int], nn.Module]] = {"attn": Attention, "mlp": Mlp}


class Decoder(nn.Module):
    """Units [start, stop) of a model; parameter names are those of the whole model.

    share    the part of every axis held here, None for all of it
    reduce   sums a partial (T, D) over the cards of the share; called after o, after down, and after a cut embedding
    Weights are uninitialised: call init() or load them. A tied decoder that holds the head but not the embedding has
    "head.weight", a copy of the embedding; one that holds both has only "embed.weight".
    """

    def __init__(
        self,
        spec: ModelSpec,
        start: int = 0,
        stop: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        share: Share | None = None,
        reduce: Reduce | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.share, self.units = spec, share or whole(spec), spec.units[start:stop]
        made = Made(spec, self.share, reduce, dtype, device)
        self.embed = Embed(made) if "embed" in self.units else None
        self.layers = nn.ModuleDict()
        self._body: list[nn.Module] = []
        for unit in self.units:
            if unit.startswith("layers."):
                _, layer, kind = unit.split(".")
                if layer not in self.layers:
                    self.layers[layer] = nn.ModuleDict()
                self._body.append(SUBLAYERS[kind](made, int(layer)))
                self.layers[layer].add_module(kind, self._body[-1])
        self.head = Head(made, spec.tied and self.embed is not None) if "head" in self.units else None
        self.rotates = any(unit.endswith(".attn") for unit in self.units)
        self.dtype = dtype
        self.device = torch.device(device)
        self.frequencies = rope_frequencies(spec).to(device)  # no buffer: .to(bf16) must not touch it

    def forward(self, x: Tensor, state: State, meta: Meta) -> Tensor:
        """x is int64 ids (T,) if the embedding is held, else (T, D); gives logits (R, V) if the head is."""
        if self.embed is not None:
            x = self.embed(x)
        cos, sin = self._angles(meta.positions_T) if self.rotates else (None, None)
        context = Context(state, meta, cos, sin)
        for unit in self._body:
            x = unit(x, context)
        if self.head is not None:
            x = self.head(x, meta.rows_R, self.embed.weight if self.embed is not None else None)
        return x

    def _angles(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        half = positions_T[:, None, None].float() * self.frequencies
        cos, sin = half.cos().to(self.dtype), half.sin().to(self.dtype)
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def init(decoder: Decoder, seed: int) -> None:
    """Fill every weight from its own name and the seed, so that any split of the units or axes gives the same numbers.

    Standard deviation sqrt(2 / (5 D)) (Nguyen & Salazar 2019), o and down divided by sqrt(2 layers) (GPT-2); norms one,
    biases zero. numpy's Philox and not torch's generator: ranks may run unlike torch versions on unlike chips.
    """
    spec = decoder.spec
    shapes = {name: shape for unit in spec.units for name, shape in unit_shapes(spec, unit).items()}
    shapes.setdefault("head.weight", (spec.vocab, spec.hidden))
    std = math.sqrt(0.4 / spec.hidden)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            else:
                source = "embed.weight" if spec.tied and name == "head.weight" else name
                scale = std / math.sqrt(2 * spec.layers) if source.endswith(("o.weight", "down.weight")) else std
                full = torch.from_numpy(_normal(source, seed, shapes[name])) * scale
                span = decoder.share.span(spec, name)
                parameter.copy_(full if span is None else full.narrow(span[0], span[1], span[2] - span[1]))


def _normal(name: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
