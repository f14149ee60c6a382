"""Score the predictor of training time and memory on published runs: tables of the schema in bench/truth/README.md.

A source is a file. Lines marked suspect, and computed times, are left out; everything else is turned into seconds of a
step, or bytes. With --leave-one-source-out the times of each source are predicted by constants fitted to the others.

example:
  danlu plan check bench/truth/*.csv --leave-one-source-out --json score.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.plan.stack_time import Rated


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu plan check`."""
    parser.add_argument("tables", nargs="+", type=Path, metavar="ROWS.csv", help="tables of published runs")
    parser.add_argument(
        "--leave-one-source-out", action="store_true", help="fit to the other tables, score on this one"
    )
    parser.add_argument("--fit", type=Path, metavar="FILE", help="write constants fitted to all these tables, use them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON object")


def run(args: argparse.Namespace) -> int:
    """Score, show the table, write what was asked for."""
    from danlu.cli import output
    from danlu.plan import rows, score, stack_fit, stack_time

    found = [row for path in args.tables for row in rows.read(path)]
    if args.fit is None:
        known = stack_time.published()
    else:
        known = stack_fit.fit(stack_fit.cases(found, rated))
        output.write_text(args.fit, stack_time.dumps(known))
    report = score.figures(score.score(found, rated, args.leave_one_source_out, known))
    report["leave_one_source_out"] = args.leave_one_source_out
    print(told(report))
    output.write_json(args.json, report)
    return 0


def rated(name: str) -> Rated:
    """A card of the catalogue as the model of time wants it. Raises UnknownCard."""
    from danlu.fleet import catalogue
    from danlu.plan.stack_time import Rated

    card = catalogue.entry(name)
    flops, memory, bandwidth, link = (card.span(thing).value for thing in ("bf16", "memory", "bandwidth", "link"))
    return Rated(card.name, flops, memory, bandwidth, link, card.watts)


def told(report: dict[str, Any]) -> str:
    """The report for people."""
    from danlu.cli import output
    from danlu.plan.score import MEMORY

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    def judged(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    columns = ["time_mape", *(f"memory_mape_{kind}" for kind in MEMORY)]
    lines = [
        [source, *(percent(each[name]) for name in columns), judged(each["tau"])]
        for source, each in report["sources"].items()
    ]
    lines.append(["mean (least tau)", *(percent(report[name]) for name in columns), judged(report["tau_min"])])
    far = sorted(report["rows"], key=lambda row: -abs(row["error"]))[:5]
    fitted = "the other sources" if report["leave_one_source_out"] else "all of bench/truth, or as --fit says"
    return "\n".join([
        f"mean |predicted / real - 1|; the constants of time are fitted to {fitted}", "",
        output.table(["source", "time", *MEMORY, "Kendall tau"], lines), "", "farthest off:",
        *(f"  {row['error']:+.1%}  {row['source']} {row['row']} ({row['kind']})" for row in far),
    ])  # fmt: skip
