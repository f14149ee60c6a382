"""A step of a plan over a large fleet as a picture: stages over time, memory bars beside them. SVG and HTML, one file.

Hand-written SVG: a stage's micro-batches are one path per colour, so that 34 stages of 100 micro-batches stay small.
The order is the plan's, played from each stage's own seconds; what the forecast has beyond it is said.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace

from danlu.cli.output import size, span
from danlu.plan.groups import interleaved
from danlu.plan.groups.grouped import GroupedPlan, Replicas
from danlu.plan.groups.timeline import Bar, bars, formula

COLOURS = {"forward": "#2f6f9f", "backward": "#e08e45", "weight": "#c9584c", "message": "#7a9e7e", "once": "#8064a2",
           "bubble": "#e6eaee"}  # fmt: skip
INK, FAINT, FULL = "#1f2933", "#9aa5b1", "#b23a48"
LEFT, WIDE, MEMORY, RIGHT = 170, 900, 150, 110
STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1400px;margin:2em auto;padding:0 1em}
pre{font:13px/1.45 ui-monospace,monospace;background:#f6f8fa;padding:1em;overflow-x:auto}
svg{width:100%;height:auto} h1{font-size:1.5em} h2{font-size:1.15em;margin-top:2em}"""


@dataclass(frozen=True, slots=True)
class Row:
    """A stage's line: what stands to its left, its bars, and the memory of a card."""

    label: str
    bars: Sequence[Bar]
    bytes: int
    mem_bytes: int


def svg(plan: GroupedPlan, which: int = 0) -> str:
    """One kind of pipeline of the plan as an <svg> that stands alone."""
    each = plan.replicas[which]
    lines = rows(plan, each)
    return _drawn(lines, _title(plan, each), _note(plan, each, max(bar.stop for line in lines for bar in line.bars)))


def page(plan: GroupedPlan, told: str, heading: str) -> str:
    """The whole plan as one HTML file that loads nothing: text, and the first kinds of pipelines as pictures."""
    parts = []
    for at, each in enumerate(plan.replicas[:4]):
        parts.append(f"<h2>{html.escape(_title(plan, each))}</h2>\n{svg(plan, at)}")
    more = len(plan.replicas) - 4
    if more > 0:
        parts.append(f"<p>{more} more kinds of pipelines are like these; the table has them.</p>")
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(heading)}</title>'
            f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(heading)}</h1>\n"
            + "\n".join(parts)
            + f"\n<h2>The plan in words</h2>\n<pre>{html.escape(told)}</pre>\n</body></html>\n")  # fmt: skip


def rows(plan: GroupedPlan, each: Replicas) -> list[Row]:
    """The lines of one pipeline's picture."""
    per, found = len(plan.model.recipe), []
    shown = replace(each, micro_batches=shown_of(each))
    played = interleaved.bars(plan, shown) if each.chunks > 1 else bars(plan, shown)
    for number, (stage, drawn) in enumerate(zip(each.stages, played, strict=True)):
        group = plan.fleet.groups[stage.group]
        body = sum(unit.startswith("layers.") for unit in plan.model.units[stage.start : stage.stop]) / per
        label = f"{number}: {stage.cards} x {group.card}, {body:g} layers"
        found.append(Row(label, drawn, stage.peak, group.mem_bytes))
    return found


def shown_of(each: Replicas) -> int:
    """Micro-batches that are drawn: all where a person can tell them apart, else enough to fill the pipeline twice."""
    most = max(24, 2 * len(each.stages))
    return min(each.micro_batches, most if each.chunks == 1 else most - most % len(each.stages))


def _note(plan: GroupedPlan, each: Replicas, end: float) -> str:
    """What the picture is not; `end` seconds of what is drawn."""
    said = []
    if shown_of(each) < each.micro_batches:
        said.append(f"drawn with {shown_of(each)} of {each.micro_batches} micro-batches")
    if each.chunks > 1:
        said.append(f"interleaved 1F1B, {each.chunks} chunks of layers a stage")
    elif plan.schedule != "1f1b":
        forecast = formula(each, shown_of(each))
        said.append(f"{plan.schedule}: gradients of weights are put off to where a stage would wait; so played "
                    f"{span(end)}, by the forecast's formula {span(forecast)}")  # fmt: skip
    return "; ".join(["time since the step began", *said])


