"""What became of one document, and of the documents of one rule: read from what prep left in OUT/store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.data import rules
from danlu.data.clean import DROPPED, LISTED
from danlu.data.document import Document, from_record
from danlu.data.ingest import share_of
from danlu.data.measure import FIELDS, measure
from danlu.data.read import Refused, listing, read
from danlu.data.sources import form_of
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
    """rule and why: of the step that dropped it, empty if it was kept. text: as read, empty if reading refused it.

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
        raise NoText(
            "nothing was prepared here",
            where=str(out),
            why=f"there is no {error.filename}",
            fix=f"name the run: danlu prep why DOC run.yaml, or --out OUT; or danlu prep --out {out}",
        ) from error


def fate(out: Path, key: str, refused: Callable[[], Refused | None] = lambda: None) -> Fate:
    """What became of the document `key`. Raises NoText if prep never met it, DamagedPack.

    refused  looks for it among what reading refuses (`refusal`): such a document is in no store
    """
    rules_met, found = set(), {"rule": "", "why": ""}
    for each in drops(out):
        rules_met |= {each["rule"], each["rule"].partition(".")[0]}
        if each["key"] == key:
            found = each
            break
    store = Store(out / "store" / "raw")
    value = store.get(key.encode())
    store.close()
    if value is None:
        again = _example(out, key) or refused()
        if again is not None:
            return Fate(key, again.rule, again.why, "", ())
        raise _unknown(out, key, rules_met)
    text = from_record(key.encode(), value).text
    if not found["rule"] and not _is_kept(out, key):
        found = {"rule": UNLISTED, "why": f"the list names about {LISTED:,} of the store's documents, not this one"}
    return Fate(key, found["rule"], found["why"], text, tuple(limits(text)))


def refusal(roots: Sequence[Path], limit: int, key: str) -> Refused | None:
    """Why reading the files under `roots`, as they are now, refuses what it names `key`; None if it does not.

    limit  of bytes, as prep had it. Cost: a listing of the roots, and reading the file that may hold it.
    """
    try:
        sources, refused = listing(roots)
    except OSError:  # the folders went away since
        return None
    share = share_of(sources, limit)
    for source in sources:
        if key == source.key or key.startswith((f"{source.key}/", f"{source.key}#")) or form_of(source.path) == "urls":
            refused += [each for each in read(source, share) if isinstance(each, Refused) and each.key == key]
    return next((each for each in refused if each.key == key), None)


def refusals(out: Path, rule: str) -> list[str]:
    """A few of what a rule of reading refused: name and reason."""
    store = Store(out / "store" / "raw")
    found: list[str] = store.cursor["funnel"]["examples"].get(rule, [])
    store.close()
    return found


def _example(out: Path, key: str) -> Refused | None:
    """Of what reading refused, one that is named with its reason, whose files may be gone."""
    store = Store(out / "store" / "raw")
    examples: dict[str, list[str]] = store.cursor["funnel"]["examples"]
    store.close()
    told = ((rule, each.removeprefix(f"{key}: ")) for rule, every in examples.items() for each in every
            if each.startswith(f"{key}: "))  # fmt: skip
    return next((Refused(key, rule, why) for rule, why in told), None)


def _unknown(out: Path, key: str, rules_met: set[str]) -> NoText:
    store = Store(out / "store" / "raw")
    names = (record.key.decode() for record in islice(store.scan(), 100_000))
    like = [name for name in names if key.lower() in name.lower()][:1]
    store.close()
    fix = (
        f"danlu prep why {like[0]!r}"
        if like
        else f"danlu store ls {out}/store/raw; of a file that reading refused, name the run.yaml with its data.text too"
    )
    if key in rules_met or refusals(out, key):
        fix = f"it is a rule: danlu prep why {key} --sample 3"
    return NoText(f"prep read no document {key!r}", where=str(out), fix=fix,
                  why="no file gives it, or reading stopped at data.limit_mb before it")  # fmt: skip


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
