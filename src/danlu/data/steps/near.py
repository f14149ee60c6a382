"""Nearly the same text twice: found by MinHash-LSH, dropped only when the exact Jaccard similarity says so.

A document goes if a document that stays, earlier in hash order, shares at least LEAST of their joint word 5-grams. LSH
alone would be wrong more often than right: with 14 x 8 hashes most candidates lie below 0.7.
Memory: about 8 bytes for each different 5-gram of what stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from danlu.data import minhash
from danlu.data.document import Document, Drop, batches
from danlu.data.sign import sign

WHOLE = True  # must see every document
LEAST = 0.8
BATCH = 1 << 20  # characters hashed at once: the arrays stay near the cache


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Drop documents with an exact Jaccard similarity of LEAST or more to one that stays."""
    buckets: defaultdict[int, list[int]] = defaultdict(list)
    kept: list[tuple[str, minhash.Hashes]] = []
    for batch in batches(documents, BATCH):
        signed = sign([document.text.encode() for document in batch])
        bands = minhash.bands(signed.signatures).tolist()
        for document, band, shingles in zip(batch, bands, np.split(signed.flat, signed.starts[1:]), strict=True):
            grams = np.unique(shingles)
            candidates = sorted({number for each in band for number in buckets[each]})
            twin = next(((kept[n][0], s) for n in candidates if (s := jaccard(kept[n][1], grams)) >= LEAST), None)
            if twin is not None:
                drop(document, f"{twin[1]:.0%} the same as {twin[0]}")
                continue
            for each in band:
                buckets[each].append(len(kept))
            kept.append((document.key, grams))
            yield document


def jaccard(a: minhash.Hashes, b: minhash.Hashes) -> float:
    """Intersection over union of two sorted arrays without repeats; 0.0 if their sizes alone put it below LEAST."""
    small, large = sorted((len(a), len(b)))
    if small < LEAST * large:
        return 0.0
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (small + large - both)
