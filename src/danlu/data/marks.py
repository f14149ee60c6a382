"""Which documents a step that compares them must look at: those that share a mark with another one.

Such a step may have a function `marks`, numbers of every document alone: it never drops one that shares no mark with
another in the same column. Marks are made where documents are cleaned, in parts; what is left to compare is little.
A step whose marks say all it looks at has also `twins`, which of them are the same, and `why`; then no text is read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu import atomic, plugins
from danlu.data.document import Document, batches
from danlu.store.hashing import hash_many

FILE = "marks.npz"
BATCH = 1 << 20  # characters marked at once
Rows = npt.NDArray[np.uint64]  # (documents, columns)


def of(step: Any) -> Any:
    """The function `marks` of the step of that name or with these options; None if it has none."""
    return getattr(plugins.load("danlu.data.steps", step), "marks", None) if isinstance(step, str) else None


def twins_of(step: Any) -> Any:
    """The step of that name if its marks say what it drops; None if they do not."""
    found = plugins.load("danlu.data.steps", step)
    return found if hasattr(found, "twins") else None


def groups(marks: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Of each row the first one of its group: rows that have, in any column, the same there, and those they share with.

    Cost: one sort of every column, then a few passes over the rows that share something.
    """
    runs = [_runs(column) for column in marks.T]
    first = np.arange(len(marks))
    while True:
        before = first.copy()
        for order, starts, counts in runs:
            first[order] = np.repeat(np.minimum.reduceat(first[order], starts), counts)
        first = first[first]
        if np.array_equal(first, before):
            return first


def _runs(column: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows whose value another one has, equal ones in a row; where each run of them begins; and how many it has."""
    order = np.argsort(column)
    edges = np.flatnonzero(np.diff(column[order])) + 1
    counts = np.diff(edges, prepend=0, append=len(order))
    order, counts = order[np.repeat(counts > 1, counts)], counts[counts > 1]
    return order, np.cumsum(counts) - counts, counts


@dataclass(frozen=True, slots=True)
class Marked:
    """What `Marks.save` wrote, in the store's order, a row for each document.

    marks  of every step; none where nothing is left
    hashes  of the names
    sizes  characters of each text
    ends  where each name ends in `text`, which is UTF-8
    """

    marks: Mapping[str, Rows]
    hashes: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int64]
    text: bytes
    ends: npt.NDArray[np.int64]

    def name(self, row: int) -> str:
        """Name of the document of this row."""
        return self.text[self.ends[row - 1] if row else 0 : self.ends[row]].decode()


class Marks:
    """Owns the marks of the documents that pass through it."""

    def __init__(self, steps: Sequence[str]) -> None:
        self._keys: list[bytes] = []
        self._sizes: list[int] = []
        self._rows: dict[str, list[npt.NDArray[np.uint64]]] = {step: [] for step in steps}
        self._make = {step: of(step) for step in steps}

    def through(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents."""
        if not self._rows:
            yield from documents
            return
        for batch in batches(documents, BATCH):
            self._keys += [document.key.encode() for document in batch]
            self._sizes += [len(document.text) for document in batch]
            for step, rows in self._rows.items():
                rows.append(self._make[step](batch))
            yield from batch

    def save(self, folder: Path, read: Sequence[bytes] | None = None) -> None:
        """Write FOLDER/marks.npz: of each step a row for every document, in their store's order. Raises DiskFull.

        read  names of all documents, of which those that passed through are left
        The file is the part's, which makes it last (parts.keep).
        """
        if self._rows or read is not None:
            hashes = hash_many(self._keys)
            places = list(zip(hashes.tolist(), self._keys, strict=True))
            order = sorted(range(len(places)), key=places.__getitem__)
            raw = io.BytesIO()
            every = {} if read is None else {"read": hash_many(read)}
            np.savez(
                raw,
                allow_pickle=False,
                names=np.array(bytearray().join(self._keys[each] for each in order), np.uint8),
                hashes=hashes[order],
                ends=np.cumsum([len(self._keys[each]) for each in order], dtype=np.int64),
                sizes=np.array(self._sizes, np.int64)[order],
                **every,
                **{step: np.concatenate(rows)[order] for step, rows in self._rows.items() if rows},
            )
            atomic.write(folder / FILE, raw.getvalue(), lasting=False)


def read(folder: Path) -> Rows:
    """The hashes of the names that `save` was told of."""
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        found: Rows = arrays["read"]
        return found


def load(folder: Path, steps: Sequence[str]) -> Marked:
    """What `save` wrote there, the marks of these steps."""
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        rows = {step: arrays[step] for step in steps if step in arrays}
        return Marked(rows, arrays["hashes"], arrays["sizes"], arrays["names"].tobytes(), arrays["ends"])
