"""The pipeline: raw documents through every step, in hash order, into the store of what stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

from danlu import atomic, plugins
from danlu.data import parts, rules
from danlu.data.document import Document, Drop, Drops, Funnel, Step, from_record, is_listed, to_record
from danlu.data.ingest import PACK_BYTES, Tell
from danlu.data.marks import Marks
from danlu.errors import BadValue, NoText
from danlu.store.packs import Store, Writer

DROPPED = "dropped.jsonl"  # beside the stores: documents that a step took out, by name and rule
LISTED = 1_000_000  # of a store with more documents the list names about so many at most: 150 MB, whatever is dropped
Spec = str | Mapping[str, Any]  # of a step: its name, or its name with options

# Cheap and sharp steps first, those that compare documents last: what stands before them can be done in
# parts. Others by name: danlu/data/steps.
STEPS = ("normalise", "length", "alphabetic", "symbols", "long_words", "repeated_lines", "exact", "near")


@dataclass(frozen=True, slots=True)
class Before:
    """What was done in parts: the counts of it, the list of what was dropped, and the steps that are left to do.

    logs       lists of what was dropped, one after the other
    packs      that hold what the parts left
    compared   given the funnel that counts what else is dropped: the names of the documents that comparing them drops
    documents  given that funnel: the documents that comparing them leaves, in hash order
    """

    funnel: Funnel
    logs: Sequence[Path]
    packs: Sequence[Path]
    compared: Callable[[Funnel], list[bytes]]
    documents: Callable[[Funnel], Iterator[Document]]
    steps: Sequence[Spec]


def pipeline(documents: Iterable[Document], steps: Sequence[Spec], funnel: Funnel | Drops) -> Iterator[Document]:
    """Documents that pass every step; `funnel` counts the others under the step's name, and the rule's of a set.

    steps  each a name, or {name: options} for a step that takes some
    Sets of quality rules that stand in a row are measured in one pass. Raises UnknownPlugin, BadValue.
    """
    todo = [_parsed(spec) for spec in steps]
    while todo:
        row = [name for name, options in takewhile(lambda each: each[0] in rules.SETS and each[1] is None, todo)]
        if len(row) > 1:
            documents = rules.judged(documents, row, partial(_counted, funnel))
            todo = todo[len(row) :]
            continue
        name, options = todo.pop(0)
        module = plugins.load("danlu.data.steps", name)
        documents = _step(name, module, options)(documents, _counted(funnel, name))
    return iter(documents)


def settled(steps: Sequence[Spec]) -> list[Spec]:
    """The same steps, with all that the text they leave depends on: a step that reads files has `settled(options)`.

    Raises UnknownPlugin, and BadValue for options that cannot be meant, before any text is read.
    """
    found = list[Spec]()
    for spec in steps:
        name, options = _parsed(spec)
        module = plugins.load("danlu.data.steps", name)
        if hasattr(module, "settled"):
            found.append({name: module.settled(options)})
        else:
            _step(name, module, options)
            found.append(spec)
    return found


def _parsed(spec: Spec) -> tuple[str, Any]:
    if isinstance(spec, str):
        return spec, None
    if len(spec) == 1:
        return next(iter(spec.items()))
    raise BadValue("a step is one name", why=f"{spec!r} has {len(spec)}", fix="give each step its own line: - NAME")


def _step(name: str, module: ModuleType, options: Any) -> Step:
    if options is None and hasattr(module, "step"):
        step: Step = module.step
        return step
    if hasattr(module, "configured"):
        made: Step = module.configured(options)
        return made
    raise BadValue(f"step {name!r} takes no options", why=f"it was given {options!r}", fix=f"write it as: - {name}")


def is_whole(spec: Spec) -> bool:
    """Whether a step must see every document: its file says `WHOLE = True`. Raises UnknownPlugin, BadValue."""
    return bool(getattr(plugins.load("danlu.data.steps", _parsed(spec)[0]), "WHOLE", False))


def clean(raw: Path, folder: Path, *, source: str, steps: Sequence[Spec] = STEPS, tell: Tell,
          run: Callable[[Path, Tell], Before] | None = None) -> Funnel:  # fmt: skip
    """Fill the store `folder` with what the steps leave of the store `raw`.

    source  fingerprint of what is in `raw`; a finished store of the same source and steps is taken as it is
    run     given `raw`, does the first steps in parts (clean_parts.py); None: this process does all
    Without `run` a killed call is done again from its start: the steps' memory (what was seen) is not on disk.
    Raises NoText if nothing is left, StoreInUse, DiskFull, DamagedPack, PartFailed.
    """
    made_by = {"source": source, "steps": list(steps), "version": 2}
    with Writer(folder, pack_bytes=PACK_BYTES) as writer:
        if writer.done and writer.cursor["made_by"] == made_by:
            return Funnel.from_dict(writer.cursor["funnel"])
    store = Store(raw)
    if run is None:
        funnel, finish = cleaned(store, folder, steps, made_by, tell=tell)
        finish()
    else:
        before = run(raw, tell)
        funnel = finished(before, folder, made_by, _listed(store.records), tell)
    store.close()
    if not funnel.docs_kept:
        first = next((f"{name}: {found[0]}" for name, found in funnel.examples.items()), "")
        raise NoText(
            "no document passed the filters",
            where=str(raw.parent),
            why=f"{funnel.docs_in} were dropped: {dict(funnel.dropped)}; for example {first}",
            fix="give longer or cleaner text in data.text",
        )
    return funnel


def cleaned(store: Store, folder: Path, steps: Sequence[Spec], made_by: Mapping[str, Any], *, bits: int = 0,
            prefix: int = 0, tell: Tell = lambda words, share: None,
            marks: Sequence[str] = (), part: bool = False) -> tuple[Funnel, Callable[[], None]]:  # fmt: skip
    """Fill the store `folder` with what steps leave of the records whose hash begins so, unless that is done.

    bits, prefix  the first `bits` bits of the hashes are `prefix`
    marks         steps whose marks of what is left are written beside `folder`
    part          `folder` is in one, which begins anew unless it was done (parts.py)
    Returns the funnel, and what writes the end of it; any thread may call that, and somebody must.
    """
    with ExitStack() as opened:
        writer = opened.enter_context(Writer(folder, pack_bytes=PACK_BYTES, bits=bits, draft=part))
        if part and parts.is_kept(folder.parent):
            return Funnel.from_dict(parts.told(folder)[0]["funnel"]), lambda: None
        if writer.done and writer.cursor["made_by"] == made_by:
            return Funnel.from_dict(writer.cursor["funnel"]), lambda: None
        writer.clear()
        made = Marks(marks)
        ending = opened.enter_context(ExitStack())
        log = ending.enter_context(atomic.replacing(folder.parent / DROPPED, lasting=not part))
        funnel = Funnel(log=log, listed=_listed(store.records))
        documents = _counting(store, funnel, prefix << 64 - bits, prefix + 1 << 64 - bits, tell)
        for document in made.through(pipeline(documents, steps, funnel)):
            _keep(writer, document, funnel, made_by)
        tell(_counts(funnel), 1.0)
        opened.pop_all()

    def finish() -> None:
        with writer:
            ending.close()
            made.save(folder.parent)
            writer.commit({"made_by": made_by, "funnel": funnel.as_dict()}, done=True)
            if part:
                parts.keep(folder.parent)

    return funnel, finish


def finished(before: Before, folder: Path, made_by: Mapping[str, Any], listed: float, tell: Tell) -> Funnel:
    """Fill the store `folder` with what is left of work in parts.

    When all that is left to do is comparing, the packs of the parts are taken as they are, and what it drops is
    removed from them by name: no text is written twice.

    listed  share of the documents that DROPPED names
    """
    with Writer(folder, pack_bytes=PACK_BYTES) as writer:
        writer.clear()
        with atomic.replacing(folder.parent / DROPPED) as log:
            for each in before.logs:
                with each.open("rb") as lines:
                    log.writelines(line for line in lines if listed >= 1 or is_listed(json.loads(line)["key"], listed))
            funnel = replace(before.funnel, docs_kept=0, log=log, listed=listed)
            if before.steps:
                for document in pipeline(before.documents(funnel), before.steps, funnel):
                    _keep(writer, document, funnel, made_by)
                    if funnel.docs_kept % 64 == 0:
                        share = funnel.docs_kept / max(before.funnel.docs_kept, 1)
                        tell(f"{funnel.docs_kept:,} documents kept", share)
            else:
                writer.take(before.packs)
                gone = before.compared(funnel)
                for key in gone:
                    writer.remove(key)
                funnel.docs_kept = before.funnel.docs_kept - len(gone)
        tell(_counts(funnel), 1.0)
        writer.commit({"made_by": made_by, "funnel": funnel.as_dict()}, done=True)
    return funnel


def _keep(writer: Writer, document: Document, funnel: Funnel, made_by: Mapping[str, Any]) -> None:
    funnel.docs_kept += 1
    if writer.add(*to_record(document)):
        writer.commit({"made_by": made_by}, wait=False)


def _listed(records: int) -> float:
    """Share of the documents that DROPPED names."""
    return min(1.0, LISTED / max(records, 1))


def _counting(store: Store, funnel: Funnel, low: int, high: int, tell: Tell) -> Iterator[Document]:
    total = store.records or 1
    for record in store.scan(low, high):
        funnel.docs_in += 1
        funnel.bytes_in += len(record.value)
        if funnel.docs_in % 64 == 0:
            tell(_counts(funnel), funnel.docs_in / total)
        yield from_record(record.key, record.value)


def _counts(funnel: Funnel) -> str:
    return f"{funnel.docs_in:,} documents in, {funnel.docs_kept:,} kept"


def _counted(funnel: Funnel | Drops, name: str) -> Drop:
    def drop(document: Document, why: str, rule: str = "") -> None:
        funnel.drop(f"{name}.{rule}" if rule else name, document.key, why)

    return drop
