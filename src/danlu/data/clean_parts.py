"""Cleaning in parts. A part is a store; a done one says so in its manifest.

Steps that look at one document alone run in the parts. Those that compare documents come after them, in one process,
which looks at those that share a mark (marks.py) and lets the others pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from itertools import chain, takewhile
from pathlib import Path

import numpy as np

from danlu import atomic
from danlu.data import marks, parts
from danlu.data.clean import DROPPED, Before, Spec, cleaned, is_whole, pipeline
from danlu.data.document import Document, Funnel, from_record
from danlu.data.ingest import Tell
from danlu.store.batch import Record
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
    funnel = Funnel()
    for each in folders:
        store = Store(each / "store")
        funnel.join(Funnel.from_dict(store.cursor["funnel"]))
        store.close()
    log = folder / DROPPED
    atomic.write(log, b"".join((each / DROPPED).read_bytes() for each in folders))
    return Before(funnel, log, partial(_compared, folders, then), steps[len(first) + len(then) :])


def make(folder: Path, job: parts.Job, number: int) -> None:
    """See parts.Kind. Raises StoreInUse while another process makes it, and what steps raise."""
    low, high = parts.bounds(job, number)
    store = Store(Path(job["store"]))
    cleaned(store, parts.place(folder, number) / "store", job["steps"], {"job": folder.name, "number": number},
            low=low, high=high, marks=job["compares"])  # fmt: skip
    store.close()


def is_done(folder: Path, number: int) -> bool:
    """See parts.Kind."""
    place = parts.place(folder, number) / "store"
    if not (place / "manifest.json").exists():
        return False
    store = Store(place)
    store.close()
    return store.done


def _compared(folders: Sequence[Path], steps: Sequence[str], funnel: Funnel) -> Iterator[Document]:
    """The documents of all parts but those that steps drop, which look at what shares a mark with another alone."""
    if not steps:
        yield from (from_record(record.key, record.value) for record in _records(folders))
        return
    some = reduce(np.logical_or, (marks.shared(marks.load(folders, step)) for step in steps))
    asked = (from_record(r.key, r.value) for r, is_asked in zip(_records(folders), some, strict=True) if is_asked)
    left = {document.key.encode() for document in pipeline(asked, steps, funnel)}
    for record, is_asked in zip(_records(folders), some, strict=True):
        if not is_asked or record.key in left:
            yield from_record(record.key, record.value)


def _records(folders: Sequence[Path]) -> Iterator[Record]:
    return chain.from_iterable(map(_of, folders))


def _of(folder: Path) -> Iterator[Record]:
    store = Store(folder / "store")
    yield from store.scan()
    store.close()
