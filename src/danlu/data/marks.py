"""Which documents a step that compares them must look at: those that share a mark with another one.

Such a step may have a function `marks`, numbers of every document alone: it never drops one that shares no mark with
another in the same column. Marks are made where documents are cleaned, in parts; what is left to compare is little.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu import atomic, plugins
from danlu.data.document import Document, batches
from danlu.store.hashing import hash_many

FILE = "marks.npz"
BATCH = 1 << 20  # characters marked at once


def of(step: Any) -> Any:
    """The function `marks` of the step of that name or with these options; None if it has none."""
    return getattr(plugins.load("danlu.data.steps", step), "marks", None) if isinstance(step, str) else None


def shared(marks: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether each row has, in any column, what another row has there. Cost: one sort of every column."""
    found = np.zeros(len(marks), bool)
    for column in marks.T:
        order = np.argsort(column)
        same = np.flatnonzero(column[order[1:]] == column[order[:-1]])
        found[order[same]] = found[order[same + 1]] = True
    return found


class Marks:
    """Owns the marks of the documents that pass through it."""

    def __init__(self, steps: Sequence[str]) -> None:
        self._keys: list[bytes] = []
        self._rows: dict[str, list[npt.NDArray[np.uint64]]] = {step: [] for step in steps}
        self._make = {step: of(step) for step in steps}

    def through(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents."""
        if not self._rows:
            yield from documents
            return
        for batch in batches(documents, BATCH):
            self._keys += [document.key.encode() for document in batch]
            for step, rows in self._rows.items():
                rows.append(self._make[step](batch))
            yield from batch

    def save(self, folder: Path) -> None:
        """Write FOLDER/marks.npz: of each step a row for every document, in their store's order. Raises DiskFull."""
        if self._rows:
            places = list(zip(hash_many(self._keys).tolist(), self._keys, strict=True))
            order = sorted(range(len(places)), key=places.__getitem__)
            raw = io.BytesIO()
            np.savez(
                raw,
                allow_pickle=False,
                **{step: np.concatenate(rows)[order] for step, rows in self._rows.items() if rows},
            )
            atomic.write(folder / FILE, raw.getvalue())


def load(folders: Sequence[Path], step: str) -> npt.NDArray[np.uint64]:
    """The marks of a step that `save` wrote in these folders, one after the other."""
    found: list[npt.NDArray[np.uint64]] = []
    for folder in folders:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            found += [arrays[step]] if step in arrays else []  # a part of which nothing is left has none
    return np.concatenate(found) if found else np.empty((0, 0), np.uint64)
