"""Reading and cleaning in one pass. A part is some files in a row: as they are (`raw`), and what cleaning leaves.

Steps that look at one document alone see it as soon as it is read, so no text is read from the disk again, and nobody
waits between the two. Which files a part has is for whoever asks for it to say (reading.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from danlu import atomic
from danlu.data import parts
from danlu.data.clean import DROPPED, pipeline
from danlu.data.document import Document, Drops, Funnel, to_record
from danlu.data.ingest import PACK_BYTES, count
from danlu.data.marks import Marks
from danlu.data.read import Refused, Source, read
from danlu.store.packs import Writer

SOURCES = "sources.json"
RAW = "raw"  # the store of what was read, beside that of what is left


def make(folder: Path, job: parts.Job, number: int) -> parts.Finish:
    """See parts.Kind. Raises StoreInUse while another process makes it, DiskFull, and what steps raise."""
    place = parts.place(folder, number)
    with ExitStack() as opened:
        raw = opened.enter_context(Writer(place / RAW, pack_bytes=PACK_BYTES, draft=True))
        if parts.is_kept(place):
            return lambda: None
        kept = opened.enter_context(Writer(place / "store", pack_bytes=PACK_BYTES, draft=True))
        raw.clear()
        kept.clear()
        sources = [Source(*each) for each in json.loads((place / SOURCES).read_bytes())]
        cleans = all(min(each.size, job["share"]) <= job["long"] for each in sources)
        reading, drops, made, left = Funnel(), Drops(), Marks(job["compares"] if cleans else ()), 0
        keys: list[bytes] = []
        documents = _read(sources, job, raw, reading, keys)
        for document in made.through(pipeline(documents, job["steps"], drops)) if cleans else documents:
            if not cleans:
                continue
            left += 1
            if kept.add(*to_record(document)):
                kept.commit({}, wait=False)
        opened.pop_all()

    def finish() -> None:
        with raw, kept:
            made.save(place, keys)
            if cleans:
                funnel = Funnel(reading.docs_kept, reading.bytes_in, left)
                with atomic.replacing(place / DROPPED, lasting=False) as funnel.log:
                    firsts = drops.into(funnel)
                kept.commit({"funnel": funnel.as_dict(), "firsts": firsts}, done=True)
            raw.commit({"funnel": reading.as_dict()}, done=True)
            parts.keep(place)

    return finish


def is_done(folder: Path, number: int) -> bool:
    """See parts.Kind."""
    return parts.is_kept(parts.place(folder, number))


def _read(sources: Sequence[Source], job: parts.Job, raw: Writer, funnel: Funnel,
          keys: list[bytes]) -> Iterator[Document]:  # fmt: skip
    """The documents of the part's files, each kept in `raw` and named in `keys`, as far as the job's limit goes."""
    limit = job["limit"]
    for source in sources:
        for found in read(source, job["share"]):
            if count(raw, found, funnel):
                raw.commit({}, wait=False)
            if not isinstance(found, Refused):
                keys.append(found.key.encode())
                yield found
            if limit is not None and funnel.bytes_in >= limit:
                return
