"""Cleaning in parts. A part is a store; a done one says so in its manifest.

Steps that look at one document alone run in these parts. Those that compare documents come after them, in parts of
their own (compare_parts.py), which look at those that share a mark and let the others pass.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import takewhile
from pathlib import Path

from danlu.data import compare_parts, marks, parts
from danlu.data.clean import DROPPED, Before, Spec, cleaned, is_whole
from danlu.data.document import EXAMPLES, Document, Funnel, from_record
from danlu.data.ingest import Tell
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
    return before(made(raw, home, source, steps, execute, tell), home, steps, execute, tell)


def made(raw: Path, home: Path, source: str, steps: Sequence[Spec], execute: parts.Run, tell: Tell) -> list[Path]:
    """The folders of those parts. Raises PartFailed."""
    record = {"source": source, "steps": rows(steps), "compares": compared(steps)}
    return parts.run(parts.prepare(home, "clean", raw, record), execute, tell)


def before(folders: Sequence[Path], home: Path, steps: Sequence[Spec], execute: parts.Run, tell: Tell) -> Before:
    """What parts did, whose folders these are: all documents, each in one of them. Jobs stand in `home`."""
    funnel, packs, firsts = Funnel(), list[Path](), defaultdict[str, list[tuple[int, str]]](list)
    for each in folders:
        cursor, own = parts.told(each / "store")
        packs += own
        funnel.join(Funnel.from_dict(cursor["funnel"]))
        for rule, found in cursor.get("firsts", {}).items():
            firsts[rule] += map(tuple, found)
    for rule, some in firsts.items():
        funnel.examples[rule] = [example for _, example in sorted(some)[:EXAMPLES]]
    then = compared(steps)
    compare = partial(compare_parts.run, folders, home, then, execute, tell)
    rest = steps[len(rows(steps)) + len(then) :]
    logs = [each / DROPPED for each in folders]
    return Before(funnel, logs, packs, compare, partial(_left, folders, compare), rest)


def make(folder: Path, job: parts.Job, number: int) -> parts.Finish:
    """See parts.Kind. Raises StoreInUse while another process makes it, and what steps raise."""
    bits, prefix = parts.range_of(job, number)
    made_by = {"job": folder.name, "number": number}
    return cleaned(parts.store_of(job["store"], folder.name), parts.place(folder, number) / "store", job["steps"],
                   made_by, bits=bits, prefix=prefix, marks=job["compares"], part=True)[1]  # fmt: skip


def is_done(folder: Path, number: int) -> bool:
    """See parts.Kind."""
    return parts.is_kept(parts.place(folder, number))


def is_clean(place: Path) -> bool:
    """Whether a done part of any job has what cleaning leaves of it."""
    return (place / DROPPED).exists()


def _left(folders: Sequence[Path], compare: Callable[[Funnel], list[bytes]], funnel: Funnel) -> Iterator[Document]:
    """The documents of all parts but those that comparing drops."""
    gone = set(compare(funnel))
    with ExitStack() as opened:
        stores = [opened.enter_context(closing(Store(folder / "store"))) for folder in folders]
        for record in heapq.merge(*(store.scan() for store in stores), key=lambda each: (each.hash, each.key)):
            if record.key not in gone:
                yield from_record(record.key, record.value)
