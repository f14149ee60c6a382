"""The page about a prep: the funnel, histograms of what was kept and dropped, examples of every rule."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu import __version__
from danlu.cli import page, pictures
from danlu.cli.output import span

if TYPE_CHECKING:
    from danlu.data.document import Document
    from danlu.data.prep import Prepared

SAMPLED = 2000  # documents whose measures are drawn
EXAMPLES = 3  # documents shown for each rule
BINS = 12
# title, unit, caption, count of measure.py or two for their quotient, edges on a logarithmic scale
MEASURES = (
    ("Characters of a document", "characters", "On a logarithmic scale.", ("chars", ""), True),
    ("Characters of a word", "characters", "Mean of each document.", ("spoken_chars", "spoken"), False),
    ("Words with a letter", "share of the words", "Gopher asks for 0.8.", ("alpha_words", "words"), False),
    ("Lines that end like a sentence", "share of the lines", "FineWeb asks for 0.12.", ("ended", "text"), False),
    ("Repeated runs of ten words", "share of the characters", "Gopher allows 0.10.", ("dup10", "chars"), False),
)


def render(made: Prepared, out: Path) -> str:
    """The page as HTML text, about what was prepared in `out`. Raises MissingPackage without matplotlib."""
    from danlu.data import why

    rows = sorted(made.dropped.items(), key=lambda item: -item[1])
    reasons = {each["key"]: each["why"] for each in why.drops(out)}
    shown = []
    for rule, _ in rows:
        shown += [(rule, each.key, reasons[each.key], each.text) for each in why.sample(out, rule, EXAMPLES)]
        shown += [(rule, *each.partition(": ")[::2], "") for each in why.refusals(out, rule)]
    names = ["in", *(name for name, _ in rows), "kept"]
    counts = [float(made.docs_in), *(float(count) for _, count in rows), float(made.docs_kept)]
    return page.filled(
        "prep.html.j2", made=made, rows=rows, examples=shown, span=span, version=__version__,
        when=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"), pictures=list(_histograms(out)),
        funnel=pictures.bars(names, [("documents", counts)], "documents", "What became of every document"),
    )  # fmt: skip


def _histograms(out: Path) -> Iterator[tuple[str, str, str]]:
    from danlu.data import why
    from danlu.data.document import from_record
    from danlu.store.packs import Store

    gone = {each["key"] for each in why.drops(out)}
    store = Store(out / "store" / "raw")
    documents = [from_record(record.key, record.value) for record in islice(store.scan(), SAMPLED)]
    store.close()
    sides = [("kept", [each for each in documents if each.key not in gone]),
             ("dropped", [each for each in documents if each.key in gone])]  # fmt: skip
    columns = [(name, _counts(found)) for name, found in sides]
    for title, unit, words, (part, whole), wide in MEASURES:
        values = [(name, _values(counts, part, whole)) for name, counts in columns]
        yield title, _drawn(values, unit, title, wide), f"{words} {len(documents):,} documents, as they were read."


def _counts(documents: Sequence[Document]) -> Any:
    from danlu.data.measure import measure

    return measure([each.text.encode() for each in documents]).counts.astype(float)


def _values(counts: Any, part: str, whole: str) -> Any:
    from danlu.data.measure import FIELD

    below = np.maximum(counts[:, FIELD[whole]], 1) if whole else 1.0
    return counts[:, FIELD[part]] / below


def _drawn(values: Sequence[tuple[str, Any]], unit: str, title: str, wide: bool) -> str:
    """A histogram as bars: one label a bin, one colour each for what was kept and dropped."""
    every = np.concatenate([each for _, each in values])
    least, most = (float(every.min()), float(every.max())) if len(every) else (0.0, 0.0)
    if wide:
        edges = np.geomspace(max(least, 1), max(most, 2, 1.1 * least), BINS + 1)
    else:
        edges = np.linspace(least, most if most > least else least + 1, BINS + 1)
    labels = [f"{_told(a)} to {_told(b)}" for a, b in zip(edges, edges[1:], strict=False)]
    series = [(name, np.histogram(each, edges)[0].astype(float).tolist()) for name, each in values]
    return pictures.bars(labels, series, f"documents, by {unit}", title)


def _told(edge: float) -> str:
    return f"{edge:,.0f}" if edge >= 100 else f"{edge:.3g}"
