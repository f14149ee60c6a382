"""Work on a store in parts: ranges of the hash order, each by a process of its own, wherever it runs.

A job is a folder with `job.json`: what is done (a file named in KINDS), with which store, in how many parts. A done
part leaves a file there: that is the commit log. Whoever runs `python -m danlu.data.parts JOB NUMBER...`, a local
process or a task of a Slurm array, makes the same bytes, and what was done when it was killed is not done again.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from danlu import atomic
from danlu.data.document import Document, from_record
from danlu.data.ingest import Tell
from danlu.errors import PartFailed
from danlu.store.packs import Store

JOB = "job.json"
VERSION = 2
KINDS = {"clean": "danlu.data.clean_parts", "encode": "danlu.data.encode_parts"}
PART_BYTES = 16 << 20  # of the store: a second or two of work; each part waits for the disk a few times
LEAST_PARTS, LEAST_BYTES = 32, 1 << 20  # of a smaller store: enough parts that no process waits long for the last one

Run = Callable[[Path, Sequence[int], Tell], None]  # makes the named parts of a job; returns when each is done
Job = Mapping[str, Any]


class Kind(Protocol):
    """A file of KINDS."""

    def make(self, folder: Path, job: Job, number: int) -> None:
        """Make one part, unless it is done."""

    def is_done(self, folder: Path, number: int) -> bool:
        """Whether it is."""


def prepare(home: Path, kind: str, store: Path, record: Mapping[str, Any]) -> Path:
    """Write a job over a store; returns its folder, which its content names. record: what the parts must know.

    Parts are a power of two, so that the hashes of each share their first bits and its packs cover no others.
    """
    opened = Store(store)
    least = max(1, -(-opened.size // PART_BYTES), min(LEAST_PARTS, opened.size // LEAST_BYTES))
    parts = 1 << (least - 1).bit_length()
    opened.close()
    job = {"job": VERSION, "does": kind, "store": str(store.resolve()), "parts": parts, **record}
    text = json.dumps(job, ensure_ascii=False)
    folder = home / blake2b(text.encode(), digest_size=8).hexdigest()
    if not (folder / JOB).exists():
        atomic.write(folder / JOB, text.encode())
    return folder


def left(folder: Path) -> list[int]:
    """Numbers of the parts that are not done."""
    job = job_of(folder)
    kind = _kind(job)
    return [number for number in range(job["parts"]) if not kind.is_done(folder, number)]


def make(folder: Path, number: int) -> None:
    """Make one part, unless it is done. Raises StoreInUse while another process makes it, and what its work raises."""
    job = job_of(folder)
    _kind(job).make(folder, job, number)


def run(folder: Path, execute: Run, tell: Tell) -> list[Path]:
    """Have every part made; returns their folders, in order.

    Raises PartFailed when one is not done although the executor returned.
    """
    todo, parts = left(folder), job_of(folder)["parts"]
    if todo:
        execute(folder, todo, tell)
    if undone := left(folder):
        raise PartFailed(
            f"part {undone[0]} of the text was not made", where=str(folder),
            why=f"{len(undone)} of {parts} parts are missing",
            fix=f"see what it says: python -m danlu.data.parts {folder} {undone[0]}",
        )  # fmt: skip
    return [place(folder, number) for number in range(parts)]


def place(folder: Path, number: int) -> Path:
    """The folder of a part."""
    return folder / f"{number:04d}"


def job_of(folder: Path) -> Job:
    """What `prepare` wrote."""
    found: Job = json.loads((folder / JOB).read_bytes())
    return found


def bits(job: Job) -> int:
    """How many first bits of their hash the records of a part share: they are the part's number."""
    return int(job["parts"]).bit_length() - 1


def documents(store: Store, job: Job, number: int) -> Iterator[Document]:
    """The documents of a part, in hash order."""
    shift = 64 - bits(job)
    for record in takewhile(lambda record: record.hash >> shift == number, store.scan(number << shift)):
        yield from_record(record.key, record.value)


def _kind(job: Job) -> Kind:
    kind: Kind = importlib.import_module(KINDS[job["does"]])
    return kind


def main(folder: Path, numbers: Sequence[str]) -> None:
    """Make the parts of these numbers."""
    for each in numbers:
        make(folder, int(each))


def serve() -> None:
    """Make the parts that are asked for line by line, NUMBER JOB, of any jobs; each is answered when it is done."""
    for line in sys.stdin:
        number, folder = line.rstrip("\n").split(" ", 1)
        with redirect_stdout(sys.stderr):  # what a step prints is no answer
            make(Path(json.loads(folder)), int(number))
        print(number, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        serve()
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
