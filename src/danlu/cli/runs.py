"""Look at training runs: `ls` lists them, `show` tells about one, `compare` puts several, `send` sends their curves.

FOLDER is a run, or a folder that holds runs. A run that is still going shows where it is. --html writes a page with
curves that needs no network; OUT/tensorboard of every run can be given to TensorBoard; `send` gives the curves to
Weights & Biases, and follows a run that is still going.

example:
  danlu runs ls runs
  danlu runs compare runs/even runs/best --html compare.html
  WANDB_MODE=offline danlu runs send runs/best --project tiny
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.train.history import History


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which runs."""
    parser.add_argument("act", choices=("ls", "show", "compare", "send"), help="what to do")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="runs, or folders of runs; runs/")
    parser.add_argument("--html", type=Path, metavar="FILE", help="for show and compare: write a page with curves")
    parser.add_argument("--project", default="danlu", metavar="NAME", help="for send: where they go (danlu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Read the runs and tell about them."""
    from danlu.cli import output
    from danlu.errors import BadValue
    from danlu.train import history

    by_folder = {folder: history.find(folder) for folder in args.folders or [Path("runs")]}
    found = [each for runs in by_folder.values() for each in runs]
    if args.act == "ls":
        print(listed(history.readable(found)))
        return 0
    for folder, runs in by_folder.items():
        if not runs:
            raise BadValue(f"{folder} holds no run", why="neither it nor a folder in it has a steps.jsonl",
                           fix="danlu runs ls FOLDER")  # fmt: skip
    if args.act == "send":
        for each in found:
            sent(each, args.project)
        return 0
    chosen = [history.read(each) for each in (found[:1] if args.act == "show" else found)]
    print(shown(chosen[0]) if args.act == "show" else compared(chosen))
    if args.html is not None:
        from danlu.cli.page import render_runs

        output.write_text(args.html, render_runs(chosen))
        print(f"\nwritten to {args.html}")
    output.write_json(args.json, figures(chosen))
    return 0


def sent(run: Path, project: str) -> None:
    """Send one run, with a progress line."""
    from danlu.cli import output
    from danlu.train import tracker

    line, step = output.Progress("send"), 0
    for step in tracker.send(run, project):
        line.show(f"{run}: step {step}")
    line.done(f"{run}: {step} steps to {project}")


def listed(runs: Sequence[tuple[Path, Any]]) -> str:
    """The table of `ls`; a run that cannot be read keeps its row."""
    from danlu.cli.output import span, table
    from danlu.errors import DanluError
    from danlu.train.history import age

    rows = []
    for path, each in runs:
        if isinstance(each, DanluError):
            rows.append([str(path), "unreadable", each.what, "", "", "", ""])
            continue
        last = each.steps[-1] if each.steps else None
        rows.append([
            str(path), each.state(time.time()), f"{last['step'] if last else 0}/{each.wanted or '?'}",
            f"{last['loss']:.3f}" if last else "", f"{each.tokens_per_s:,.0f}", str(len(each.faults)),
            f"{span(age(last['t']))} ago" if last else "",
        ])  # fmt: skip
    return table(["run", "state", "step", "loss", "tokens/s", "faults", "last step"], rows) if rows else "no runs"


def shown(each: History) -> str:
    """What a person wants to know about one run."""
    from danlu.cli.output import span
    from danlu.cli.plan import split_table

    model, forecast = each.plan.model, each.plan.forecast
    last = each.steps[-1] if each.steps else {"step": 0, "loss": float("nan")}
    first = each.steps[0] if each.steps else last
    label = f" ({each.emulated})" if each.emulated else ""
    lines = [
        f"{each.name}: {each.state(time.time())} at step {last['step']}/{each.wanted or '?'}",
        f"{model.family}, {model.params / 1e6:.1f} M parameters, {model.layers} layers; {each.plan.schedule}, "
        f"{each.plan.sequences} sequences of {each.plan.seq} tokens a step, {each.plan.micro_batch} in a micro-batch",
        f"loss {first['loss']:.3f} -> {last['loss']:.3f}; {span(each.step_s)} a step"
        + (f", forecast {span(forecast.step_s)}" if forecast else "") + f"{label}; {each.tokens_per_s:,.0f} tokens/s",
        "", split_table(each.plan),
    ]  # fmt: skip
    lines += [
        f"{fault.get('card') or 'a line'} was lost in step {fault['during']}; the run went on from step "
        f"{fault['restored']}" for fault in each.faults
    ]  # fmt: skip
    return "\n".join(lines)


def compared(runs: Sequence[History]) -> str:
    """Runs side by side; losses at the last step that all of them have."""
    from danlu.cli.output import span, table

    common = min((each.steps[-1]["step"] if each.steps else 0) for each in runs)
    base = runs[0].tokens_per_s
    rows = []
    for each in runs:
        at = next((line["loss"] for line in each.steps if line["step"] == common), None)
        rows.append([
            each.name, each.cards, each.plan.schedule, span(each.step_s), f"{each.tokens_per_s:,.0f}",
            f"{each.tokens_per_s / base:.2f}x" if base else "", "" if at is None else f"{at:.4f}",
            f"{each.steps[-1]['loss']:.4f}" if each.steps else "", len(each.faults),
        ])  # fmt: skip
    head = ["run", "cards", "schedule", "a step", "tokens/s", "speed", f"loss at {common}", "last loss", "faults"]
    return table(head, rows)


def figures(runs: Sequence[History]) -> dict[str, Any]:
    """The command's flat JSON."""
    values: dict[str, Any] = {}
    for each in runs:
        last = each.steps[-1] if each.steps else None
        values |= {
            f"{each.name}.state": each.state(time.time()), f"{each.name}.step": last["step"] if last else 0,
            f"{each.name}.loss": last["loss"] if last else None, f"{each.name}.step_s": each.step_s,
            f"{each.name}.tokens_per_s": each.tokens_per_s, f"{each.name}.faults": len(each.faults),
        }  # fmt: skip
    return values
