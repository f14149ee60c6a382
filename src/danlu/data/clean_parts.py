"""Cleaning in parts. A part is a store; a done one says so in its manifest.

Steps that look at one document alone run in the parts. Those that compare documents come after them, in one process,
which looks at those that share a mark (marks.py) and lets the others pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from danlu import atomic
from danlu.data import marks, parts
from danlu.data.clean import DROPPED, Before, Spec, cleaned, is_whole, pipeline
from danlu.data.document import Document, Funnel, from_record
from danlu.data.ingest import Tell
from danlu.store.batch import Batch
from danlu.store.packs import Store


def rows(steps: Sequence[Spec]) -> list[Spec]:
    """The first steps, as far as each of them looks at one document alone."""
    return list(takewhile(lambda spec: not is_whole(spec), steps))


def compared(steps: Sequence[Spec]) -> list[str]:
    """The steps that follow, as far as marks say what they must look at."""
    rest = steps[len(rows(steps)) :]
    return [spec for spec in takewhile(lambda spec: marks.of(spec) is not None, rest) if isinstance(spec, str)]


def run(raw: Path, home: Path, source: str, steps: Sequence[Spec], execute: parts.Run, tell: Tell) -> Before:
    """Do the first steps over the store `raw` in parts; the job stands in `home`. Raises PartFailed."""
    first, then = rows(steps), compared(steps)
    folder = parts.prepare(home, "clean", raw, {"source": source, "steps": first, "compares": then})
    folders = parts.run(folder, execute, tell)
    funnel, packs = Funnel(), list[Path]()
    for each in folders:
        store = Store(each / "store")
        funnel.join(Funnel.from_dict(store.cursor["funnel"]))
        packs += [each / "store" / name for name in store.names]
        store.close()
    log = folder / DROPPED
    atomic.write(log, b"".join((each / DROPPED).read_bytes() for each in folders))
    rest = steps[len(first) + len(then) :]
    return Before(funnel, log, packs, partial(_dropped, folders, then), partial(_left, folders, then), rest)


def make(folder: Path, job: parts.Job, number: int) -> None:
    """See parts.Kind. Raises StoreInUse while another process makes it, and what steps raise."""
    bits, prefix = parts.range_of(job, number)
    store = Store(Path(job["store"]))
    cleaned(store, parts.place(folder, number) / "store", job["steps"], {"job": folder.name, "number": number},
            bits=bits, prefix=prefix, marks=job["compares"])  # fmt: skip
    store.close()


def is_done(folder: Path, number: int) -> bool:
    """See parts.Kind."""
    return parts.is_done_store(parts.place(folder, number) / "store")


def _left(folders: Sequence[Path], steps: Sequence[str], funnel: Funnel) -> Iterator[Document]:
    """The documents of all parts but those that steps drop."""
    gone = set(_dropped(folders, steps, funnel))
    for batch in _batches(folders):
        yield from (from_record(record.key, record.value) for record in batch.records() if record.key not in gone)


def _dropped(folders: Sequence[Path], steps: Sequence[str], funnel: Funnel) -> list[bytes]:
    """The names of documents that steps drop, which look at what shares a mark with another alone."""
    if not steps:
        return []
    some = reduce(np.logical_or, (marks.shared(marks.load(folders, step)) for step in steps))
    asked: list[bytes] = []
    left = {document.key.encode() for document in pipeline(_asked(folders, some, asked), steps, funnel)}
    return [key for key in asked if key not in left]


def _asked(folders: Sequence[Path], some: npt.NDArray[np.bool_], names: list[bytes]) -> Iterator[Document]:
    """The chosen documents of all parts; their names are added to `names`."""
    at = 0
    for batch in _batches(folders):
        wanted = np.flatnonzero(some[at : at + len(batch)])
        at += len(batch)
        for record in batch.take(wanted).records():
            names.append(record.key)
            yield from_record(record.key, record.value)
    assert at == len(some), "marks and records differ"


def _batches(folders: Sequence[Path]) -> Iterator[Batch]:
    for folder in folders:
        store = Store(folder / "store")
        for batch in store.batches():
            yield batch.present()
        store.close()
