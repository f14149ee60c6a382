"""One rank's weights and pages of a model that several processes share: cut as danlu/shares.py says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from danlu import recipe
from danlu.kernels.cut import cut
from danlu.kernels.interpret import Weight
from danlu.kernels.program import EDGES, FREQUENCIES
from danlu.nouns import ModelSpec
from danlu.shares import Share


def own(spec: ModelSpec, weights: Mapping[str, Weight], shares: Sequence[Share], rank: int) -> dict[str, Weight]:
    """What `lower(spec, shares[rank])` reads, from all weights of the model by our names.

    Every rank looks words up in the whole table, of which only the rows of words said are in memory; the head,
    tied or not, is cut by the vocabulary. Raises BadShares where a cut falls inside a block of 4-bit weights.
    """
    share = shares[rank]
    found: dict[str, Weight] = {}
    for name, weight in weights.items():
        if name in ("embed.weight", FREQUENCIES):
            found[name] = weight
        elif share.holds(recipe.weight_of(spec, name)):
            span = share.span(spec, name)
            found[name] = weight if span is None else cut(weight, *span)
    if spec.tied:
        found["head.weight"] = cut(weights["embed.weight"], 0, *share.vocab)
    edges = [each.vocab[0] for each in shares] + [shares[-1].vocab[1]]
    return {**found, EDGES: torch.tensor(edges, dtype=torch.float32)}


def cache_widths(spec: ModelSpec, share: Share) -> tuple[int, tuple[int, ...]]:
    """Key-value heads of one rank, and the widths of what its convolutions over time look back at."""
    start, stop = share.kv_heads
    channels = share.filter[1] - share.filter[0]
    return stop - start, (spec.hidden, channels) if "lfa" in spec.recipe else ()
