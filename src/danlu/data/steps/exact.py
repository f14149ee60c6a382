"""The same text twice: the first in hash order stays. A 16-byte digest decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from danlu.data.document import Document, Drop

WHOLE = True  # must see every document


def marks(documents: Sequence[Document]) -> npt.NDArray[np.uint64]:
    """Both halves of every document's digest: (documents, 2)."""
    return np.frombuffer(b"".join(map(_digest, documents)), "<u8").reshape(-1, 2)


def twins(marks: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Of each row the first one that the step would keep in its place: itself, or the one it has the text of."""
    _, first, which = np.unique(marks, axis=0, return_index=True, return_inverse=True)
    found: npt.NDArray[np.int64] = first[which.reshape(-1)]
    return found


def why(first: str) -> str:
    """Why a document goes, given the name of the one that stays."""
    return f"the same text as {first}"


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Drop a text that was seen before, blanks at its ends aside."""
    seen: dict[bytes, str] = {}
    for document in documents:
        first = seen.setdefault(_digest(document), document.key)
        if first == document.key:
            yield document
        else:
            drop(document, why(first))


def _digest(document: Document) -> bytes:
    return blake2b(document.text.strip().encode(), digest_size=16).digest()
