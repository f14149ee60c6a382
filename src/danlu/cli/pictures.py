"""Pictures as SVG text, for the report and for `danlu plan --svg`. Each takes plain numbers and returns one <svg>.

matplotlib draws; text stays text (selectable, searchable), colours are distinguishable without red-green vision, and
every picture has its numbers in a table beside it on the page.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from typing import Any

from danlu.errors import MissingPackage

INK, FAINT = "#1f2933", "#9aa5b1"
FORWARD, BACKWARD, WAIT, FAULT, SECOND = "#2f6f9f", "#e08e45", "#eef1f4", "#b23a48", "#7a9e7e"
COLOURS = (FORWARD, BACKWARD, SECOND, FAINT)
DASHES = ("-", "--", "-.", ":")
Span = tuple[str, int, float, float]  # instruction name, micro-batch, start and end in seconds


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackage("pictures need matplotlib", why=str(error), fix="pip install 'danlu[report]'") from error
    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "danlu", "font.family": "sans-serif", "font.size": 10,
        "text.color": INK, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    """The figure as one <svg> that scales with its column and has a name for screen readers."""
    from matplotlib import pyplot

    out = io.StringIO()
    figure.savefig(
        out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
    )
    pyplot.close(figure)
    text = out.getvalue()[out.getvalue().index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 width="100%" role="img" aria-label="{title}"', text, count=1)
    # ids repeat between figures of one page; give each picture its own
    mark = f"p{zlib.crc32(title.encode()):x}-"
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{mark}", text)


def timeline(rows: Sequence[tuple[str, Sequence[Sequence[Span]]]], cards: Sequence[str], title: str) -> str:
    """One step as a Gantt chart, several versions of it under each other on one time axis.

    rows   (name, spans of every stage), for example ("forecast", ...); starts count from the step's begin
    cards  label of every stage
    """
    figure, axes = _figure(9, 0.9 + 0.32 * len(rows) * len(cards))
    labels, at = [], 0.0
    places = []
    for name, stages in rows:
        for card, spans in zip(cards, stages, strict=True):
            end = max((span[3] for span in spans), default=0.0)
            axes.barh(at, end, color=WAIT, height=0.8, linewidth=0)
            for op, colour in (("forward", FORWARD), ("backward", BACKWARD)):
                mine = [(start, stop - start) for kind, _, start, stop in spans if kind.startswith(op)]
                axes.broken_barh(mine, (at - 0.4, 0.8), color=colour, edgecolor="white", linewidth=0.4)
            labels.append(f"{card}  {name}")
            places.append(at)
            at -= 1.0
        at -= 0.5
    axes.set_yticks(places, labels)
    axes.set_xlabel("seconds of one step")
    for op, colour in (("forward", FORWARD), ("backward", BACKWARD), ("waiting", WAIT)):
        axes.barh(0, 0, color=colour, label=op)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=3, frameon=False)
    return _svg(figure, title)


def loss_curve(losses: Sequence[float], unigram: float, fault_step: int | None, resumed_step: int | None) -> str:
    """Loss by step in nats, with the unigram entropy as the line to beat and the fault marked."""
    figure, axes = _figure(9, 3.2)
    axes.plot(range(1, len(losses) + 1), losses, color=FORWARD, linewidth=1.8)
    axes.axhline(unigram, color=FAINT, linestyle="--", linewidth=1)
    axes.annotate("entropy of single tokens", (len(losses), unigram), ha="right", va="bottom", color=INK, fontsize=9)
    if fault_step is not None:
        axes.axvline(fault_step, color=FAULT, linewidth=1.2)
        axes.annotate(
            "card killed",
            (fault_step, max(losses)),
            color=FAULT,
            fontsize=9,
            ha="left",
            va="top",
            xytext=(4, 0),
            textcoords="offset points",
        )
        if resumed_step is not None and resumed_step < fault_step:
            axes.axvspan(resumed_step, fault_step, color=FAULT, alpha=0.12, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    return _svg(figure, "Loss by step")


def curves(lines: Sequence[tuple[str, Sequence[int], Sequence[float]]], unit: str, title: str,
           marks: Sequence[int] = (), top: float | None = None) -> str:  # fmt: skip
    """Lines over steps, one colour and one dash each, so that equal ones show through each other; a lone step is a dot.

    lines  (name, steps, values)
    marks  steps at which something was lost
    top    of the picture, where some values are far above the others
    """
    figure, axes = _figure(9, 3.2)
    for at, (name, steps, values) in enumerate(lines):
        axes.plot(steps, values, color=COLOURS[at % len(COLOURS)], linestyle=DASHES[at % len(DASHES)],
                  linewidth=1.6, marker="o" if len(steps) == 1 else None, label=name)  # fmt: skip
    if top is not None:
        axes.set_ylim(0, top)
    for step in marks:
        axes.axvline(step, color=FAULT, linewidth=1, alpha=0.6)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    if len(lines) > 1:
        axes.legend(loc="upper right", frameon=False)
    return _svg(figure, title)


def bars(labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], unit: str, title: str) -> str:
    """Horizontal bars, one group a label, one colour a series, each with its number."""
    figure, axes = _figure(9, 0.7 + 0.34 * len(labels) * len(series))
    height = 0.8 / len(series)
    for place, (name, values) in enumerate(series):
        ys = [-(i + (place + 0.5) * height) for i in range(len(labels))]
        drawn = axes.barh(ys, values, height=height * 0.9, color=COLOURS[place % len(COLOURS)], label=name)
        axes.bar_label(drawn, labels=[_number(value) for value in values], padding=3, fontsize=9, color=INK)
    axes.set_yticks([-(i + 0.4) for i in range(len(labels))], labels)
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    if len(series) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series), frameon=False)
    return _svg(figure, title)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
