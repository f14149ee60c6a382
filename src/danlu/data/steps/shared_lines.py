"""Lines that many documents share: licence heads, menus, footers. The first documents keep them, later ones lose them.

As CCNet does with paragraphs (Wenzek et al. 2019, arXiv:1911.00359, 3.1), but a line may stand in a few documents.
Memory: about 100 bytes for each different line of what passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from danlu.data.document import Document, Drop

WHOLE = True  # must see every document
MOST = 3  # documents that keep a line
LEAST = 20  # characters of a line that is counted: a brace or "Example:" is nobody's boilerplate
LEAST_LEFT = 0.5  # of the characters; a document that loses more was boilerplate


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Take lines out that MOST earlier documents have; drop a document of which less than LEAST_LEFT is left."""
    seen: dict[int, int] = {}
    for document in documents:
        kept, before = [], set()
        for line in document.text.split("\n"):
            bare = line.strip()
            key = hash(bare)
            if len(bare) < LEAST or seen.get(key, 0) < MOST:
                kept.append(line)
            if len(bare) >= LEAST:
                before.add(key)
        for key in before:
            seen[key] = seen.get(key, 0) + 1
        text = "\n".join(kept)
        if len(text) < LEAST_LEFT * len(document.text):
            lost = 1 - len(text) / len(document.text)
            drop(document, f"{lost:.0%} in lines that {MOST} documents before have, limit {1 - LEAST_LEFT:.0%}")
        else:
            yield document if len(text) == len(document.text) else replace(document, text=text)
