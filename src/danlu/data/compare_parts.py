"""Comparing in parts. Documents that share a mark are of one group, and so are those that share one with them.

What a step that compares documents drops depends on documents of the same group alone (marks.py). So a part is some
whole groups, of any hashes, and what all parts drop is what one process would.
"""

from __future__ import annotations

import heapq
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from danlu import atomic
from danlu.data import marks, parts
from danlu.data.clean import DROPPED, Spec, pipeline
from danlu.data.document import Document, Funnel, from_record
from danlu.data.ingest import Tell
from danlu.store.packs import Store

NAMES = "names.json"  # of a part: `cleaned`, folders of cleaned parts, and `names`: [which of them, name] in hash order
AT_ONCE = 256  # documents of a part that are read at once, from the cleaned parts that they are in
# Characters of a part. Those that share a mark take longer than others: 2 MB of texts that are nearly alike 0.24 s.
LEAST_SIZE, MOST_SIZE = 1 << 20, 1 << 30
OPENED_SIZE = 64 << 10  # for each cleaned part: to open one takes as long as to compare a quarter of this


def run(folders: Sequence[Path], home: Path, steps: Sequence[Spec], execute: parts.Run, tell: Tell,
        funnel: Funnel) -> list[bytes]:  # fmt: skip
    """The names of the documents that steps drop of what cleaned parts left; `funnel` counts them, in hash order.

    folders  of the cleaned parts; no hash of a name is in two of them
    The job stands in `home` and is removed when it is done. Raises PartFailed, DiskFull.
    """
    if not steps:
        return []
    rows = _Rows([marks.load(each, [str(step) for step in steps]) for each in folders])
    drops, rest = _twins(rows, steps)
    most = min(max(LEAST_SIZE, len(folders) * OPENED_SIZE), MOST_SIZE)
    shares = [rows.left[share] for share in _shares(rows.groups(rest), rows.sizes[rows.left], most)] if rest else []
    if shares:
        record = {"cleaned": [str(each.resolve()) for each in (folders[0].parent, folders[-1])], "steps": list(rest)}
        folder = parts.begin(home, "compare", len(shares), record)
        cleaned = [str(each.resolve()) for each in folders]
        places: dict[str, int] = {}
        for number, share in enumerate(shares):
            names = rows.names(share)
            places.update(zip((name for _, name in names), share.tolist(), strict=True))
            said = json.dumps({"cleaned": cleaned, "names": names}, ensure_ascii=False)
            atomic.write(parts.place(folder, number) / NAMES, said.encode(), lasting=False)  # written by every call
        made = parts.run(folder, execute, lambda words, share: tell(f"comparing, {words}", share))
        found = (json.loads(line) for each in made for line in (each / DROPPED).read_bytes().splitlines())
        drops += [(places[drop["key"]], drop["rule"], drop["key"], drop["why"]) for drop in found]
        shutil.rmtree(folder)
    drops.sort()
    for _, rule, key, why in drops:
        funnel.drop(rule, key, why)
    return [key.encode() for _, _, key, _ in drops]


class _Rows:
    """Owns the marks of all cleaned parts, a row for each document in hash order, and which rows are left."""

    def __init__(self, found: Sequence[marks.Marked]) -> None:
        self._found = found
        self._starts = np.cumsum([0, *(len(each.sizes) for each in found)])
        self._order = np.argsort(np.concatenate([each.hashes for each in found]), kind="stable")
        self.sizes = np.concatenate([each.sizes for each in found])[self._order]
        self.left = np.arange(len(self.sizes))

    def marks(self, step: str) -> marks.Rows:
        """Of the rows that are left."""
        every = [each.marks[step] for each in self._found if step in each.marks]
        return np.concatenate(every)[self._order[self.left]] if every else np.empty((0, 1), np.uint64)

    def groups(self, steps: Sequence[Spec]) -> npt.NDArray[np.int64]:
        """Of each row that is left the first one of its group."""
        return marks.groups(np.hstack([self.marks(str(step)) for step in steps]))

    def names(self, rows: npt.NDArray[np.int64]) -> list[tuple[int, str]]:
        """The part that each of these rows is in, and its document's name."""
        rows = self._order[rows]
        of = np.searchsorted(self._starts, rows, side="right") - 1
        pairs = zip(of.tolist(), (rows - self._starts[of]).tolist(), strict=True)
        return [(part, self._found[part].name(row)) for part, row in pairs]


def _twins(rows: _Rows, steps: Sequence[Spec]) -> tuple[list[tuple[int, str, str, str]], Sequence[Spec]]:
    """What the first steps drop, as far as marks alone say so: row, rule, name and why; and the steps that are left."""
    drops: list[tuple[int, str, str, str]] = []
    for number, step in enumerate(steps):
        module = marks.twins_of(step)
        if module is None:
            return drops, steps[number:]
        first = rows.left[module.twins(rows.marks(str(step)))]
        gone = first != rows.left
        asked = np.unique([rows.left[gone], first[gone]])
        named = dict(zip(asked.tolist(), (name for _, name in rows.names(asked)), strict=True))
        pairs = zip(rows.left[gone].tolist(), first[gone].tolist(), strict=True)
        drops += [(row, str(step), named[row], module.why(named[stays])) for row, stays in pairs]
        rows.left = rows.left[~gone]
    return drops, ()


def make(folder: Path, job: parts.Job, number: int) -> parts.Finish:
    """See parts.Kind."""
    if is_done(folder, number):
        return lambda: None
    place, log = parts.place(folder, number), io.BytesIO()
    for _ in pipeline(_documents(place), job["steps"], Funnel(log=log)):
        pass
    return partial(atomic.write, place / DROPPED, log.getvalue())


def is_done(folder: Path, number: int) -> bool:
    """See parts.Kind."""
    return (parts.place(folder, number) / DROPPED).exists()


def _shares(groups: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], most: int) -> list[npt.NDArray[np.int64]]:
    """The rows of each part, rising: groups of two and more, the largest first to the part with the least text."""
    own, group = np.unique(groups, return_inverse=True)
    weights = np.bincount(group, sizes, len(own))
    many = np.flatnonzero(np.bincount(group, minlength=len(own)) > 1)
    count = -(-int(weights[many].sum()) // most)
    heap = [(0.0, number) for number in range(min(count, len(many)))]
    part = np.full(len(own), -1)
    for each in many[np.argsort(-weights[many], kind="stable")].tolist():
        weight, number = heap[0]
        part[each] = number
        heapq.heapreplace(heap, (weight + weights[each], number))
    of = part[group]
    return [np.flatnonzero(of == number) for number in range(len(heap))]


def _documents(place: Path) -> Iterator[Document]:
    said = json.loads((place / NAMES).read_bytes())
    every = [(which, name.encode()) for which, name in said["names"]]
    with ExitStack() as opened:
        stores = {which: opened.enter_context(closing(Store(Path(said["cleaned"][which]) / "store")))
                  for which in sorted({which for which, _ in every})}  # fmt: skip
        for start in range(0, len(every), AT_ONCE):
            some = every[start : start + AT_ONCE]
            found: dict[bytes, bytes | None] = {}
            for number in sorted({which for which, _ in some}):
                keys = [key for which, key in some if which == number]
                found.update(zip(keys, stores[number].get_many(keys), strict=True))
            for _, key in some:
                value = found.pop(key)
                assert value is not None, "marks and records differ"
                yield from_record(key, value)
