"""Files, folders and archives into a store as they are: one record a file, or a member of an archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.data.ingest import Tell, fingerprint_of
from danlu.data.read import listing
from danlu.data.sources import BROKEN, Item, Refused, Source, form_of, items, refused
from danlu.errors import BadPath
from danlu.store.packs import Writer

LARGEST = 1 << 30  # bytes of a record; small files are what a store is for
EXAMPLES = 3  # refused files remembered per rule
TOLD = 1000  # records between two words on how far it is


@dataclass
class Gathered:
    """How many records were added, and what was refused by which rule, with examples."""

    records: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, each: Refused) -> None:
        """Count one."""
        self.refused[each.rule] += 1
        kept = self.examples.setdefault(each.rule, [])
        if len(kept) < EXAMPLES:
            kept.append(f"{each.key}: {each.why}")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"records": self.records, "refused": dict(self.refused), "examples": self.examples}


def gather(roots: Sequence[Path], where: str, *, tell: Tell, pack_bytes: int = 64 << 20,
           keep: Callable[[bytes], bool] = lambda key: True, kept: str = "") -> Gathered:  # fmt: skip
    """Add every file under the roots to the store; goes on where a killed call of the same roots was.

    keep  which keys this store takes: of a store spread over nodes, those of its own shards
    kept  the same in words; a call that would keep others is another call, and is done
    A file added again replaces its record; a finished call of the same files, unchanged, is not done again.
    Raises BadPath, StoreInUse, DiskFull.
    """
    try:
        sources, bad = listing(roots, tell)
    except OSError as error:
        raise BadPath("there is nothing to add", where=str(error.filename), why=error.strerror or str(error),
                      fix="check the path: danlu store add PATH... --into STORE") from error  # fmt: skip
    fingerprint = fingerprint_of(sources, 0) + kept
    with Writer(where, pack_bytes=pack_bytes) as writer:
        cursor = dict(writer.cursor) if writer.cursor.get("source") == fingerprint else {}
        done = Gathered(cursor["records"], Counter(cursor["refused"]), cursor["examples"]) if cursor else Gathered()
        if cursor and writer.done:
            return done  # these very files, with the same sizes and times, are in it
        if not cursor:
            for each in bad:
                done.refuse(each)
        size, passed = sum(each.size for each in sources) or 1, sum(s.size for s in sources[: cursor.get("file", 0)])
        for number in range(cursor.get("file", 0), len(sources)):
            place = cursor.pop("item", 0)
            for found in islice(_records(sources[number]), place, None):
                place += 1
                if isinstance(found, Refused):
                    done.refuse(found)
                    continue
                if not keep(found[0]):
                    continue
                done.records += 1
                if done.records % TOLD == 0:  # an archive may hold millions
                    tell(f"{done.records:,} records", passed / size)
                if writer.add(*found):
                    writer.commit({"source": fingerprint, "file": number, "item": place, **done.as_dict()}, wait=False)
            passed += sources[number].size
            tell(f"{done.records:,} records", passed / size)
        writer.commit({"source": fingerprint, **done.as_dict()}, done=True)
    return done


def _records(source: Source) -> Iterator[tuple[bytes, bytes] | Refused]:
    """Key and value of everything in one file; a file that is no archive is taken byte by byte, packed or not."""
    if form_of(source.path) == "plain":
        if source.size > LARGEST:  # not read to find that out
            yield _too_long(source.key)
            return
        try:
            with open(source.path, "rb") as file:
                yield _record(Item(source.key, file))
        except OSError as error:
            yield refused(source, source.key, error)
        return
    for each in items(source):
        if isinstance(each, Refused):
            yield each
            continue
        try:
            yield _record(each)
        except BROKEN as error:
            yield refused(source, each.key, error)


def _record(item: Item) -> tuple[bytes, bytes] | Refused:
    value = item.stream.read(LARGEST + 1)
    if len(value) > LARGEST:
        return _too_long(item.key)
    return item.key.encode("utf-8", "surrogateescape"), value


def _too_long(key: str) -> Refused:
    return Refused(key, "too_long", f"it has over {LARGEST} bytes")
