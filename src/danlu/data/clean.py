"""The pipeline: raw documents through every step, in hash order, into the store of what stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

from danlu import plugins
from danlu.data import rules
from danlu.data.document import Document, Drop, Funnel, Step, from_record, to_record
from danlu.data.ingest import PACK_BYTES, Tell
from danlu.errors import BadValue, NoText
from danlu.store import atomic
from danlu.store.packs import Store, Writer

DROPPED = "dropped.jsonl"  # beside the stores: every document a step took out, by name and rule
Spec = str | Mapping[str, Any]  # of a step: its name, or its name with options

# Cheap and sharp steps first; what they drop need not be compared. Others by name: danlu/data/steps.
STEPS = ("normalise", "exact", "length", "alphabetic", "symbols", "long_words", "repeated_lines", "near")


def pipeline(documents: Iterable[Document], steps: Sequence[Spec], funnel: Funnel) -> Iterator[Document]:
    """Documents that pass every step; `funnel` counts the others under the step's name.

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


def clean(raw: Path, folder: Path, *, source: str, steps: Sequence[Spec] = STEPS, tell: Tell) -> Funnel:
    """Fill the store `folder` with what the steps leave of the store `raw`.

    source  fingerprint of what is in `raw`; a finished store of the same source and steps is taken as it is
    A killed call is done again from its start: it takes seconds, and the steps' memory (what was seen) is not on disk.
    Raises NoText if nothing is left, StoreInUse, DiskFull, DamagedPack.
    """
    made_by = {"source": source, "steps": list(steps), "version": 1}
    with Writer(folder, pack_bytes=PACK_BYTES) as writer:
        if writer.done and writer.cursor["made_by"] == made_by:
            return Funnel.from_dict(writer.cursor["funnel"])
        writer.clear()
        funnel = Funnel()
        store = Store(raw)
        with atomic.replacing(folder.parent / DROPPED) as log:
            funnel.log = log
            for document in pipeline(_counting(store, funnel, tell), steps, funnel):
                funnel.docs_kept += 1
                if writer.add(*to_record(document)):
                    writer.commit({"made_by": made_by})
        writer.commit({"made_by": made_by, "funnel": funnel.as_dict()}, done=True)
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


def _counting(store: Store, funnel: Funnel, tell: Tell) -> Iterator[Document]:
    total = store.records or 1
    for record in store.scan():
        funnel.docs_in += 1
        funnel.bytes_in += len(record.value)
        if funnel.docs_in % 64 == 0:
            tell(f"{funnel.docs_in:,} documents in, {funnel.docs_kept:,} kept", funnel.docs_in / total)
        yield from_record(record.key, record.value)


def _counted(funnel: Funnel, name: str) -> Drop:
    def drop(document: Document, why: str) -> None:
        funnel.drop(name, document.key, why)

    return drop
