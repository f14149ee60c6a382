"""Work on a store in parts: ranges of the hash order, each by a process of its own, wherever it runs.

A job is a folder with `job.json`: what is done (a file named in KINDS), with which store, in how many parts. A done
part leaves a file there: that is the commit log. Whoever runs `python -m danlu.data.parts JOB NUMBER...`, a local
process or a task of a Slurm array, makes the same bytes, and what was done when it was killed is not done again.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, TextIO

from danlu import atomic
from danlu.data.document import Document, from_record
from danlu.data.ingest import Tell
from danlu.errors import PartFailed
from danlu.ready import ready
from danlu.store import manifest
from danlu.store.homes import home_of
from danlu.store.packs import Store

JOB = "job.json"
MADE = "made"  # in a done part of several files
VERSION = 7
KINDS = {each: f"danlu.data.{each}_parts" for each in ("read", "clean", "compare", "encode")}
PART_BYTES = 16 << 20  # of the store: a second or two of work; each part waits for the disk a few times
DEEPEST = 40  # bits of a range: a store of 10^12 records still has one part for each
LEFT, LEAST_BYTES = 5, 2 << 20  # a part has at most one in LEFT of what is left, so that nobody waits long for the last

Run = Callable[[Path, Iterable[int], Tell], Iterable[int]]  # makes the named parts of a job; gives each that is done
Job = Mapping[str, Any]
Finish = Callable[[], None]  # waits for the disk and says that a part is done; any thread may call it


class Kind(Protocol):
    """A file of KINDS."""

    def make(self, folder: Path, job: Job, number: int) -> Finish:
        """Make one part, unless it is done; what comes back makes it last."""

    def is_done(self, folder: Path, number: int) -> bool:
        """Whether it is."""


def prepare(home: Path, kind: str, store: Path, record: Mapping[str, Any]) -> Path:
    """Write a job over a store; returns its folder, which its content names. record: what the parts must know."""
    opened = Store(store)
    ranges = cut(opened.weight, partial(most_bytes, opened.size))
    opened.close()
    return begin(home, kind, len(ranges), {"store": str(store.resolve()), "ranges": ranges, **record})


def most_bytes(size: float, done: float = 0, least: int = LEAST_BYTES) -> int:
    """Of the next part of a job over so many bytes, when the parts before have `done` of them; `least` at least.

    Large parts first, since every part costs some work of its own, and small ones last (guided self-scheduling:
    Polychronopoulos and Kuck 1987).
    """
    return int(min(PART_BYTES, max(least, (size - done) / LEFT)))


def cut(weight: Callable[[int, int], float], most: Callable[[float], int]) -> list[tuple[int, int]]:
    """Ranges of hashes that hold few bytes each, in order: (bits, number), the first bits of the hashes.

    most  bytes of the next range at most, given how many those before have
    Halves of halves, since the hashes of a store need not be even: a reader that stopped at its limit has taken the
    files of the lowest hashes, and later pieces of long ones.
    """
    found, todo, done = list[tuple[int, int]](), [(0, 0)], 0.0
    while todo:
        bits, number = todo.pop()
        own = weight(number << 64 - bits, number + 1 << 64 - bits)
        if own > most(done) and bits < DEEPEST:
            todo += [(bits + 1, 2 * number + 1), (bits + 1, 2 * number)]
        elif own > 0:
            found.append((bits, number))
            done += own
    return found or [(0, 0)]


def begin(home: Path, kind: str, parts: int, record: Mapping[str, Any]) -> Path:
    """Write a job of so many parts, 0 for as many as are asked for, unless it is there; returns its folder."""
    job = {"job": VERSION, "does": kind, "parts": parts, **record}
    text = json.dumps(job, ensure_ascii=False)
    folder = home / blake2b(text.encode(), digest_size=8).hexdigest()
    if not (folder / JOB).exists():
        atomic.write(folder / JOB, text.encode())
    return folder


def left(folder: Path, numbers: Sequence[int] | None = None) -> list[int]:
    """Those of the parts (without `numbers`, of all) that are not done."""
    job = job_of(folder)
    kind = _kind(job)
    if numbers is None:
        numbers = range(job["parts"] or sum(1 for _ in folder.glob("[0-9]*/")))
    return [each for each in numbers if not kind.is_done(folder, each)]


def make(folder: Path, number: int) -> None:
    """Make one part, unless it is done. Raises StoreInUse while another process makes it, and what its work raises."""
    _computed(folder, number)()


def run(folder: Path, execute: Run, tell: Tell) -> list[Path]:
    """Have all parts made; returns their folders, in order. Raises PartFailed."""
    return list(each(folder, execute, tell))


def each(folder: Path, execute: Run, tell: Tell, numbers: Iterable[int] | None = None) -> Iterator[Path]:
    """The same folders, each as soon as it and those before are done: what is done with them goes on beside the rest.

    numbers  may depend on what came out so far: the next one is asked for when somebody is about to make it
    Raises PartFailed when one is not done although the executor returned.
    """
    job, asked, given = job_of(folder), list[int](), 0
    kind, done = _kind(job), set[int]()

    def todo() -> Iterator[int]:
        for number in range(job["parts"]) if numbers is None else numbers:
            asked.append(number)
            if kind.is_done(folder, number):
                done.add(number)
            else:
                yield number

    known = list(todo()) if numbers is None or isinstance(numbers, Sequence) else None
    for made in execute(folder, todo() if known is None else known, tell) if known != [] else ():
        done.add(made)
        while given < len(asked) and asked[given] in done:
            yield place(folder, asked[given])
            given += 1
    if undone := left(folder, asked[given:]):
        raise PartFailed(
            f"part {undone[0]} of the text was not made", where=str(folder),
            why=f"{len(undone)} of {len(asked)} parts are missing",
            fix=f"see what it says: python -m danlu.data.parts {folder} {undone[0]}",
        )  # fmt: skip
    yield from (place(folder, number) for number in asked[given:])


def place(folder: Path, number: int) -> Path:
    """The folder of a part."""
    return folder / f"{number:04d}"


def job_of(folder: Path) -> Job:
    """What `prepare` wrote."""
    found: Job = json.loads((folder / JOB).read_bytes())
    return found


def range_of(job: Job, number: int) -> tuple[int, int]:
    """How many first bits the hashes of a part's records share, and those bits as a number."""
    bits, prefix = job["ranges"][number]
    return bits, prefix


