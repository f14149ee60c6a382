"""How much of its cards an unequal pipeline uses: throughput over the sum of what each card does alone.

Fleets 2:1:1 and 5:3:2:1, emulated (paced by CPU time); links paced so that a message costs 10% of forward + backward of
the fast stage. Stand-alone: the whole model on each card by a plain loop (alone.py) at its best micro-batch, the same
kernels and pacing, all cards side by side, before and after the pipelines of the fleet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from danlu.cli import config, prep, train_run, wiring
from danlu.cli.output import span, table
from danlu.fleet.probe import ENVIRONMENT
from danlu.nouns import Fleet, Plan, Stage
from danlu.plan import splits, text
from danlu.plan.events import StageCost, simulate
from danlu.plan.forecast import links, stage_cost
from danlu.plan.ranks.seats import seats
from danlu.plan.schedule import instructions, message_bytes
from danlu.train.result import Result

MODEL = {"layers": 24, "hidden": 192, "heads": 6, "kv_heads": 6, "ffn": 512, "tied": False}
VOCAB, SEQ = 4096, 192
COUNTS = (24, 96)  # micro-batches of a step
FLEETS = {"211": [2, 1, 1], "5321": [5, 3, 2, 1]}
CASES = tuple(f"{name}_m{count}" for name in FLEETS for count in COUNTS)
SEND = 0.10  # of forward + backward of the fast stage
WARM = 1  # steps before those that are timed; one more follows them, which saves the run
SIZES = (1, 2)  # micro-batches that a card alone tries, in sequences
ALONE_S = 3.0


@dataclass(frozen=True, slots=True)
class Ran:
    """One pipeline: its plan, seconds of its step, its lists simulated with a traced step's costs over that step."""

    plan: Plan
    step_s: float
    bound_share: float


def measure(rounds: int, only: str = "") -> dict[str, Any]:
    """Keys: efficiency_FLEET_mM, even_211_m24, and share_of_bound and forecast_error of each case.

    rounds  timed steps of each case, at least 3; 1 for a quick look at 24 micro-batches of 2:1:1
    only    one of CASES
    """
    keys: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        prepared = config.load(None, environ={}, base={"out": str(out), "data": {"limit_mb": 12, "vocab": VOCAB}})
        prep.prepare(prepared)
        for name in FLEETS:
            counts = [n for n in COUNTS if (only or (CASES[0] if rounds == 1 else f"{name}_m{n}")) == f"{name}_m{n}"]
            for case, ran, alone in _fleet(out, name, counts, rounds) if counts else []:
                count = ran.plan.micro_batches
                sequences = ran.plan.micro_batch * count
                share = sequences / ran.step_s / sum(alone_rate(each, count) for each in alone)
                assert ran.plan.forecast is not None
                error = ran.plan.forecast.step_s / ran.step_s - 1
                keys[case] = share
                keys |= {f"share_of_bound.{case}": ran.bound_share, f"forecast_error.{case}": error}
                layers = " + ".join(f"{each:g}" for each in ran.plan.layers_per_stage)
                rows.append([case, ran.plan.schedule, layers, span(ran.step_s), f"{share:.3f}",
                             f"{ran.bound_share:.3f}", f"{error:+.1%}"])  # fmt: skip
    print(table(["case (emulated)", "schedule", "layers", "step", "of stand-alone", "of its bound", "forecast"], rows))
    return keys


def _fleet(
    out: Path, name: str, counts: Sequence[int], rounds: int
) -> list[tuple[str, Ran, list[dict[int, tuple[float, float]]]]]:
    """Cases of a fleet, with what its cards do alone before and after them."""
    run = config.load(None, environ={}, base={
        "out": str(out), "model": MODEL, "fleet": {"emulate": FLEETS[name]}, "plan": {"micro_batch": 1},
        "data": {"tokens": str(out / "tokens"), "seq": SEQ},
    })  # fmt: skip
    spec, fleet = wiring.spec_of(run), wiring.fleet_of(run, lambda text: None)
    found = []
    before = alone(spec, fleet)
    for count in counts:
        plan = planned(spec, fleet, count)
        found.append((f"efficiency_{name}_m{count}", pipeline(run, plan, rounds)))
        if (name, count) == ("211", 24):
            even = splits.even(spec, plan.fleet, micro_batch=1, micro_batches=count, seq=SEQ)
            found.append((f"even_{name}_m{count}", pipeline(run, even, rounds)))
    after = alone(spec, fleet)
    both = [{size: (fmean((a[size][0], b[size][0])), fmean((a[size][1], b[size][1]))) for size in a}
            for a, b in zip(before, after, strict=True)]  # fmt: skip
    for card, timed in zip(fleet.cards, both, strict=True):
        print(f"{name} {card.name} alone: {alone_rate(timed, 24):.3f} sequences/s ({timed})", file=sys.stderr)
    return [(case, ran, both) for case, ran in found]


