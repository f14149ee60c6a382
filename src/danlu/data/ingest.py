"""Files into the store: each commit holds documents and the place in the source list where the next one begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from danlu.data.document import Document, Funnel, to_record
from danlu.data.read import PIECE, Refused, Source, listing, read
from danlu.errors import NoText
from danlu.store.packs import Writer

SHARERS = 64  # where not all can be read, no file takes more than this part of the limit
PACK_BYTES = 16 << 20  # what an interrupted ingest may have to read again

Tell = Callable[[str, float], None]  # what is done in words, and its share of the whole


@dataclass(frozen=True, slots=True)
class Want:
    """What of the sources is read: until `limit` bytes of text, of one file about `share`. fingerprint: of both."""

    fingerprint: str
    limit: int
    share: int


# Takes into the store what parts have read of the first sources, and counts it; returns how many of them those were.
Read = Callable[[Writer, Sequence[Source], Funnel, Want, Tell], int]


def ingest(roots: Sequence[Path], folder: Path, *, limit: int, tell: Tell,
           run: Read | None = None) -> tuple[Funnel, str]:  # fmt: skip
    """Read text until `limit` bytes and keep it in the store `folder`; goes on where a killed call was.

    run  reads in parts (read_parts.py); None: this process reads. Both keep the same documents.
    Files are taken in the order of their key's hash, so a limit gives a random sample, always the same one.
    Returns the funnel of reading, and the fingerprint of files and limit. Raises NoText, StoreInUse, DiskFull.
    """
    try:
        sources, refused = listing(roots, tell)
    except OSError as error:
        raise NoText(
            "there is no text to read",
            where=str(error.filename),
            why=error.strerror or str(error),
            fix="check data.text in your run.yaml, or leave it out to use this machine's documents",
        ) from error
    fingerprint = fingerprint_of(sources, limit)
    with Writer(folder, pack_bytes=PACK_BYTES) as writer:
        if writer.cursor.get("source") != fingerprint:
            writer.clear()
        funnel = Funnel.from_dict(writer.cursor["funnel"]) if writer.cursor else _begin(refused)
        if not writer.done:
            want, start = Want(fingerprint, limit, share_of(sources, limit)), writer.cursor.get("file", 0)
            if run is not None and not writer.cursor:
                start = run(writer, sources, funnel, want, tell)
            _fill(writer, sources, start, funnel, want, tell)
    if not funnel.docs_kept:
        reasons = ", ".join(f"{name} {count}" for name, count in funnel.dropped.items()) or "every file is empty"
        raise NoText(
            "nothing to learn from",
            where=", ".join(map(str, roots[:3])),
            why=f"{len(sources)} files hold no readable text ({reasons})",
            fix="point data.text at folders with UTF-8 text files",
        )
    return funnel, fingerprint


def share_of(sources: Sequence[Source], limit: int) -> int:
    """Bytes that one file may give."""
    whole = sum(source.size for source in sources) <= limit
    return limit if whole else max(PIECE, limit // min(len(sources), SHARERS))


def _fill(writer: Writer, sources: Sequence[Source], start: int, funnel: Funnel, want: Want, tell: Tell) -> None:
    piece = writer.cursor.get("piece", 0)
    whole = min(want.limit, sum(source.size for source in sources)) or 1
    for number in range(start, len(sources)):
        if funnel.bytes_in >= want.limit:
            break
        for found in islice(read(sources[number], want.share), piece, None):
            piece += 1
            if count(writer, found, funnel):
                cursor = {"source": want.fingerprint, "file": number, "piece": piece, "funnel": funnel.as_dict()}
                writer.commit(cursor, wait=False)
            if funnel.bytes_in >= want.limit:
                break
        piece = 0
        tell(f"{funnel.docs_kept:,} documents, {funnel.bytes_in / 1e6:.1f} MB", funnel.bytes_in / whole)
    writer.commit({"source": want.fingerprint, "funnel": funnel.as_dict()}, done=True)


def count(writer: Writer, found: Document | Refused, funnel: Funnel) -> bool:
    """Keep what was read, or count why not. True when it is time to commit."""
    if isinstance(found, Refused):
        funnel.docs_in += 1
        funnel.drop(found.rule, found.key, found.why)
        return False
    key, value = to_record(found)
    funnel.docs_in += 1
    funnel.docs_kept += 1
    funnel.bytes_in += len(value)
    return writer.add(key, value)


def _begin(refused: list[Refused]) -> Funnel:
    funnel = Funnel(docs_in=len(refused))
    for each in refused:
        funnel.drop(each.rule, each.key, each.why)
    return funnel


def fingerprint_of(sources: list[Source], limit: int) -> str:
    """Changes when the files, their sizes and times, or the limit do."""
    digest = blake2b(f"1 {limit}".encode(), digest_size=16)
    for source in sources:
        digest.update(f"{source.key}\0{source.size}\0{source.modified_ns}\0".encode())
    return digest.hexdigest()
