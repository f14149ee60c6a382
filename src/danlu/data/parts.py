"""Cleaning in parts: ranges of the hash order, each by a process of its own, wherever it runs.

A job is a folder with `job.json` (which store, which steps, how many parts). A part is a store beside it; a done one
says so in its manifest: that is the commit log. Whoever runs `python -m danlu.data.parts JOB NUMBER...`, a local
process or a task of a Slurm array, makes the same bytes, and what was done when it was killed is not done again.

Steps that must see every document (`whole` in their file) come after the parts, in one process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import Any

from danlu import atomic
from danlu.data.clean import DROPPED, Spec, cleaned, is_whole
from danlu.data.document import Document, Funnel, from_record
from danlu.data.ingest import Tell
from danlu.errors import PartFailed
from danlu.store.packs import Store

JOB = "job.json"
PART_BYTES = 16 << 20  # of the store: a second or two of work; each part waits for the disk a few times
END = 1 << 64

Run = Callable[[Path, Sequence[int], Tell], None]  # makes the named parts of a job; returns when each is done


def rows(steps: Sequence[Spec]) -> list[Spec]:
    """The first steps, as far as each of them looks at one document alone."""
    return list(takewhile(lambda spec: not is_whole(spec), steps))


def prepare(raw: Path, home: Path, source: str, steps: Sequence[Spec]) -> Path:
    """Write the job of these steps over the store `raw`; returns its folder, which its content names."""
    store = Store(raw)
    job = {"job": 1, "raw": str(raw.resolve()), "source": source, "steps": rows(steps),
           "parts": max(1, -(-store.size // PART_BYTES))}  # fmt: skip
    store.close()
    text = json.dumps(job, ensure_ascii=False)
    folder = home / blake2b(text.encode(), digest_size=8).hexdigest()
    if not (folder / JOB).exists():
        atomic.write(folder / JOB, text.encode())
    return folder


def left(folder: Path) -> list[int]:
    """Numbers of the parts that are not done."""
    return [number for number in range(_job(folder)["parts"]) if not _is_done(_place(folder, number))]


def make(folder: Path, number: int) -> None:
    """Make one part, unless it is done. Raises StoreInUse while another process makes it, and what steps raise."""
    job = _job(folder)
    low, high = (END * at // job["parts"] for at in (number, number + 1))
    store = Store(Path(job["raw"]))
    cleaned(store, _place(folder, number), job["steps"], {"job": folder.name, "number": number}, low=low, high=high)
    store.close()


def run(folder: Path, execute: Run, tell: Tell) -> tuple[Funnel, Iterator[Document], Path]:
    """Have every part made; returns the funnel of them all, their documents in hash order, the list of dropped ones.

    Raises PartFailed when one is not done although the executor returned.
    """
    todo = left(folder)
    if todo:
        execute(folder, todo, tell)
    if undone := left(folder):
        raise PartFailed(
            f"part {undone[0]} of the text was not cleaned", where=str(folder),
            why=f"{len(undone)} of {_job(folder)['parts']} parts are missing",
            fix=f"see what it says: python -m danlu.data.parts {folder} {undone[0]}",
        )  # fmt: skip
    funnel = Funnel()
    stores = [Store(_place(folder, number)) for number in range(_job(folder)["parts"])]
    for store in stores:
        funnel.join(Funnel.from_dict(store.cursor["funnel"]))
    log = folder / DROPPED
    atomic.write(log, b"".join((_place(folder, n).parent / DROPPED).read_bytes() for n in range(len(stores))))
    return funnel, _documents(stores), log


def _documents(stores: Sequence[Store]) -> Iterator[Document]:
    for store in stores:
        for record in store.scan():
            yield from_record(record.key, record.value)
        store.close()


def _job(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / JOB).read_bytes())
    return found


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}" / "store"


def _is_done(place: Path) -> bool:
    if not (place / "manifest.json").exists():
        return False
    store = Store(place)
    store.close()
    return bool(store.done)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        make(Path(sys.argv[1]), int(each))