@functools.lru_cache(1)
def store_of(where: str, _: str) -> Store:
    """The store at `where` that a job reads: opened once for all parts of the job that a process makes."""
    return Store(Path(where))


def documents(store: Store, job: Job, number: int) -> Iterator[Document]:
    """The documents of a part, in hash order."""
    bits, prefix = range_of(job, number)
    for record in store.scan(prefix << 64 - bits, prefix + 1 << 64 - bits):
        yield from_record(record.key, record.value)


def keep(place: Path) -> None:
    """Say that a part of several files is done, once they survive a loss of power. Raises DiskFull."""
    atomic.keep([place, *(each for each in place.rglob("*") if not each.name.endswith("lock"))])
    atomic.write(place / MADE, b"")


def is_kept(place: Path) -> bool:
    """Whether that was said."""
    return (place / MADE).exists()


def told(where: Path) -> tuple[dict[str, Any], list[Path]]:
    """What the writer of a store said last, and its packs; none is opened."""
    found = manifest.load(home_of(where))
    return found.cursor, [where / name for name in found.packs]


def _computed(folder: Path, number: int) -> Finish:
    job = job_of(folder)
    return _kind(job).make(folder, job, number)


def _kind(job: Job) -> Kind:
    kind: Kind = importlib.import_module(KINDS[job["does"]])
    return kind


def main(folder: Path, numbers: Sequence[str]) -> None:
    """Make the parts of these numbers."""
    for each in numbers:
        make(folder, int(each))


def serve() -> None:
    """Make the parts that are asked for line by line, NUMBER JOB, of any jobs; each is answered when it is done.

    While the disk takes one part the next is computed: with a disk that answers in 1 ms, a tenth of the time.
    """
    answers, before = sys.stdout, None
    with ThreadPoolExecutor(1, "finish") as disk:
        for line in _orders(sys.stdin):
            number, folder = line.rstrip("\n").split(" ", 1)
            with redirect_stdout(sys.stderr):  # what a step prints is no answer
                finish = _computed(Path(json.loads(folder)), int(number))
            if before is not None:
                before.result()  # at most one part waits: the memory of two is enough
            before = disk.submit(_finished, finish, number, answers)


def _orders(lines: TextIO) -> Iterator[str]:
    """The lines. The first time that none waits, after one, what encoding needs is made ready: 80 ms.

    That is at the end of reading or while the vocabulary is learned, when there is nothing else to do.
    """
    is_ready = False
    for line in lines:
        yield line
        if not is_ready and not ready([lines], 0):
            importlib.import_module(KINDS["encode"]).make_ready()
            is_ready = True


def _finished(finish: Finish, number: str, answers: TextIO) -> None:
    try:
        finish()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # whoever asked waits for an answer, and this process for the next order
    print(number, file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        serve()
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
