"""ONE decoder with explicit state: forward(x, state, meta). Train, serve and scoring run this file.

It knows neither rank nor schedule: which units it holds is (start, stop), which part of every axis is a Share, what it
remembers between calls is a State. Axes are the letters of state.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from danlu import recipe
from danlu.model.experts import Experts
from danlu.model.filtered import FilteredAttention
from danlu.model.fused import Begin, End, Run, fused, fused_embed, fused_head
from danlu.model.fused_experts import fused_experts
from danlu.model.halves import Halves
from danlu.model.layers import Attention, Embed, Head, Mlp
from danlu.model.parallel import Reduce
from danlu.model.parts import Context, Linear, Made, Unit
from danlu.model.post import Post
from danlu.model.products import PLAIN, Products
from danlu.model.rope import rope_frequencies
from danlu.model.state import Causal, Meta, State
from danlu.nouns import ModelSpec
from danlu.shares import Share, whole

__all__ = ["Causal", "Decoder", "Linear", "Meta", "Reduce", "State", "init"]

SUBLAYERS: dict[str, Unit] = {"attn": Attention, "lfa": FilteredAttention, "mlp": Mlp, "moe": Experts}


class Decoder(nn.Module):
    """Units [start, stop) of a model; parameter names are those of the whole model.

    share    the part of every axis held here, None for all of it
    reduce   sums a tensor over the cards of the share: parts of (T, D) going forward, gradients going back; every card
             calls it in the same order
    post     takes tokens to the experts that are held elsewhere; None where there are none
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
        post: Post | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.share, self.units = spec, share or whole(spec), spec.units[start:stop]
        made = Made(spec, self.share, reduce, dtype, device, post)
        self.embed = Embed(made) if "embed" in self.units else None
        self.layers = nn.ModuleDict()
        self._body: list[nn.Module] = []
        self._runs: Sequence[Run] = self._body
        for unit in self.units:
            if unit.startswith("layers."):
                _, layer, kind = unit.split(".")
                if layer not in self.layers:
                    self.layers[layer] = nn.ModuleDict()
                self._body.append(SUBLAYERS[kind](made, int(layer)))
                self.layers[layer].add_module(kind, self._body[-1])
        self.head = Head(made, spec.tied and self.embed is not None) if "head" in self.units else None
        self._begin: Begin | None = None  # what a trainer runs as the embedding
        self._end: End | None = None  # and as the head
        self.rotates = any(recipe.kind_of(unit) in recipe.ATTENDS for unit in self.units)
        self.dtype = dtype
        self.device = torch.device(device)
        self.frequencies = rope_frequencies(spec).to(device)  # no buffer: .to(bf16) must not touch it

    def forward(self, x: Tensor, state: State, meta: Meta) -> Tensor:
        """x is int64 ids (T,) if the embedding is held, else (T, D); gives logits (R, V) if the head is."""
        if self.embed is not None:
            begin = self._begin or self.embed
            x = begin(x)
        cos, sin = self._angles(meta.positions_T) if self.rotates else (None, None)
        context = Context(state, meta, cos, sin)
        for unit in self._runs:
            x = unit(x, context)
        if self.head is not None:
            end = self._end or self.head
            x = end(x, meta.rows_R, self.embed.weight if self.embed is not None else None)
        return x

    def halve(self, halves: Halves, products: Products = PLAIN) -> None:
        """Run as a trainer does (fused.py), weights' gradients where `halves` says; each must have its `grad`.

        products  how matrices of sub-layers are multiplied, but those that route tokens (recipe.narrow)
        """
        for name, module in self.named_modules():
            if isinstance(module, (Linear, Head)):
                module.halves = halves
            if isinstance(module, Linear) and not f"{name}.weight".endswith(recipe.WIDE):
                module.products = products
        self._runs = [_trained(unit, halves, products) for unit in self._body]
        self._begin = None if self.embed is None else fused_embed(self.embed)
        self._end = None if self.head is None else fused_head(self.head, halves)

    @property
    def product_bytes(self) -> int:
        """Bytes that products keep of the weights beside these."""
        linears = [module for module in self.modules() if isinstance(module, Linear)]
        return sum(each.products.held_bytes(*each.weight.shape) for each in linears)

    def watch(self, look: Callable[[str, Tensor], None]) -> None:
        """From now on, `look` is told the name and the output of every unit that runs."""

        def told(name: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def watched(*given: Any) -> Tensor:
                out = run(*given)
                look(name, out)
                return out

            return watched

        body = [unit for unit in self.units if unit.startswith("layers.")]
        self._runs = [told(name, run) for name, run in zip(body, self._runs, strict=True)]
        if self.embed is not None:
            self._begin = told("embed", self._begin or self.embed)
        if self.head is not None:
            self._end = told("head", self._end or self.head)

    def _angles(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        half = positions_T[:, None, None].float() * self.frequencies
        cos, sin = half.cos().to(self.dtype), half.sin().to(self.dtype)
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def _trained(unit: nn.Module, halves: Halves, products: Products) -> Run:
    """The unit as a trainer runs it; itself where nothing is written for it."""
    mixture = fused_experts(unit, halves, products) if isinstance(unit, Experts) else None
    return mixture or fused(unit, halves, products)


def init(decoder: Decoder, seed: int) -> None:
    """Fill every weight from its own name and the seed, so that any split of the units or axes gives the same numbers.

    Standard deviation sqrt(2 / (5 D)) (Nguyen & Salazar 2019), o and down divided by sqrt(2 layers) (GPT-2); norms one,
    biases zero. numpy's Philox and not torch's generator: ranks may run unlike torch versions on unlike chips.
    """
    spec = decoder.spec
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
                full = torch.from_numpy(_normal(source, seed, recipe.weight_of(spec, name).shape)) * scale
                span = decoder.share.span(spec, name)
                parameter.copy_(full if span is None else full.narrow(span[0], span[1], span[2] - span[1]))


def _normal(name: str, seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
