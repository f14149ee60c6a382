"""Nearly the same text twice: found by MinHash-LSH, dropped only when the exact Jaccard similarity says so.

A document goes if a document that stays, earlier in hash order, shares at least LEAST of their joint word 5-grams. LSH
alone would be wrong more often than right: with datatrove's 14 bands of 8 most candidates lie below 0.7, and 7.6% of
the pairs at LEAST are missed. Since every candidate is compared, there may be more of them: 18 bands of 6 miss 0.4%
there, by 112 permutations or, in 0.7 of their time, by one.
Memory: about 8 bytes for each 5-gram of what is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from danlu.data import folds, minhash, numbers
from danlu.data.document import Document, Drop, Step, batches
from danlu.data.sign import Signed, sign
from danlu.errors import BadValue

WHOLE = True  # must see every document
LEAST = 0.8
DEFAULT = {"numbers": "differ", "letters": "differ", "signing": "onepass"}
KNOWN = {"numbers": ("same", "differ"), "letters": ("same", "differ"), "signing": ("onepass", "permutations")}
BATCH = 1 << 20  # characters hashed at once: the arrays stay near the cache


def marks(documents: Sequence[Document]) -> minhash.Hashes:
    """The bands of every document: (documents, bands)."""
    return _signed([document.text.encode() for document in documents], True)[1]


def _signed(texts: Sequence[bytes], once: bool) -> tuple[Signed, minhash.Hashes]:
    signed = sign(texts, once=once)
    return signed, minhash.bands(signed.signatures)


def configured(options: Any) -> Step:
    """`near: {numbers: same, letters: same, signing: onepass}`, or some of them. Raises BadValue.

    numbers  same: documents that differ in numbers are compared as if they did not; differ: they are not the same
    letters  the same for case, diacritics and signs: with both, documents are compared as datatrove does
    signing  onepass: by one permutation; permutations: by 112 of them, as datatrove; 18 bands of 6 of either
    """
    given = {**DEFAULT, **options} if isinstance(options, dict) else {}
    if set(given) != set(KNOWN) or any(given[name] not in values for name, values in KNOWN.items()):
        known = ", ".join(f"{name}: {' or '.join(values)}" for name, values in KNOWN.items())
        raise BadValue("near does not know that option", why=f"it was given {options!r}; {known}",
                       fix="near: {numbers: same}")  # fmt: skip
    return partial(step, same_numbers=given["numbers"] == "same", same_letters=given["letters"] == "same",
                   once=given["signing"] == "onepass")  # fmt: skip


def step(documents: Iterable[Document], drop: Drop, same_numbers: bool = False, same_letters: bool = False,
         once: bool = True) -> Iterator[Document]:  # fmt: skip
    """Drop documents with an exact Jaccard similarity of LEAST or more to one that stays; options as `configured`."""
    buckets: defaultdict[int, list[int]] = defaultdict(list)
    kept: list[tuple[str, _Grams]] = []
    for batch in batches(documents, BATCH):
        texts = [document.text.encode() for document in batch]
        texts = folds.same(texts) if same_letters else texts
        signed, bands = _signed(numbers.same(texts) if same_numbers else texts, once)
        parts = np.split(signed.flat, signed.starts[1:])
        for document, band, shingles in zip(batch, bands.tolist(), parts, strict=True):
            grams = _Grams(shingles)
            candidates = sorted({number for each in band for number in buckets[each]})
            alike = ((kept[n][0], jaccard(kept[n][1].different(), grams.different())) for n in candidates)
            twin = next((each for each in alike if each[1] >= LEAST), None)
            if twin is not None:
                drop(document, f"{twin[1]:.0%} the same as {twin[0]}")
                continue
            for each in band:
                buckets[each].append(len(kept))
            kept.append((document.key, grams))
            yield document


class _Grams:
    """Owns the 5-grams of a document; most are never compared, so they are sorted when they are first asked for."""

    def __init__(self, shingles: minhash.Hashes) -> None:
        self._hashes, self._is_set = shingles, False

    def different(self) -> minhash.Hashes:
        """Sorted, each once."""
        if not self._is_set:
            self._hashes, self._is_set = np.sort(self._hashes), True
            self._hashes = self._hashes[np.diff(self._hashes, prepend=self._hashes[:1] - np.uint64(1)) != 0]
        return self._hashes


def jaccard(a: minhash.Hashes, b: minhash.Hashes) -> float:
    """Intersection over union of two sorted arrays without repeats; 0.0 if their sizes alone put it below LEAST."""
    small, large = sorted((len(a), len(b)))
    if small < LEAST * large:
        return 0.0
    every = np.concatenate((a, b))
    every.sort(kind="stable")  # which merges two that are sorted: 6 us for 1,000 each, numpy's intersect1d 25 us
    both = int(np.count_nonzero(every[1:] == every[:-1]))
    return both / (small + large - both)