def planned(spec: Any, fleet: Fleet, count: int) -> Plan:
    """The best plan, with links on which one message costs SEND of forward + backward of the fast stage."""
    plan = splits.search(spec, fleet, micro_batch=1, micro_batches=count, seq=SEQ)
    fast = max(range(len(plan.stages)), key=lambda stage: plan.fleet.card(plan.stages[stage].cards[0]).cores)
    cost = stage_cost(plan, fast)
    pace = message_bytes(plan) / (SEND * (cost.forward_s + cost.backward_s))
    paced = replace(fleet, links=tuple(replace(link, latency_s=0.0, bandwidth=pace) for link in fleet.links))
    return splits.search(spec, paced, micro_batch=1, micro_batches=count, seq=SEQ)


def pipeline(run: Any, plan: Plan, rounds: int) -> Ran:
    """Train by a plan: the median step, and the plan's lists simulated with what each instruction took."""
    result = trained(run, plan, rounds)
    traced = result.steps[train_run.quiet_step(0, len(result.steps), 1000) - 1].seconds
    return Ran(plan, timed_step_s(result), bound(plan, result) / traced)


def trained(run: Any, plan: Plan, rounds: int, started: Any = None) -> Result:
    """Train by a plan for WARM steps, those that are timed, and one that saves; `started` as train_run has it."""
    steps = WARM + max(3, rounds) + 1 if rounds > 1 else WARM + 2
    here = Path(tempfile.mkdtemp(dir=run.out))
    changed = {"train": run.train.model_copy(update={"steps": steps, "save_every": 1000}), "out": here}
    name = f"{len(seats(plan))} cards"
    return train_run.train_run(run.model_copy(update=changed), plan, name=name, started=started)


def timed_step_s(result: Result) -> float:
    """Median seconds of the steps that are timed."""
    return median(each.seconds for each in result.steps[WARM:-1])


def bound(plan: Plan, result: Result) -> float:
    """Seconds of a step if every instruction took what it took on average in the step that was traced."""
    costs = []
    for spans in result.spans:
        took = defaultdict[str, list[float]](list)
        for op, _, start, end in spans:
            took[op].append(end - start)
        mean = {op: fmean(each) for op, each in took.items()}
        weight, whole = mean.get("backward_weight", 0.0), mean.get("backward")
        back = mean["backward_input"] + weight if whole is None else whole
        split = mean["backward_input"] + weight - back if "backward_input" in mean else 0.0
        costs.append(StageCost(mean["forward"], back, mean["reduce"], 0.0, mean["step"], weight, split))
    return simulate(instructions(plan), costs, links(plan)).step_s


def alone_rate(timed: dict[int, tuple[float, float]], count: int) -> float:
    """Sequences/s of one card alone at its best micro-batch, with an optimizer step every `count` sequences."""
    return max(count / (count / size * batch + step) for size, (batch, step) in timed.items())


def alone(spec: Any, fleet: Fleet) -> list[dict[int, tuple[float, float]]]:
    """Of every card, with all running side by side: by micro-batch, seconds of one and of an optimizer step."""
    where = Path(__file__).with_name("alone.py")
    root = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
    runs = []
    for card in fleet.cards:
        plan = Plan(spec, fleet, (Stage((card.name,), 0, len(spec.units)),), "1f1b", 1, 1, SEQ)
        job = {"plan": text.dumps(plan), "micro_batches": SIZES, "seconds": ALONE_S}
        run = subprocess.Popen([sys.executable, str(where)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, env=environment)  # fmt: skip
        runs.append(run)
        assert run.stdin is not None
        run.stdin.write(json.dumps(job) + "\n")
        run.stdin.flush()
    try:
        for run in runs:
            assert run.stdout is not None and run.stdout.readline() == "ready\n"
        start = time.monotonic() + 0.2
        answers = [run.communicate()[0] for run in _told(runs, start)]
    finally:
        for run in runs:
            run.kill()
            run.wait()
    return [{size: (batch, step) for size, batch, step in json.loads(answer)} for answer in answers]


def _told(runs: list[subprocess.Popen[str]], start: float) -> list[subprocess.Popen[str]]:
    for run in runs:
        assert run.stdin is not None
        run.stdin.write(f"{start}\n")
        run.stdin.flush()
    return runs


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1])), indent=1))
