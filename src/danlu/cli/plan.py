"""Split a model over the cards, with a forecast beside that of the even split. Writes OUT/plan.json.

example:
  danlu plan run.yaml --svg step.svg
  danlu plan --fleet.emulate "[4, 2, 2]" --model.layers 12
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.cli.config import Run
    from danlu.nouns import Plan


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu plan`."""
    parser.add_argument("config", nargs="?", type=Path, metavar="RUN.yaml", help="the run; defaults without it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the forecast step as a timeline")


def run(args: argparse.Namespace) -> int:
    """Plan, show the table, write what was asked for."""
    from danlu.cli import config, output, wiring
    from danlu.plan import search, text

    asked = config.load(args.config, args.overrides)
    progress = output.Progress("plan")
    fleet = wiring.fleet_of(asked, progress.show)
    plan = wiring.plan_of(asked, wiring.spec_of(asked), fleet)
    if plan.forecast is None:
        return unforeseen(asked, plan, args.json)
    even = search.even(plan.model, fleet, micro_batch=plan.micro_batch, micro_batches=plan.micro_batches, seq=plan.seq,
                       dtype=plan.dtype)  # fmt: skip
    print(told(plan, even))
    path = asked.out / "plan.json"
    output.write_text(path, text.dumps(plan))
    print(f"\nwritten to {path}")
    if args.svg is not None:
        output.write_text(args.svg, drawn(plan, even))
    output.write_json(args.json, figures(plan, even))
    return 0


def unforeseen(asked: Run, plan: Plan, figures: Path | None) -> int:
    """Say and write a plan whose cards share layers or copies of the model: it can be run, not yet forecast."""
    from danlu.cli import output
    from danlu.cli.train import label, placed
    from danlu.plan import text

    print(f"{placed(plan)}{label(plan)}\nno forecast: what sharing a layer costs is not in the cost model yet")
    output.write_text(asked.out / "plan.json", text.dumps(plan))
    print(f"\nwritten to {asked.out / 'plan.json'}")
    output.write_json(figures, {"cards": [n for each in plan.pipelines for s in each.stages for n in s.cards]})
    return 0


def split_table(plan: Plan) -> str:
    """Which units each card computes, the memory it needs and how busy it should be."""
    from danlu.cli import output

    assert plan.forecast is not None
    rows = []
    for index, (stage, layers) in enumerate(zip(plan.stages, plan.layers_per_stage, strict=True)):
        card = plan.fleet.card(stage.cards[0])
        units = plan.model.units[stage.start : stage.stop]
        rows.append([
            index, card.name + (" *emulated*" if card.emulated else ""), f"{layers:g}", f"{units[0]} .. {units[-1]}",
            f"{output.size(plan.forecast.stage_bytes[index])} of {output.size(card.mem_bytes)}",
            f"{plan.forecast.stage_busy_s[index] / plan.forecast.step_s:.0%}",
        ])  # fmt: skip
    return output.table(["stage", "card", "layers", "units", "memory", "busy"], rows)


def told(plan: Plan, even: Plan) -> str:
    """The plan as a table, and its forecast beside the even split's."""
    from danlu.cli import output

    assert plan.forecast is not None and even.forecast is not None
    label = " *emulated*" if any(plan.fleet.card(stage.cards[0]).emulated for stage in plan.stages) else ""
    spare = sorted({c.name for c in plan.fleet.cards} - {name for stage in plan.stages for name in stage.cards})
    shape = f"{plan.micro_batches} micro-batches of {plan.micro_batch} x {plan.seq} tokens"
    lines = [
        f"{plan.model.family}, {plan.model.params / 1e6:.1f} M parameters, {plan.model.layers} layers; {shape}; "
        f"{plan.schedule}, {plan.dtype}",
        "",
        split_table(plan),
        "",
        output.table(["forecast" + label, "seconds a step", "tokens/s", "layers"], [
            [name, f"{each.forecast.step_s:.4f}", f"{each.forecast.tokens_per_s:.0f}",
             "/".join(f"{count:g}" for count in each.layers_per_stage)]
            for name, each in (("this plan", plan), ("even split", even)) if each.forecast is not None
        ]),
        f"this plan is {even.forecast.step_s / plan.forecast.step_s:.2f} times as fast as the even split",
    ]  # fmt: skip
    if spare:
        lines.append(f"left out, because the step is shorter without: {', '.join(spare)}")
    return "\n".join(lines)


def figures(plan: Plan, even: Plan) -> dict[str, Any]:
    """The command's flat JSON."""
    assert plan.forecast is not None and even.forecast is not None
    return {
        "cards": [name for stage in plan.stages for name in stage.cards],
        "plan.layers_per_card": list(plan.layers_per_stage),
        "plan.schedule": plan.schedule,
        "plan.forecast_step_s": plan.forecast.step_s,
        "plan.forecast_tokens_per_s": plan.forecast.tokens_per_s,
        "plan.stage_busy_s": list(plan.forecast.stage_busy_s),
        "plan.stage_bytes": list(plan.forecast.stage_bytes),
        "plan.even_layers_per_card": list(even.layers_per_stage),
        "plan.even_forecast_step_s": even.forecast.step_s,
    }


def drawn(plan: Plan, even: Plan) -> str:
    """Both forecasts as a picture."""
    from danlu.cli import pictures
    from danlu.plan.forecast import timeline

    rows = [("this plan", timeline(plan).spans)]
    if len(even.stages) == len(plan.stages):
        rows.append(("even split", timeline(even).spans))
    return pictures.timeline(rows, [stage.cards[0] for stage in plan.stages], "One training step, forecast")
