"""Reading in parts. A part is a store of what some files in a row hold; a done one says so in its manifest.

Files are read until the text reaches a limit, and how much text a file holds is known only when it is read. So parts
are asked for one by one, as long as the text found so far makes it likely that more are needed; the one that reaches
the limit is read again by the caller, document by document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from danlu import atomic
from danlu.data import parts
from danlu.data.document import Funnel
from danlu.data.ingest import PACK_BYTES, Tell, Want, count
from danlu.data.read import Source, read
from danlu.store.packs import Store, Writer

SOURCES = "sources.json"
PARTS = 24  # of a limit; the last one is read twice
FIRST = 4  # times their size that files are taken to hold until one part is read, should there be archives
SPARE = 1 / 16  # of what is left; to fall short costs a wait for all workers


def fill(home: Path, execute: parts.Run, writer: Writer, sources: Sequence[Source], funnel: Funnel, want: Want,
         tell: Tell) -> int:  # fmt: skip
    """See ingest.Read; the job stands in `home`. Raises PartFailed."""
    whole = min(want.limit, sum(min(each.size, want.share) for each in sources))
    most = min(parts.PART_BYTES, max(parts.LEAST_BYTES, whole // PARTS))
    groups = _groups(sources, want.share, most)
    sizes = [sum(min(each.size, want.share) for each in group) for group in groups]
    folder = parts.begin(home, "read", len(groups), {"source": want.fingerprint, "share": want.share})
    packs: list[Path] = []
    done, over = 0, False

    def wanted() -> Iterator[int]:
        number = done
        while number < len(groups) and _short(sizes[:done], sizes[done:number], funnel.bytes_in, want.limit):
            text = json.dumps([[each.key, each.path, each.size, each.modified_ns] for each in groups[number]])
            atomic.write(parts.place(folder, number) / SOURCES, text.encode())
            yield number
            number += 1

    while done < len(groups) and not over:
        for each in parts.each(folder, execute, lambda words, share: None, wanted()):
            if over:  # it was asked for too much
                continue
            store = Store(each / "store")
            found = Funnel.from_dict(store.cursor["funnel"])
            over = funnel.bytes_in + found.bytes_in >= want.limit
            if not over:
                funnel.join(found)
                packs += [each / "store" / name for name in store.names]
                done += 1
            store.close()
            tell(f"{funnel.docs_kept:,} documents, {funnel.bytes_in / 1e6:.1f} MB", funnel.bytes_in / max(whole, 1))
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


def _groups(sources: Sequence[Source], share: int, most: int) -> list[list[Source]]:
    """Sources in a row, together of at most so many bytes where none of them has more."""
    groups: list[list[Source]] = []
    size = most
    for each in sources:
        own = min(each.size, share)
        if size + own > most or not groups:
            groups.append([])
            size = 0
        groups[-1].append(each)
        size += own
    return groups


def _short(read: Sequence[int], asked: Sequence[int], text: int, limit: int) -> bool:
    """Whether files that were read and asked for are likely to hold less text than the limit, or none was asked for.

    read, asked  bytes of the parts that are read, and of those that are not yet; text  bytes that the former had
    """
    ratio = text / sum(read) if read else FIRST
    return not asked or text + ratio * sum(asked) < limit + SPARE * (limit - text)
