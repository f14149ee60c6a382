"""Split a model over any mix of cards: the best plan, why it is the best, and what it should cost.

  danlu plan MODEL FLEET   a fleet of any size. MODEL is a Hugging Face folder, a config.json or a name (llama-3-70b,
                           mixtral-8x7b, qwen2.5-72b, yuan2-102b, gpt3-175b, ...). FLEET is COUNTxCARD+COUNTxCARD, a
                           file of groups, or one that `danlu probe` wrote.
  danlu plan [RUN.yaml]    the run of `danlu train` over this machine's cards. Writes OUT/plan.json.

example:
  danlu plan llama-3-70b 128xA100-80+640xH20 --batch 1024 --seq 4096
  danlu plan qwen2.5-72b 64xH100 --emit megatron --html plan.html
  danlu plan llama-3-405b 400xA100-80+600xH20 --scale 1,10
  danlu plan llama-3-70b 128xH100+128xA100-80 --dtype fp8
  danlu plan run.yaml --svg step.svg
  danlu plan --fleet.emulate "[4, 2, 2]" --model.layers 12
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.nouns import Plan

# of MODEL FLEET alone
LARGE = {"batch": 1024, "seq": 4096, "goal": "time", "schedule": "zb-h1", "dtype": "bf16", "zero": 1,
         "kg_per_kwh": 0.48}  # fmt: skip

SCHEDULES = ("1f1b", "zb-h1", "interleaved", "any")  # of plan/groups/chunks.py, which takes a while to import
ONLY_FLEET = ("price", "watts", "constants", "certificate", "html", "emit", "to", "scale")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu plan`."""
    parser.add_argument("words", nargs="*", metavar="MODEL FLEET | RUN.yaml", help="two words, one, or none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the forecast step as a timeline")
    fleet = parser.add_argument_group("with MODEL FLEET")
    fleet.add_argument("--batch", type=int, help=f"sequences of one step ({LARGE['batch']})")
    fleet.add_argument("--seq", type=int, help=f"tokens of a sequence ({LARGE['seq']})")
    fleet.add_argument("--goal", choices=("time", "cost", "energy"), help="what is to be least (time)")
    fleet.add_argument("--schedule", choices=SCHEDULES, help="order of a pipeline's work (zb-h1; with --emit megatron "
                       "or torchtitan interleaved: 1f1b, in chunks of layers or not); any: the last two")  # fmt: skip
    fleet.add_argument("--dtype", choices=("bf16", "fp16", "fp32", "fp8"), help="of weights and activations (bf16); "
                       "fp8: layers multiply in 8 bits on cards that can, the others run bf16")  # fmt: skip
    fleet.add_argument(
        "--zero",
        type=int,
        choices=(1, 2, 3),
        help="what pipelines may share: 1 the optimizer's states (1), 2 gradients, 3 weights too; "
        "unasked only where memory is short",
    )
    fleet.add_argument("--price", action="append", metavar="CARD=N", help="a card for an hour, in any currency")
    fleet.add_argument("--watts", action="append", metavar="CARD=N", help="a card at work")
    fleet.add_argument("--kg-per-kwh", type=float, metavar="KG", help=f"CO2 of a kWh ({LARGE['kg_per_kwh']})")
    fleet.add_argument("--html", type=Path, metavar="FILE", help="write plan and timelines as one page")
    fleet.add_argument("--emit", choices=("danlu", "megatron", "torchtitan"), help="write it as files of a framework")
    fleet.add_argument("--to", type=Path, metavar="FOLDER", help="of --emit (./plan-FRAMEWORK)")
    fleet.add_argument("--scale", metavar="1,2,10", help="the same on so many times the cards, instead of a plan")
    fleet.add_argument("--constants", type=Path, metavar="FILE", help="of cards, that danlu plan fit made of your runs")
    fleet.add_argument("--certificate", type=Path, metavar="FILE", help="write the proof of the gap")


def run(args: argparse.Namespace) -> int:
    """The plan of a large fleet with two words, of a run with one or none."""
    from danlu.errors import BadValue

    if len(args.words) > 2 or (len(args.words) == 1 and not args.words[0].endswith((".yaml", ".yml"))):
        count = len(args.words)
        why = f"{count} word{'s were' if count > 1 else ' was'} given: {' '.join(args.words)}"
        raise BadValue("danlu plan takes MODEL FLEET or RUN.yaml", why=why,
                       fix="danlu plan llama-3-70b 128xA100-80+640xH20")  # fmt: skip
    if len(args.words) == 2:
        return _of_fleet(args)
    beyond = [name for name in (*LARGE, *ONLY_FLEET) if getattr(args, name) is not None]
    if beyond:
        raise BadValue(f"--{beyond[0].replace('_', '-')} belongs to danlu plan MODEL FLEET", why="a run says it itself",
                       fix="danlu config explain plan, for what run.yaml takes")  # fmt: skip
    return _of_run(args, Path(args.words[0]) if args.words else None)