def _title(plan: GroupedPlan, each: Replicas) -> str:
    cards = ", ".join(dict.fromkeys(plan.fleet.groups[stage.group].card for stage in each.stages))
    return (f"{each.copies} x a pipeline of {len(each.stages)} stages on {cards}: {each.micro_batches} micro-batches "
            f"of {each.micro_batch}, {span(each.seconds)} a step")  # fmt: skip


def _drawn(lines: Sequence[Row], title: str, note: str) -> str:
    tall = max(9, min(26, 760 // len(lines)))
    end = max(bar.stop for line in lines for bar in line.bars)
    scale, top = WIDE / end, 46
    bottom = top + tall * len(lines)
    width = LEFT + WIDE + 24 + MEMORY + RIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 44}" role="img" '
             f'aria-label="{html.escape(title)}" font-family="sans-serif" font-size="{min(12, tall - 1)}" '
             f'fill="{INK}">', *_legend(), _memory_head(top)]  # fmt: skip
    for at, line in enumerate(lines):
        y = top + at * tall
        middle = y + tall * 0.68
        parts.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{html.escape(line.label)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{WIDE}" height="{tall - 2}" fill="{COLOURS["bubble"]}"/>')
        parts += _paths(line.bars, y, tall - 2, scale)
        parts += _memory(line, y, tall - 2, middle)
    return "\n".join([*parts, *_axis(end, top, bottom, note), "</svg>"])


def _paths(drawn: Sequence[Bar], y: float, tall: float, scale: float) -> list[str]:
    """One path per kind of work; a hairline stays between neighbours where there is room for it."""
    found = []
    for kind in ("forward", "backward", "weight", "message", "once"):
        pieces = []
        for bar in drawn:
            if bar.kind == kind:
                wide = (bar.stop - bar.start) * scale
                wide = wide - 0.5 if wide > 2 else wide
                pieces.append(f"M{LEFT + bar.start * scale:.2f} {y:.1f}h{wide:.2f}v{tall:.1f}h-{wide:.2f}z")
        if pieces:
            found.append(f'<path fill="{COLOURS[kind]}" d="{"".join(pieces)}"/>')
    return found


def _memory(line: Row, y: float, tall: float, middle: float) -> list[str]:
    x, share = LEFT + WIDE + 24, min(1.0, line.bytes / line.mem_bytes)
    colour = FULL if share > 0.9 else COLOURS["forward"]
    return [f'<rect x="{x}" y="{y}" width="{MEMORY}" height="{tall}" fill="{COLOURS["bubble"]}"/>',
            f'<rect x="{x}" y="{y}" width="{MEMORY * share:.1f}" height="{tall}" fill="{colour}"/>',
            f'<text x="{x + MEMORY + 6}" y="{middle:.1f}">{size(line.bytes)}, {share:.0%}</text>']  # fmt: skip


def _memory_head(top: float) -> str:
    return f'<text x="{LEFT + WIDE + 24}" y="{top - 8}" font-size="12">memory of a card</text>'


def _legend() -> list[str]:
    found, x = [], LEFT
    names = {"forward": "forward", "backward": "backward (with recomputation)",
             "weight": "put-off gradients of weights", "message": "messages",
             "once": "gradients, optimizer", "bubble": "bubble: nothing to do"}  # fmt: skip
    for kind, text in names.items():
        found.append(f'<rect x="{x}" y="10" width="14" height="14" fill="{COLOURS[kind]}"/>'
                     f'<text x="{x + 19}" y="21" font-size="12">{text}</text>')  # fmt: skip
        x += 40 + 7 * len(text)
    return found


def _axis(end: float, top: float, bottom: float, note: str) -> list[str]:
    found = []
    for at in range(6):
        x = LEFT + WIDE * at / 5
        found.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom + 4}" stroke="{FAINT}" stroke-width="0.5"/>'
                     f'<text x="{x}" y="{bottom + 18}" text-anchor="middle" font-size="12">'
                     f"{span(end * at / 5)}</text>")  # fmt: skip
    return [*found, f'<text x="{LEFT + WIDE / 2}" y="{bottom + 36}" text-anchor="middle" font-size="12">'
            f"{html.escape(note)}</text>"]  # fmt: skip
