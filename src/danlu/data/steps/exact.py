"""The same text twice: the first in hash order stays. A 16-byte digest decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from danlu.data.document import Document, Drop

WHOLE = True  # must see every document


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Drop a text that was seen before, blanks at its ends aside."""
    seen: dict[bytes, str] = {}
    for document in documents:
        digest = blake2b(document.text.strip().encode(), digest_size=16).digest()
        first = seen.setdefault(digest, document.key)
        if first == document.key:
            yield document
        else:
            drop(document, f"the same text as {first}")