def _of_fleet(args: argparse.Namespace) -> int:
    from danlu.cli import plan_fleet
    from danlu.errors import BadValue

    if args.overrides:
        raise BadValue(f"{args.overrides[0]} is a key of run.yaml", why="MODEL FLEET reads no run.yaml",
                       fix="danlu plan --help")  # fmt: skip
    elsewhere = args.emit not in (None, "danlu")
    if args.emit == "danlu" and args.schedule in SCHEDULES[2:]:
        raise BadValue(f"--emit danlu has no --schedule {args.schedule}", why="danlu train runs every stage in one "
                       "piece, not in chunks of layers", fix="leave --schedule out: zb-h1 is searched")  # fmt: skip
    for name, value in (LARGE | {"schedule": "interleaved"} if elsewhere else LARGE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.price, args.watts = args.price or [], args.watts or []
    return plan_fleet.run(args, *args.words)


def _of_run(args: argparse.Namespace, path: Path | None) -> int:
    """Plan, show the table, write what was asked for."""
    from danlu.cli import config, output, wiring
    from danlu.plan import splits, text

    asked = config.load(path, args.overrides)
    progress = output.Progress("plan")
    with config.lines(path, args.overrides):
        fleet = wiring.fleet_of(asked, progress.show)
        plan = wiring.plan_of(asked, wiring.spec_of(asked), fleet)
    even = splits.even(plan.model, plan.fleet, micro_batch=plan.micro_batch, seq=plan.seq, dtype=plan.dtype,
                       micro_batches=plan.sequences // plan.micro_batch)  # fmt: skip
    print(told(plan, even))
    path = asked.out / "plan.json"
    output.write_text(path, text.dumps(plan))
    print(f"\nwritten to {path}")
    if args.svg is not None:
        output.write_text(args.svg, drawn(plan, even))
    output.write_json(args.json, figures(plan, even))
    return 0


def split_table(plan: Plan) -> str:
    """Which units each card computes, the memory it needs and how busy it should be: one row for each rank."""
    from danlu.cli import output
    from danlu.cli.train_told import part
    from danlu.plan.ranks.parts import parts
    from danlu.plan.ranks.seats import alone, seats, shared

    assert plan.forecast is not None
    rows, copies = [], [part.copy for part in parts(plan)]
    for seat, bytes_, busy in zip(seats(plan), plan.forecast.stage_bytes, plan.forecast.stage_busy_s, strict=True):
        pipeline, card = alone(plan, seat.replica), plan.fleet.card(seat.card)
        stage = pipeline.stages[seat.stage]
        units = plan.model.units[stage.start : stage.stop]
        place = [copies[seat.replica], pipeline.micro_batches, seat.stage] if shared(plan) else [seat.stage]
        rows.append([
            *place, card.name + (" *emulated*" if card.emulated else ""),
            f"{pipeline.layers_per_stage[seat.stage]:g}" + part(plan, seat), f"{units[0]} .. {units[-1]}",
            f"{output.size(bytes_)} of {output.size(card.mem_bytes)}", f"{busy / plan.forecast.step_s:.0%}",
        ])  # fmt: skip
    places = ["copy", "micro-batches", "stage"] if shared(plan) else ["stage"]
    return output.table([*places, "card", "layers", "units", "memory", "busy"], rows)


def told(plan: Plan, even: Plan) -> str:
    """The plan as a table, and its forecast beside the even split's."""
    from danlu.cli import output
    from danlu.plan.ranks.seats import alone, seats

    assert plan.forecast is not None and even.forecast is not None
    used = {seat.card for seat in seats(plan)}
    label = f" *{plan.emulated}*" if plan.emulated else ""
    spare = sorted({c.name for c in plan.fleet.cards} - used)
    shape = f"{plan.sequences // plan.micro_batch} micro-batches of {plan.micro_batch} x {plan.seq} tokens"
    lines = [
        f"{plan.model.family}, {plan.model.params / 1e6:.1f} M parameters, {plan.model.layers} layers; {shape}; "
        f"{plan.schedule}, {plan.dtype}",
        "",
        split_table(plan),
        "",
        output.table(["forecast" + label, "seconds a step", "tokens/s", "layers"], [
            [name, f"{each.forecast.step_s:.4f}", f"{each.forecast.tokens_per_s:.0f}",
             "; ".join("/".join(f"{count:g}" for count in alone(each, copy).layers_per_stage)
                       for copy in range(len(each.pipelines)))]
            for name, each in (("this plan", plan), ("even split", even)) if each.forecast is not None
        ]),
        f"this plan is {even.forecast.step_s / plan.forecast.step_s:.2f} times as fast as the even split",
    ]  # fmt: skip
    if spare:
        lines.append(f"left out, because the step is shorter without: {', '.join(spare)}")
    return "\n".join(lines)


def figures(plan: Plan, even: Plan) -> dict[str, Any]:
    """The command's flat JSON; lists have one entry for each rank, micro-batches one for each copy of the model."""
    from danlu.plan.ranks.seats import alone, seats

    assert plan.forecast is not None and even.forecast is not None
    return {
        "cards": [seat.card for seat in seats(plan)],
        "plan.layers_per_card": [alone(plan, seat.replica).layers_per_stage[seat.stage] for seat in seats(plan)],
        "plan.micro_batches": [each.micro_batches for each in plan.pipelines],
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
    from danlu.plan.ranks.sharing import nodes

    names = [" & ".join("|".join(seat.card for seat in each) for _, each in groupby(mine, lambda seat: seat.replica))
             for mine in nodes(plan)]  # fmt: skip
    rows = [("this plan", timeline(plan).spans)]
    if len(even.stages) == len(names):
        rows.append(("even split", timeline(even).spans))
    return pictures.timeline(rows, names, "One training step, forecast")
