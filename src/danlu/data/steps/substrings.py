"""Runs of words that many documents share go from all but the first: `substrings: {words: 50}`.

Lee et al. 2022 (arXiv:2107.06499) take 50 tokens: what stands there twice is quoted, copied or made by a machine. A run
goes where it stood in an earlier document, in hash order, or earlier in the same one, word for word but for the case of
ASCII letters and for signs between words; a Chinese character counts as a word.
Memory: about 13 bytes for each word (2 for each byte of English text).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data import minhash
from danlu.data.document import Document, Drop, Step, batches
from danlu.data.runs import Seen
from danlu.data.sign import sign
from danlu.errors import BadValue

WHOLE = True  # must see every document
WORDS, LEAST_WORDS = 50, 10  # fewer are common phrases
LEAST_LEFT = 0.2  # of the characters; of a document that loses more nothing is left to read
BATCH = 1 << 20  # characters hashed at once


def configured(options: Any) -> Step:
    """`substrings: {words: 50}`. Raises BadValue."""
    given = options if isinstance(options, dict) else {"words": options}
    words = given.get("words", WORDS)
    if set(given) - {"words"} or not isinstance(words, int) or words < LEAST_WORDS:
        raise BadValue("substrings needs a number of words", why=f"it was given {options!r}; words: from {LEAST_WORDS}",
                       fix="substrings: {words: 50}")  # fmt: skip

    def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
        seen = Seen(words)
        for batch in batches(documents, BATCH):
            signed = sign([document.text.encode() for document in batch])
            for document, shingles in zip(batch, np.split(signed.flat, signed.starts[1:]), strict=True):
                gone = seen.repeated(shingles)
                text = without(document.text, gone) if gone.any() else document.text
                if len(text) < LEAST_LEFT * len(document.text):
                    lost = 1 - len(text) / len(document.text)
                    drop(document, f"{lost:.0%} in runs of {words} words that stood before, limit {1 - LEAST_LEFT:.0%}")
                else:
                    yield replace(document, text=text) if gone.any() else document

    return step


step = configured({})


def without(text: str, gone: npt.NDArray[np.bool_]) -> str:
    """The text without the words that are gone, and without what stands between each of them and the next word."""
    begins = [found.start() for found in minhash.WORD.finditer(text)]
    assert len(begins) == len(gone), "words and shingles differ"
    edges = np.flatnonzero(np.diff(gone.astype(np.int8), prepend=0, append=0)).tolist()
    kept, at = [], 0
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        kept.append(text[at : begins[first]])
        at = begins[after] if after < len(begins) else len(text)
    return "".join([*kept, text[at:]])
