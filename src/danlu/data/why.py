"""What became of one document, and of the documents of one rule: read from what prep left in OUT/store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.data import rules
from danlu.data.clean import DROPPED, LISTED
from danlu.data.document import Document, from_record
from danlu.data.measure import FIELDS, measure
from danlu.errors import NoText
from danlu.store.packs import Store

UNLISTED = "a step that is not listed"


@dataclass(frozen=True, slots=True)
class Limit:
    """One published rule on one document: its value and limits, and whether the rule lets it stay."""

    rule: str
    what: str
    value: float
    least: float | None
    most: float | None
    holds: bool


@dataclass(frozen=True, slots=True)
class Fate:
    """rule and why: of the step that dropped it, empty if it was kept. text: as read.

    Of a store so large that only a sample of the drops is listed, the rule may be UNLISTED.
    """

    key: str
    rule: str
    why: str
    text: str
    limits: tuple[Limit, ...]


def drops(out: Path) -> Iterator[dict[str, Any]]:
    """Documents that steps dropped, of more than LISTED a sample: key, rule, why. Raises NoText before it is there."""
    try:
        with (out / "store" / DROPPED).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    except FileNotFoundError as error:
        raise NoText("nothing was prepared here", where=str(out), why=f"there is no {error.filename}",
                     fix=f"danlu prep --out {out}") from error  # fmt: skip


def fate(out: Path, key: str) -> Fate:
    """What became of the document `key`. Raises NoText if prep never read it, DamagedPack."""
    found = next((each for each in drops(out) if each["key"] == key), {"rule": "", "why": ""})
    store = Store(out / "store" / "raw")
    value = store.get(key.encode())
    if value is None:
        names = (record.key.decode() for record in islice(store.scan(), 100_000))
        like = [name for name in names if key.lower() in name.lower()][:1]
        store.close()
        raise NoText(f"prep read no document {key!r}", where=str(out), why="it was refused, or never found",
                     fix=f"danlu prep why {like[0]!r}" if like else f"danlu store ls {out}/store/raw")  # fmt: skip
    store.close()
    text = from_record(key.encode(), value).text
    if not found["rule"] and not _is_kept(out, key):
        found = {"rule": UNLISTED, "why": f"the list names about {LISTED:,} of the store's documents, not this one"}
    return Fate(key, found["rule"], found["why"], text, tuple(limits(text)))


def _is_kept(out: Path, key: str) -> bool:
    store = Store(out / "store" / "clean")
    kept = store.get(key.encode()) is not None
    store.close()
    return kept


def limits(text: str) -> Iterator[Limit]:
    """Every published rule on a text as it was read, in their order."""
    counts = dict(zip(FIELDS, measure([text.encode()]).counts[0].tolist(), strict=True))
    chinese = rules.is_chinese(counts)
    for name, found in rules.SETS.items():
        for rule in found:
            least, most = rule.limits(chinese)
            if least is not None or most is not None:
                value = rule.value(counts)
                yield Limit(f"{name}.{rule.name}", rule.what, value, least, most, rule.breach(counts, chinese) is None)


def sample(out: Path, rule: str, count: int) -> list[Document]:
    """The first documents, in hash order and so at random, that a rule dropped, as they were read."""
    store = Store(out / "store" / "raw")
    keys = (each["key"] for each in drops(out) if each["rule"] == rule or each["rule"].startswith(f"{rule}."))
    found = [
        from_record(k.encode(), value) for k in islice(keys, count) if (value := store.get(k.encode())) is not None
    ]
    store.close()
    return found
