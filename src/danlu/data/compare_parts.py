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
from pathlib import Path

import numpy as np
import numpy.typing as npt

from danlu import atomic
from danlu.data import marks, parts
from danlu.data.clean import DROPPED, Spec, pipeline
from danlu.data.document import Document, Funnel, from_record
from danlu.data.ingest import Tell
from danlu.store.packs import Store

NAMES = "names.json"  # of a part: [number of a cleaned part, names of documents in it], in hash order
LEAST_SIZE, MOST_SIZE = 4 << 20, 1 << 30  # characters of a part
OPENED_SIZE = 256 << 10  # for each cleaned part: to open one takes as long as to compare a third of this


def run(cleaned: Path, steps: Sequence[Spec], execute: parts.Run, tell: Tell, funnel: Funnel) -> list[bytes]:
    """The names of the documents that steps drop of what the job `cleaned` left; `funnel` counts them, in hash order.

    The job stands beside that one and is removed when it is done. Raises PartFailed, DiskFull.
    """
    if not steps:
        return []
    folders = [parts.place(cleaned, number) for number in range(parts.job_of(cleaned)["parts"])]
    found = [marks.load(each, [str(step) for step in steps]) for each in folders]
    sizes = np.concatenate([each.sizes for each in found])
    groups = marks.groups(np.concatenate([each.marks for each in found if len(each.sizes)] or [found[0].marks]))
    most = min(max(LEAST_SIZE, len(folders) * OPENED_SIZE), MOST_SIZE)
    shares = _shares(groups, sizes, most)
    if not shares:
        return []
    folder = parts.begin(cleaned.parent, "compare", len(shares), {"cleaned": str(cleaned.resolve()), "steps": steps})
    starts = np.cumsum([0, *(len(each.sizes) for each in found)])
    places: dict[str, int] = {}
    for number, rows in enumerate(shares):
        of = np.searchsorted(starts, rows, side="right") - 1
        names = [[at, found[at].names((rows[of == at] - starts[at]).tolist())] for at in np.unique(of).tolist()]
        places.update(zip((name for _, some in names for name in some), rows.tolist(), strict=True))
        atomic.write(parts.place(folder, number) / NAMES, json.dumps(names, ensure_ascii=False).encode())
    made = parts.run(folder, execute, lambda words, share: tell(f"comparing, {words}", share))
    drops = [json.loads(line) for each in made for line in (each / DROPPED).read_bytes().splitlines()]
    drops.sort(key=lambda drop: places[drop["key"]])
    for drop in drops:
        funnel.drop(drop["rule"], drop["key"], drop["why"])
    shutil.rmtree(folder)
    return [drop["key"].encode() for drop in drops]


def make(folder: Path, job: parts.Job, number: int) -> None:
    """See parts.Kind."""
    if is_done(folder, number):
        return
    place, log = parts.place(folder, number), io.BytesIO()
    for _ in pipeline(_documents(Path(job["cleaned"]), place), job["steps"], Funnel(log=log)):
        pass
    atomic.write(place / DROPPED, log.getvalue())


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


def _documents(cleaned: Path, place: Path) -> Iterator[Document]:
    for number, names in json.loads((place / NAMES).read_bytes()):
        store = Store(parts.place(cleaned, number) / "store")
        keys = [name.encode() for name in names]
        for key, value in zip(keys, store.get_many(keys), strict=True):
            assert value is not None, "marks and records differ"
            yield from_record(key, value)
        store.close()
