"""One rank's weights and pages of a model that several processes share: cut as danlu/shares.py says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from danlu import families, recipe
from danlu.kernels import q4
from danlu.kernels.cut import cut
from danlu.kernels.interpret import Weight
from danlu.kernels.program import EDGES, FREQUENCIES
from danlu.model import quantized
from danlu.nouns import ModelSpec
from danlu.shares import Share

WHOLE = ("embed.weight", FREQUENCIES)  # every rank looks words up itself: of the table only the rows said are in memory


def grain(folder: Path) -> int:
    """What the widths of a model are cut at multiples of: the blocks of 4-bit weights stay whole."""
    return q4.BLOCK if quantized.version_of(families.read(folder), folder) else 1


def part(spec: ModelSpec, name: str, weight: Weight, share: Share) -> Weight | None:
    """A rank's part of a weight by our name, None for one that others hold.

    Raises BadShares where a cut falls inside a block of 4-bit weights.
    """
    if name in WHOLE:
        return weight
    if not share.holds(recipe.weight_of(spec, name)):
        return None
    span = share.span(spec, name)
    return weight if span is None else cut(weight, *span)


def extras(spec: ModelSpec, table: Weight, shares: Sequence[Share], rank: int) -> dict[str, Weight]:
    """What only ranks have: where each one's vocabulary begins, and the own rows of a head that is the embedding."""
    edges = torch.tensor([*(each.vocab[0] for each in shares), shares[-1].vocab[1]], dtype=torch.float32)
    return {EDGES: edges} | ({"head.weight": cut(table, 0, *shares[rank].vocab)} if spec.tied else {})


def own(spec: ModelSpec, weights: Mapping[str, Weight], shares: Sequence[Share], rank: int) -> dict[str, Weight]:
    """What `lower(spec, shares[rank])` reads, from all weights of the model. Raises what `part` raises."""
    parts = {name: part(spec, name, weight, shares[rank]) for name, weight in weights.items()}
    found = {name: weight for name, weight in parts.items() if weight is not None}
    return found | extras(spec, weights["embed.weight"], shares, rank)


def cache_widths(spec: ModelSpec, share: Share) -> tuple[int, tuple[int, ...]]:
    """Key-value heads of one rank, and the widths of what its convolutions over time look back at."""
    start, stop = share.kv_heads
    channels = share.filter[1] - share.filter[0]
    return stop - start, (spec.hidden, channels) if "lfa" in spec.recipe else ()
