"""Sharding as data: which part of every axis of the decoder one card holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from danlu.errors import BadShares
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


def cut(spec: ModelSpec, heads: Sequence[int], grain: int = 1) -> tuple[Share, ...]:
    """The shares of cards that hold `heads` query heads each, in order; ffn and vocabulary follow in proportion.

    grain  ffn is cut at multiples of this (64 keeps the blocks of NF4 whole)
    Raises BadShares if they do not sum to the model's heads, leave a card nothing, or cut a group of query heads that
    share their keys and values.
    """
    group = spec.heads // spec.kv_heads
    said = f"{spec.heads} heads in {spec.kv_heads} groups of {group} over shares {list(heads)}"
    fix = f"give every card a multiple of {group} heads, {spec.heads} in all, or fewer cards"
    if sum(heads) != spec.heads or any(count <= 0 or count % group for count in heads):
        raise BadShares(said, why=f"they sum to {sum(heads)}; each must be a multiple of {group} above 0", fix=fix)
    edges = [0, *accumulate(heads)]
    # Halves round up, not to even: steps of one or more then never give a card nothing.
    ffn = [int(spec.ffn / grain * edge / spec.heads + 0.5) * grain for edge in edges[:-1]] + [spec.ffn]
    vocab = [int(spec.vocab * edge / spec.heads + 0.5) for edge in edges]
    axes = [list(pairwise(each)) for each in (edges, [edge // group for edge in edges], ffn, vocab)]
    if any(start >= stop for each in axes for start, stop in each):
        raise BadShares(said, why=f"{spec.ffn} of ffn in steps of {grain} and {spec.vocab} of vocabulary do not give "
                        "every card a part", fix=fix)  # fmt: skip
    return tuple(Share(h, g, f, v, first=h[0] == 0) for h, g, f, v in zip(*axes, strict=True))
