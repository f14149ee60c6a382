"""Reading in parts. A part is a store of what some files in a row hold; a done one says so in its manifest.

Files are read until the text reaches a limit, and how much text a file holds is known only when it is read. So parts
are asked for in rounds, each of as many as the text found so far makes likely; the one that reaches the limit is read
again by the caller, document by document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from danlu import atomic
from danlu.data import parts
from danlu.data.document import Funnel
from danlu.data.ingest import PACK_BYTES, Tell, Want, count
from danlu.data.read import Source, read
from danlu.store.packs import Store, Writer

SOURCES = "sources.json"
FIRST = 8  # the first round asks for this part of the limit, should archives hold many times their size
SPARE = 1 / 16  # of what is left; a round that falls short costs another one


def fill(home: Path, execute: parts.Run, writer: Writer, sources: Sequence[Source], funnel: Funnel, want: Want,
         tell: Tell) -> int:  # fmt: skip
    """See ingest.Read; the job stands in `home`. Raises PartFailed."""
    whole = min(want.limit, sum(min(each.size, want.share) for each in sources))
    groups = _groups(sources, want.share, partial(parts.most_bytes, whole))
    folder = parts.begin(home, "read", len(groups), {"source": want.fingerprint, "share": want.share})
    packs: list[Path] = []
    asked = done = 0
    while done < len(groups):
        if asked == done:
            asked = _more(groups, done, funnel, want)
            _make(folder, groups, range(done, asked), execute, tell)
        store = Store(parts.place(folder, done) / "store")
        found = Funnel.from_dict(store.cursor["funnel"])
        names = store.names
        store.close()
        if funnel.bytes_in + found.bytes_in >= want.limit:
            break
        funnel.join(found)
        packs += [parts.place(folder, done) / "store" / name for name in names]
        done += 1
    writer.take(packs)
    return sum(map(len, groups[:done]))


def make(folder: Path, job: parts.Job, number: int) -> parts.Finish:
    """See parts.Kind. Raises StoreInUse while another process makes it, and DiskFull."""
    place = parts.place(folder, number)
    with ExitStack() as opened:
        writer = opened.enter_context(Writer(place / "store", pack_bytes=PACK_BYTES))
        if writer.done:
            return lambda: None
        writer.clear()
        funnel = Funnel()
        for source in (Source(*each) for each in json.loads((place / SOURCES).read_bytes())):
            for found in read(source, job["share"]):
                if count(writer, found, funnel):
                    writer.commit({}, wait=False)
        opened.pop_all()

    def finish() -> None:
        with writer:
            writer.commit({"funnel": funnel.as_dict()}, done=True)

    return finish


def is_done(folder: Path, number: int) -> bool:
    """See parts.Kind."""
    return parts.is_done_store(parts.place(folder, number) / "store")


def _groups(sources: Sequence[Source], share: int, most: Callable[[float], int]) -> list[list[Source]]:
    """Sources in a row, together of at most so many bytes, given those before, where none of them has more."""
    groups: list[list[Source]] = []
    size, before = 0, 0
    for each in sources:
        own = min(each.size, share)
        if not groups or size + own > most(before):
            groups.append([])
            size, before = 0, before + size
        groups[-1].append(each)
        size += own
    return groups


def _more(groups: Sequence[Sequence[Source]], done: int, funnel: Funnel, want: Want) -> int:
    """The part after the last of the next round: those that should just reach the limit, by the text found so far."""
    read_bytes = sum(min(each.size, want.share) for group in groups[:done] for each in group)
    ratio = funnel.bytes_in / read_bytes if read_bytes else FIRST
    left = (want.limit - funnel.bytes_in) / max(ratio, 1 / FIRST) * (1 + SPARE)
    number = done
    while number < len(groups) and (left > 0 or number == done):
        left -= sum(min(each.size, want.share) for each in groups[number])
        number += 1
    return number


def _make(folder: Path, groups: Sequence[Sequence[Source]], numbers: Sequence[int], execute: parts.Run,
          tell: Tell) -> None:  # fmt: skip
    for number in numbers:
        text = json.dumps([[each.key, each.path, each.size, each.modified_ns] for each in groups[number]])
        atomic.write(parts.place(folder, number) / SOURCES, text.encode())
    parts.run(folder, execute, tell, numbers)
