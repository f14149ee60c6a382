"""Train a model over the cards of its plan, one process per card; survives the death of any of them.

Data is prepared and a plan is made first where they are missing. Snapshots, step log and events are in OUT; a run that
was stopped goes on with --train.resume true, also over other cards.

example:
  danlu train run.yaml --train.steps 200 --json train.json
  danlu train run.yaml --kill 1@20     # a drill: stage 1 is killed in the middle of step 20
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.cli.train_told import figures, label, placed, summary

if TYPE_CHECKING:
    from danlu.cli.run_text import Run
    from danlu.nouns import Plan


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, which drill, and where its figures go."""
    parser.add_argument("config", type=Path, nargs="?", help="run.yaml; the defaults without it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")
    parser.add_argument("--kill", metavar="STAGE@STEP", help="kill a stage's process (from 0) in the middle of a step")


def run(args: argparse.Namespace) -> int:
    """Train, and say what came of it."""
    from danlu.cli import config, output, wiring
    from danlu.cli.train_away import trained
    from danlu.fault import drill
    from danlu.plan.ranks.seats import seats
    from danlu.train.snapshot import start_of

    run = config.load(args.config, args.overrides)
    # What is sure to be refused is refused before minutes of work.
    start = start_of(run.out.resolve(), run.train.resume)
    if args.kill:
        drill.parse(args.kill, None, run.train.steps, start)
    with config.lines(args.config, args.overrides):
        wiring.spec_of(run)
        plan = planned(run)
    drills = [drill.parse(args.kill, len(seats(plan)), run.train.steps, start)] if args.kill else []
    plan, result, away = trained(run, plan, drills=drills)
    print("\n".join([summary(plan, result), *(each.words for each in away)]))
    lost = {"fault.away": [each.cards for each in away], "fault.replan_s": away[-1].seconds} if away else {}
    output.write_json(args.json, figures(run, plan, result) | lost)
    return 0


def planned(run: Run) -> Plan:
    """The plan of a run, its tokens prepared first where they are missing."""
    from danlu.cli import output, prep, wiring
    from danlu.train.job import check_dtype

    if run.train.dtype == "fp8" and run.plan.path is None:
        check_dtype("fp8", wiring.fleet_of(run, output.Progress("plan").show))  # before minutes of work
    if run.data.tokens is None and not (run.out / "tokens" / "manifest.json").exists():
        prep.prepare(run)
    line = output.Progress("plan")
    spec = wiring.spec_of(run)
    plan = wiring.plan_of(run, spec, wiring.fleet_of(run, line.show))
    forecast = f", forecast {output.span(plan.forecast.step_s)} a step" if plan.forecast else ""
    line.done(f"{placed(plan)}{label(plan)}{forecast}")
    return plan
