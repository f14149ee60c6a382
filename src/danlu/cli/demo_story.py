"""What the demo tells at its end: the flat JSON, the table in the terminal, and the story of the report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.cli import page

if TYPE_CHECKING:
    from danlu.cli.client import Answer
    from danlu.data.prep import Prepared
    from danlu.nouns import Plan
    from danlu.train.result import Result


@dataclass(frozen=True, slots=True)
class Served:
    """The two streamed answers of one server: to a prompt never seen, and to one that shares its beginning."""

    cold: Answer
    warm: Answer
    said_tokens: int


def plan_figures(best: Plan, even: Plan) -> dict[str, Any]:
    """Keys plan.*."""
    assert best.forecast is not None and even.forecast is not None
    return {
        "plan.layers_per_card": list(best.layers_per_stage),
        "plan.forecast_step_s": best.forecast.step_s,
        "plan.even_forecast_step_s": even.forecast.step_s,
    }


def train_figures(result: Result, base: Result, data: Prepared) -> dict[str, Any]:
    """Keys train.* and fault.*."""
    fault = result.faults[0]
    return {
        "train.steps": len(result.steps),
        "train.step_s": result.step_s,
        "train.even_step_s": base.step_s,
        "train.tokens_per_s": result.tokens_per_s,
        "train.loss_first": result.steps[0].loss,
        "train.loss_last": result.steps[-1].loss,
        "train.unigram_entropy": data.manifest["unigram_entropy"],
        "fault.card": fault.card,
        "fault.recovery_s": fault.recovery_s,
        "fault.steps_lost": result.lost,
        "fault.steps_repeated": result.repeated,
        "fault.steps_recomputed": fault.recomputed,
    }


def serve_figures(served: Served) -> dict[str, Any]:
    """Keys serve.*."""
    return {
        "serve.ttft_cold_s": served.cold.first_s,
        "serve.ttft_warm_s": served.warm.first_s,
        "serve.prefix_hit_tokens": served.warm.cached_tokens,
        "serve.tokens_per_s": served.said_tokens / max(1e-9, served.warm.total_s - served.warm.first_s),
    }


def tell(
    plan: Plan, data: Prepared, result: Result, served: Served, figures: dict[str, Any], machine: str
) -> page.Story:
    """What the report shows, from what the stages gave."""
    from danlu.plan.forecast import timeline

    assert plan.forecast is not None
    cards = [plan.fleet.card(stage.cards[0]) for stage in plan.stages]
    rows = [
        page.CardRow(card.name, card.cores, card.flops["fp32"] / 1e9, card.mem_bytes, layers, expected, peak)
        for card, layers, expected, peak in zip(
            cards, plan.layers_per_stage, plan.forecast.stage_bytes, result.peak_bytes, strict=True
        )
    ]
    dropped = sorted(data.dropped.items(), key=lambda item: -item[1])
    funnel = [("read", data.docs_in), *dropped, ("kept", data.docs_kept)]
    fault = result.faults[0]
    return page.Story(
        values=figures, machine=machine, cores=os.cpu_count() or 1, params=plan.model.params, cards=rows, funnel=funnel,
        timelines=[("forecast", timeline(plan).spans), ("measured", result.spans)],
        losses=[step.loss for step in result.steps], fault_step=fault.during, resumed_step=fault.restored,
        learnt_s=result.steps[-1].ended - result.steps[0].ended, answer=served.warm.text,
    )  # fmt: skip


def summary(plan: Plan, figures: dict[str, Any], report: Path) -> str:
    """The table a person sees at the end."""
    from danlu.cli.output import span, table

    f = figures
    layers = " / ".join(f"{count:g}" for count in plan.layers_per_stage)
    error = f["plan.forecast_step_s"] / f["train.step_s"] - 1
    again = f"{f['fault.steps_recomputed']} steps again, {f['fault.steps_lost']} lost"
    gain = f["train.even_step_s"] / f["train.step_s"]
    hits = f["serve.prefix_hit_tokens"]
    rows = [
        ("split over unequal cards", f"{layers} layers", f"{gain:.2f}x the even split"),
        ("forecast of a step", span(f["plan.forecast_step_s"]), f"measured {span(f['train.step_s'])}, {error:+.1%}"),
        ("loss", f"{f['train.loss_last']:.2f}", f"entropy of single tokens {f['train.unigram_entropy']:.2f}"),
        ("fault", f"{f['fault.card']} killed", f"going on after {span(f['fault.recovery_s'])}, {again}"),
        ("bits per weight", f"{f['quant.bits_per_weight']:.2f}", "32 before"),
        ("perplexity", f"{f['quant.ppl_after']:.2f}", f"{f['quant.ppl_before']:.2f} before"),
        (
            "first token",
            span(f["serve.ttft_warm_s"]),
            f"{span(f['serve.ttft_cold_s'])} before {hits} tokens were cached",
        ),
    ]
    return f"\n{table(['', 'figure', 'beside'], rows)}\n\nreport  {report}\n"
