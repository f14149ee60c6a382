"""Sharding as data: which part of every axis of the decoder one card holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from danlu import recipe
from danlu.errors import BadShares
from danlu.nouns import ModelSpec
from danlu.recipe import Weight


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a decoder that one of several cards holds, as [start, stop) of every axis that can be cut.

    experts      whole experts held; all of them where the cards share every expert's ffn
    shared       columns of the shared expert;  filter  channels inside the local filter
    card, cards  its number among those that share the stage; the first one adds what must be added once
    """

    heads: tuple[int, int]
    kv_heads: tuple[int, int]
    ffn: tuple[int, int]
    vocab: tuple[int, int]
    experts: tuple[int, int] = (0, 0)
    shared: tuple[int, int] = (0, 0)
    filter: tuple[int, int] = (0, 0)
    card: int = 0
    cards: int = 1

    def holds(self, weight: Weight) -> bool:
        """False for another card's experts, and for what only the first card adds."""
        if weight.once and self.card:
            return False
        return weight.expert is None or self.experts[0] <= weight.expert < self.experts[1]

    def shape(self, weight: Weight) -> tuple[int, ...]:
        """Shape of this card's part of a weight."""
        span = self._span(weight)
        if span is None:
            return weight.shape
        axis, start, stop = span
        return (*weight.shape[:axis], stop - start, *weight.shape[axis + 1 :])

    def span(self, spec: ModelSpec, name: str) -> tuple[int, int, int] | None:
        """(axis, start, stop), in elements, of the part of parameter `name` held here; None when all of it is."""
        return self._span(recipe.weight_of(spec, name))

    def _span(self, weight: Weight) -> tuple[int, int, int] | None:
        if weight.axis is None:
            return None
        start, stop = getattr(self, weight.counts)
        return weight.axis, start * weight.size, stop * weight.size


def whole(spec: ModelSpec) -> Share:
    """The share of a card that holds everything."""
    return Share((0, spec.heads), (0, spec.kv_heads), (0, spec.ffn), (0, spec.vocab), (0, spec.experts),
                 (0, spec.shared_ffn), (0, spec.hidden // 2))  # fmt: skip


def cut(
    spec: ModelSpec, heads: Sequence[int], grain: int = 1, experts: Sequence[int] | None = None
) -> tuple[Share, ...]:
    """The shares of cards that hold `heads` query heads each, in order; all other axes follow in proportion.

    grain    widths and the vocabulary are cut at multiples of this (64 keeps the blocks of 4-bit weights whole)
    experts  whole experts of each card; None cuts the ffn of every expert instead
    Raises BadShares if they do not sum to the model's heads or experts, leave a card nothing, or cut a group of query
    heads that share their keys and values.
    """
    group = spec.heads // spec.kv_heads
    said = f"{spec.heads} heads in {spec.kv_heads} groups of {group} over shares {list(heads)}"
    fix = f"give every card a multiple of {group} heads, {spec.heads} in all, or fewer cards"
    if sum(heads) != spec.heads or any(count <= 0 or count % group for count in heads):
        raise BadShares(said, why=f"they sum to {sum(heads)}; each must be a multiple of {group} above 0", fix=fix)
    edges = [0, *accumulate(heads)]
    ffn, shared, channels, vocab = (
        _edges(size, step, edges)
        for size, step in ((spec.ffn, grain), (spec.shared_ffn, grain), (spec.hidden // 2, grain), (spec.vocab, grain))
    )
    axes = [edges, [edge // group for edge in edges], ffn, vocab]
    needed = axes + [shared] * bool(spec.shared_ffn) + [channels] * ("lfa" in spec.recipe)
    if any(start >= stop for each in needed for start, stop in pairwise(each)):
        raise BadShares(said, why=f"{spec.ffn} of ffn, {spec.hidden} of width and {spec.vocab} of vocabulary, in steps "
                        f"of {grain}, do not give every card a part", fix=fix)  # fmt: skip
    parts = [list(pairwise(each)) for each in axes]
    held = [(0, spec.experts)] * len(heads)
    if experts is not None:
        held, parts[2] = _experts(spec, heads, experts), [(0, spec.ffn)] * len(heads)
    own = zip(*parts, held, pairwise(shared), pairwise(channels), strict=True)
    return tuple(Share(h, g, f, v, e, s, c, card, len(heads)) for card, (h, g, f, v, e, s, c) in enumerate(own))


def _edges(size: int, step: int, heads: Sequence[int]) -> list[int]:
    """Where an axis of `size` is cut, in whole steps and in proportion to the heads, but one step each at least."""
    steps, cards = -(-size // step), len(heads) - 1
    found = [0]
    for card, edge in enumerate(heads[1:-1], 1):
        nearest = int(size / step * edge / heads[-1] + 0.5)
        found.append(max(found[-1] + 1, min(nearest, steps - cards + card)))
    return [edge * step for edge in found] + [size]


def in_proportion(spec: ModelSpec, parts: Sequence[int]) -> tuple[int, ...]:
    """Query heads of cards that are to do so much each: 3:1 of 32 heads is 24 and 8. Equal parts are dealt as evenly as
    the groups of heads allow. Raises BadShares for parts that would cut a group, or more of them than there are groups.
    """
    group, groups, total = spec.heads // spec.kv_heads, spec.kv_heads, sum(parts)
    even = len(set(parts)) == 1
    if min(parts) < 1 or len(parts) > groups or (not even and any(groups * part % total for part in parts)):
        many = len(parts) > groups
        said = f"by {len(parts)}" if many else ":".join(map(str, parts))
        each = (
            "is less than one group each"
            if many
            else "would be " + ", ".join(f"{groups * part / total:.3g}" for part in parts) + " groups"
        )
        raise BadShares(
            f"{spec.heads} heads cannot be shared {said}",
            why=f"they come in {groups} groups of {group} that share keys and values; {said} {each}",
            fix=f"give parts that sum to a divisor of {groups}, at most {groups} of them, such as "
            + ":".join(map(str, _even(groups, min(len(parts), groups)))),
        )  # fmt: skip
    counts = _even(groups, len(parts)) if even else [groups * part // total for part in parts]
    return tuple(group * count for count in counts)


def _even(count: int, parts: int) -> list[int]:
    return [count // parts + (i < count % parts) for i in range(parts)]


def _experts(spec: ModelSpec, heads: Sequence[int], experts: Sequence[int]) -> list[tuple[int, int]]:
    if len(experts) != len(heads) or sum(experts) != spec.experts or min(experts, default=0) < 1:
        raise BadShares(
            f"{spec.experts} experts over shares {list(experts)}",
            why=f"{len(heads)} cards share them; the shares sum to {sum(experts)} and each must be at least 1",
            fix=f"give every card an expert, {spec.experts} in all, or leave the experts' shares out to cut their ffn",
        )
    return list(pairwise([0, *accumulate(experts)]))
