"""Sharding as data: which part of every axis of the decoder one card holds."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.families import cut_of
from danlu.nouns import ModelSpec


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a decoder that one of several cards holds, as [start, stop) of every axis that can be cut.

    first   this card adds what must be added once: the bias of a row-cut layer
    """

    heads: tuple[int, int]
    kv_heads: tuple[int, int]
    ffn: tuple[int, int]
    vocab: tuple[int, int]
    first: bool = True

    def span(self, spec: ModelSpec, name: str) -> tuple[int, int, int] | None:
        """(axis, start, stop), in elements, of the part of parameter `name` held here; None when all of it is."""
        cut = cut_of(name)
        if cut is None:
            return None
        axis, what = cut
        start, stop = getattr(self, what)
        size = spec.head_dim if what in ("heads", "kv_heads") else 1
        return axis, start * size, stop * size


def whole(spec: ModelSpec) -> Share:
    """The share of a card that holds everything."""
    return Share((0, spec.heads), (0, spec.kv_heads), (0, spec.ffn), (0, spec.vocab))
