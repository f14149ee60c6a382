"""Forecasts of steps beside runs of `danlu train`: every case several times, the cases in turn, by the median.

Nothing of a run is known when its forecast is made. Beside each error stands the instruction that most of it comes
from, and beside each round how quiet the machine was (parts/quiet.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from danlu.cli import train_run
from danlu.cli.bench import load
from danlu.cli.output import span, table
from danlu.cli.train_told import placed
from danlu.nouns import Plan
from danlu.plan.forecast import stage_cost
from danlu.plan.ranks.seats import shared
from danlu.plan.schedule import Instruction
from danlu.train.result import Result

STEPS = 3  # that are timed of each run, after one that warms up


@dataclass(frozen=True, eq=False)
class Case:
    """A plan to forecast and to run, and what it is called: its fleet and its model."""

    fleet: str
    name: str
    run: Any
    plan: Plan

    @property
    def forecast_s(self) -> float:
        """Seconds of a step."""
        assert self.plan.forecast is not None
        return self.plan.forecast.step_s


def compared(key: str, cases: Sequence[Case], rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Figures, and the error of every case by its name (the worst where fleets have the same names).

    KEY_error.CASE  forecast / median step - 1;  KEY_spread.CASE  (longest - shortest) / median of the rounds' steps
    KEY_quiet  of each round, what two processes that share nothing did over what one did
    """
    fleets = load("training/fleets")
    steps, last, quiet = defaultdict[Case, list[float]](list), dict[Case, Result](), list[float]()
    with load("parts/quiet").pair() as look, train_run.starter(cases[0].run, cases[0].plan) as started:
        for _ in range(rounds):
            quiet.append(look())
            for case in cases:
                last[case] = fleets.trained(case.run, case.plan, STEPS, started)
                steps[case].append(fleets.timed_step_s(last[case]))
    keys: dict[str, Any] = {f"{key}_quiet": quiet}
    errors, rows = dict[str, float](), []
    for case, took in steps.items():
        middle = median(took)
        error, wide = case.forecast_s / middle - 1, (max(took) - min(took)) / middle
        keys |= {f"{key}_error.{case.fleet}, {case.name}": error, f"{key}_spread.{case.fleet}, {case.name}": wide}
        errors[case.name] = max(abs(error), errors.get(case.name, 0.0))
        rows.append([case.fleet, case.name, placed(case.plan), span(case.forecast_s), span(middle), f"{wide:.1%}",
                     f"{error:+.1%}", furthest(case.plan, last[case])])  # fmt: skip
    head = ["fleet (emulated)", "model", "plan", "forecast", "step", "spread", "error", "furthest from its forecast"]
    print(table(head, rows))
    print(f"two processes that share nothing did {', '.join(f'{each:.2f}' for each in quiet)} times what one did")
    return keys, errors


def furthest(plan: Plan, result: Result) -> str:
    """The instruction whose seconds over a traced step are furthest from their forecast; "" where cards share."""
    if shared(plan):
        return ""
    found = []
    for stage, spans in enumerate(result.spans):
        took, cost = defaultdict[str, list[float]](list), stage_cost(plan, stage)
        for op, _, start, end in spans:
            if op not in ("reduce", "save"):
                took[op].append(end - start)
        for op, each in took.items():
            charged, real = cost.of(Instruction(op)), fmean(each)
            found.append((abs(charged - real) * len(each), f"stage {stage} {op} {charged / real - 1:+.0%}"))
    return max(found)[1].replace("_", " ")
