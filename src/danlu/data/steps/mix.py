"""Sources in other shares than they have: `mix: {books: 2, forum: 0.5}` by the first part of a document's name.

2 takes every document twice, 0.5 every second one, by a hash of its name: always the same ones. Others stay once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from danlu.data.document import COPY, Document, Drop, Step
from danlu.errors import BadValue


def configured(options: Any) -> Step:
    """Raises BadValue unless `options` gives each name a weight of 0 or more."""
    if not isinstance(options, dict) or not all(
        isinstance(each, int | float) and each >= 0 for each in options.values()
    ):
        raise BadValue(
            "mix needs a weight for each name", why=f"it was given {options!r}", fix="mix: {books: 2, forum: 0.5}"
        )
    weights = {str(name): float(weight) for name, weight in options.items()}

    def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            weight = next((w for name, w in weights.items() if _under(document.key, name)), 1.0)
            times = int(weight) + (place(document.key) < weight % 1)
            if not times:
                drop(document, f"its source has weight {weight:g}")
            for copy in range(times):
                yield document if copy == 0 else replace(document, key=f"{document.key}{COPY}{copy + 1}")

    return step


def place(key: str) -> float:
    """A number in [0, 1) that a name always has."""
    return int.from_bytes(blake2b(key.encode(), digest_size=6, person=b"mix").digest(), "big") / 2**48


def _under(key: str, name: str) -> bool:
    return key == name or key.startswith((f"{name}/", f"{name}#"))
