"""The report: one self-contained HTML page, no request to anywhere, readable on a phone and on paper."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu import __version__
from danlu.cli import pictures
from danlu.cli.output import size, span


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


def render(story: Story) -> str:
    """The page as HTML text."""
    import jinja2

    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
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
    return jinja2.Environment(autoescape=True).from_string(template).render(
        values=story.values, machine=story.machine, cores=story.cores, params=story.params, cards=story.cards,
        pictures=drawn, fault={"step": story.fault_step}, answer=story.answer, learnt_s=story.learnt_s,
        version=__version__, when=story.when.strftime("%Y-%m-%d %H:%M"), span=span, size=size,
    )  # fmt: skip
