"""The report: one self-contained HTML page, no request to anywhere, readable on a phone and on paper."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from danlu import __version__
from danlu.cli import pictures
from danlu.cli.output import size, span

if TYPE_CHECKING:
    from danlu.train.history import History

FAR = 4.0  # times the usual step, above which a picture of step times ends
# Key of the step log, title, unit of the axis, caption.
CURVES = (
    ("loss", "Loss by step", "nats per token", "Training loss of every step of the final curve."),
    (
        "seconds",
        "Seconds of a step",
        "seconds",
        "Wall time of every step, up to four times the usual; one beside a snapshot, or after a start, takes longer.",
    ),
    ("norm", "Gradient norm", "norm", "Norm of the gradient before clipping."),
    ("lr", "Learning rate", "rate", "As the schedule gave it."),
)


@dataclass(frozen=True, slots=True)
class CardRow:
    """One card as the report shows it: speed in cores, bytes of memory it has, was forecast to need, and used."""

    name: str
    speed: float
    gflops: float
    mem: int
    layers: float
    forecast_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the page tells.

    values     the flat JSON of the run
    funnel     (what became of documents, how many)
    timelines  ("forecast", spans of every stage), ("measured", ...)
    losses     one per step, in nats
    learnt_s   seconds the training took
    """

    values: Mapping[str, Any]
    machine: str
    cores: int
    params: int
    cards: Sequence[CardRow]
    funnel: Sequence[tuple[str, int]]
    timelines: Sequence[tuple[str, Sequence[Sequence[pictures.Span]]]]
    losses: Sequence[float]
    fault_step: int
    resumed_step: int
    learnt_s: float
    answer: str = ""
    when: datetime.datetime = field(default_factory=datetime.datetime.now)


def filled(name: str, **values: Any) -> str:
    """A template of this folder, which may extend the others here, with its values."""
    import jinja2

    room = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(Path(__file__).parent))
    return str(room.get_template(name).render(values))


def _top(curves: Sequence[Sequence[float]]) -> float | None:
    """Where a picture of step times may end so that the first steps, which warm up, do not flatten the others."""
    top = FAR * max((median(values) for values in curves if len(values) > 2), default=0.0)
    return top if 0 < top < max(max(values, default=0.0) for values in curves) else None


def render_runs(runs: Sequence[History]) -> str:
    """A page about one run, or several side by side. Raises MissingPackage without matplotlib."""
    drawn = []
    for key, title, unit, words in CURVES:
        lines = [(run.name, [at["step"] for at in run.steps], [at[key] for at in run.steps]) for run in runs]
        marks = [fault["during"] for run in runs for fault in run.faults]
        top = _top([values for _, _, values in lines]) if key == "seconds" else None
        drawn.append((title, pictures.curves(lines, unit, title, marks, top), words))
    imitated = "; ".join(sorted({run.emulated for run in runs} - {""}))
    return filled(
        "runs.html.j2", runs=runs, pictures=drawn, now=time.time(), version=__version__, span=span,
        when=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"), emulated=imitated,
    )  # fmt: skip


def render(story: Story) -> str:
    """The page as HTML text."""
    values, names = story.values, [row.name for row in story.cards]
    memory = [
        ("forecast", [row.forecast_bytes / 2**20 for row in story.cards]),
        ("measured", [row.peak_bytes / 2**20 for row in story.cards]),
    ]
    documents = [("documents", [count for _, count in story.funnel])]
    first_token = [("seconds", [values["serve.ttft_cold_s"], values["serve.ttft_warm_s"]])]
    unigram = float(values["train.unigram_entropy"])
    drawn = {
        "memory": pictures.bars(names, memory, "MiB", "Memory by card"),
        "funnel": pictures.bars([name for name, _ in story.funnel], documents, "documents", "What became of documents"),
        "timeline": pictures.timeline(story.timelines, names, "One training step, forecast and measured"),
        "loss": pictures.loss_curve(story.losses, unigram, story.fault_step, story.resumed_step),
        "ttft": pictures.bars(["cold", "prefix in cache"], first_token, "seconds", "Time to first token"),
    }
    return filled(
        "report.html.j2", values=story.values, machine=story.machine, cores=story.cores, params=story.params,
        cards=story.cards, pictures=drawn, fault={"step": story.fault_step}, answer=story.answer,
        learnt_s=story.learnt_s, version=__version__, when=story.when.strftime("%Y-%m-%d %H:%M"), span=span, size=size,
    )  # fmt: skip
