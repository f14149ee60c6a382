"""Calibrate cards by your own runs: two constants for each card, from logs of Megatron-LM, torchtitan or danlu.

A Megatron-LM log states its own run; say the card and the network. For the others a table states the runs: the columns
of bench/truth/README.md, `row` the name of the log without its suffix, `measure` and `value` left empty. The constants
that are written serve `danlu plan --constants` and `danlu plan check --constants`.

example:
  danlu plan fit megatron.log --card A100-80 --cards-per-host 8 --link-gbps 200 --out mine.yaml
  danlu plan fit titan-8b.log titan-70b.log --runs runs.csv --out mine.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.plan.stated.rows import Row
    from danlu.plan.stated.run_logs import Measured
    from danlu.plan.stated.stack_fit import Case
    from danlu.plan.stated.stack_time import Constants


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu plan fit`."""
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="logs of runs, one file each")
    parser.add_argument("--runs", type=Path, metavar="RUNS.csv", help="what was run, by the logs' names")
    parser.add_argument("--card", metavar="NAME", help="card of logs that state their own run")
    parser.add_argument("--cards-per-host", type=int, default=8, metavar="N", help="their cards on one host")
    parser.add_argument("--link-gbps", type=float, metavar="N", help="gigabits/s of one card to other hosts")
    parser.add_argument("--constants", type=Path, metavar="FILE", help="start from these instead of the published ones")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the constants")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON object")


def run(args: argparse.Namespace) -> int:
    """Read the logs, calibrate, show every run before and after."""
    from danlu.cli import output
    from danlu.cli.plan_check import rated
    from danlu.plan.stated import stack_fit, stack_time

    known = stack_time.published() if args.constants is None else stack_time.read(args.constants)
    stated = _stated(args.runs)
    found = [row for path in args.logs for row in _rows(path, args, stated)]
    cases = stack_fit.cases(found, rated)
    fitted = stack_fit.calibrate(cases, known)
    report = figures(cases, known, fitted) | {"peaks": _peaks(found)}
    print(told(report))
    if args.out is not None:
        output.write_text(args.out, stack_time.dumps(fitted, f"danlu plan fit {' '.join(map(str, args.logs))}"))
        print(f"\nwritten to {args.out}")
    output.write_json(args.json, report)
    return 0


def _stated(path: Path | None) -> dict[str, dict[str, str]]:
    from danlu.plan.stated import rows

    return {} if path is None else {line["row"]: line for line in rows.lines(path, rows.STATED)}


def _rows(path: Path, args: argparse.Namespace, stated: dict[str, dict[str, str]]) -> list[Row]:
    """The step's seconds of a log and, where it tells them, its most bytes."""
    from danlu.errors import BadRows
    from danlu.plan.stated import rows, run_logs

    try:
        found = run_logs.read(path.read_text(encoding="utf-8", errors="replace"), str(path))
    except OSError as error:
        raise BadRows(f"cannot read {path}", why=str(error), fix=f"ls -l {path}") from error
    line = stated.get(path.stem)
    if line is None and found.stated:
        line = {"card": args.card or "", "cards_per_host": str(args.cards_per_host), **found.stated}
        line |= {"link_gbps_per_card": str(args.link_gbps)} if args.link_gbps else {}
    missing = [name for name in rows.STATED if line is None or not line.get(name)]
    if line is None or missing:
        raise BadRows(f"nothing says what {path.stem} ran", where=str(path),
                      why=f"not stated: {', '.join(missing)}",
                      fix=f"--runs RUNS.csv with a row {path.stem}"
                      + (", or --card NAME" if found.stated else ""))  # fmt: skip
    return _measured(path, line, found)


def _measured(path: Path, line: dict[str, str], found: Measured) -> list[Row]:
    from danlu.plan.stated import rows

    setup = rows.stated(line, str(path))
    seconds = found.seconds
    if seconds is None:
        assert found.tokens_s is not None
        seconds = setup.global_batch * setup.seq / (found.tokens_s * setup.cards)
    peak = [rows.Row("logs", path.stem, found.reading, found.peak, setup)] if found.peak else []
    return [rows.Row("logs", path.stem, "time", seconds, setup), *peak]


def _peaks(found: list[Row]) -> list[dict[str, Any]]:
    """Measured and predicted bytes of the fullest card; nothing is fitted to them."""
    from danlu.plan.stated.setup import completed
    from danlu.plan.stated.stack_memory import read_as

    return [{"run": row.name, "counted": row.kind, "measured_bytes": row.real,
             "predicted_bytes": read_as(completed(row.setup), row.kind)}
            for row in found if row.kind != "time"]  # fmt: skip


def figures(cases: tuple[Case, ...], known: Constants, fitted: Constants) -> dict[str, Any]:
    """The report: each run before and after, and the two constants of each card."""
    return {
        "runs": [{"run": case.row.name, "card": case.card.name, "measured_s": case.row.real,
                  "before_s": case.predicted(known), "after_s": case.predicted(fitted)} for case in cases],
        "cards": {name: {"matmul_efficiency": fitted.cards[name] / known.cards.get(name, 1.0),
                         "other_seconds": fitted.others[name] / known.others.get(name, 1.0)}
                  for name in sorted({case.card.name for case in cases})},
    }  # fmt: skip


def told(report: dict[str, Any]) -> str:
    """The report for people."""
    from danlu.cli.output import size, table

    runs = [[each["run"], each["card"], f"{each['measured_s']:.3f}",
             *(f"{each[name]:.3f} ({each[name] / each['measured_s'] - 1:+.1%})" for name in ("before_s", "after_s"))]
            for each in report["runs"]]  # fmt: skip
    cards = [f"  {name}: matmuls {each['matmul_efficiency']:.3f} times as fast, all else "
             f"{each['other_seconds']:.3f} times as long as the constants it began with"
             for name, each in report["cards"].items()]  # fmt: skip
    peaks = [f"  {each['run']}: {size(each['measured_bytes'])} {each['counted']}, predicted "
             f"{size(each['predicted_bytes'])}" for each in report["peaks"]]  # fmt: skip
    return "\n".join([table(["run", "card", "measured s", "before", "after"], runs), "", *cards, *peaks])
