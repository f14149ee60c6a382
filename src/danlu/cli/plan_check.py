"""Score the predictor of training time and memory on published runs: tables of the schema in bench/truth/README.md.

A source is a file. Lines marked suspect, and computed times, are left out; everything else is turned into seconds of a
step, or bytes. What the constants of time may see: --leave-one-source-out all other sources; --calibrate K, beside that
or alone, K runs per card and source, the most typical by what they state, then not scored; --folds K all but a K-th.
Rows of mixed cards are scored where --profiles and --links give what their source measured (docs/formats.md).

example:
  danlu plan check bench/truth/*.csv --leave-one-source-out --json score.json
  danlu plan check bench/truth/*.csv --leave-one-source-out --calibrate 3
  danlu plan check bench/truth/*.csv --folds 5
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.fleet.catalogue import Entry
    from danlu.plan.stated.score import Scored
    from danlu.plan.stated.stack_time import Rated


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu plan check`."""
    parser.add_argument("tables", nargs="+", type=Path, metavar="ROWS.csv", help="tables of published runs")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--leave-one-source-out", action="store_true", help="fit to the other tables, score on this one")
    seen.add_argument(
        "--folds", type=int, default=0, metavar="K", help="fit to K - 1 parts of all runs, score the rest"
    )
    parser.add_argument(
        "--calibrate", type=int, default=0, metavar="K", help="set two constants a card by K of its runs"
    )
    parser.add_argument(
        "--constants", type=Path, metavar="FILE", help="constants of time, as --fit or plan fit wrote them"
    )
    parser.add_argument("--fit", type=Path, metavar="FILE", help="write constants fitted to all these tables, use them")
    parser.add_argument("--profiles", type=Path, metavar="FILE", help="layer profiles of a source of mixed cards")
    parser.add_argument("--links", type=Path, metavar="FILE", help="its link matrix")
    parser.add_argument("--residuals", type=Path, metavar="FILE", help="write the errors that intervals are made of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON object")


def run(args: argparse.Namespace) -> int:
    """Score, show the table, write what was asked for."""
    from danlu.cli import output
    from danlu.plan.stated import rows, score, stack_fit, stack_forecast, stack_time

    _sane(args)
    found = [row for path in args.tables for row in rows.read(path)]
    if args.fit is not None:
        known = stack_fit.fit(stack_fit.cases(found, rated))
        output.write_text(args.fit, stack_time.dumps(known))
    else:
        known = stack_time.published() if args.constants is None else stack_time.read(args.constants)
    crossed = _mixed(args)
    options = {"calibrate": args.calibrate, "folds": args.folds}
    scored = score.score(found, rated, args.leave_one_source_out, known, **options) if found or not crossed else ()
    report = score.figures(scored) | {"seen": seen(args), "leave_one_source_out": args.leave_one_source_out}
    report |= {
        "time_mape_mixed": fmean(each.error for each in crossed) if crossed else None,
        "mixed": [{"row": each.row.name, "real": each.row.real, "predicted": each.predicted} for each in crossed],
    }
    print(told(report))
    if args.residuals is not None:
        output.write_text(args.residuals, stack_forecast.dumps(score.residuals(scored)))
    output.write_json(args.json, report)
    return 0


def _mixed(args: argparse.Namespace) -> list[Scored]:
    """Rows of mixed cards with what profiles and links predict; none without both."""
    from danlu.errors import BadValue
    from danlu.plan.stated import mixed, rows
    from danlu.plan.stated.score import Scored

    if (args.profiles is None) != (args.links is None):
        raise BadValue("mixed cards need both their profiles and their links", where="danlu plan check",
                       why=f"--profiles is {args.profiles}, --links {args.links}",
                       fix="--profiles FILE --links FILE; docs/formats.md has both")  # fmt: skip
    if args.profiles is None:
        return []
    profiles, links = mixed.read_profiles(args.profiles), mixed.read_links(args.links)
    return [Scored(row, mixed.seconds(row.setup, stages, profiles, links))
            for path in args.tables for row, stages in rows.read_mixed(path)]  # fmt: skip


def _sane(args: argparse.Namespace) -> None:
    from danlu.errors import BadValue

    if args.calibrate < 0 or args.folds < 0 or args.folds == 1:
        raise BadValue("a count that cannot be meant", where="danlu plan check",
                       why=f"--calibrate is {args.calibrate}, --folds {args.folds}",
                       fix="--calibrate 3, or --folds 5")  # fmt: skip
    if args.calibrate and args.folds:
        raise BadValue("--calibrate and --folds answer different questions", where="danlu plan check",
                       why="folds fit all constants to most rows, calibration two of them to a few",
                       fix="give one of them")  # fmt: skip


def seen(args: argparse.Namespace) -> str:
    """What the constants of time were fitted to, in words."""
    if args.folds:
        return f"fitted to {args.folds - 1} of {args.folds} parts of all runs (a fixed shuffle), scored on the rest"
    base = "fitted to bench/truth and its folder more, or as --fit or --constants says"
    if args.leave_one_source_out:
        base = "fitted to the other sources"
    return base + (f"; two a card set by {args.calibrate} of its runs, not scored" if args.calibrate else "")


def rated(name: str) -> Rated:
    """A card of the catalogue as the model of time wants it. Raises UnknownCard."""
    from danlu.fleet import catalogue
    from danlu.plan.stated.stack_time import Rated

    card = catalogue.entry(name)
    memory, bandwidth, link = (_counted(card, thing) for thing in ("memory", "bandwidth", "link"))
    return Rated(card.name, _counted(card, "bf16"), memory, bandwidth, link, card.watts)


def _counted(card: Entry, thing: str) -> float:
    """The figure that the constants are shares of: what is claimed, or what somebody measured where that is more.

    A measured rate is short of the maker's by what the constants say already: A100s of 40 and 80 GB are rated alike,
    though only one of them was measured.
    """
    both = [[each.plain for each in card.figures[thing] if each.kind == kind] for kind in ("claimed", "measured")]
    return max([card.span(thing).value, *(median(each) for each in both if each)])


def told(report: dict[str, Any]) -> str:
    """The report for people."""
    from danlu.cli import output
    from danlu.plan.stated.score import MEMORY

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
    return "\n".join([
        f"mean |predicted / real - 1|; constants of time: {report['seen']}", "",
        output.table(["source", "time", *MEMORY, "Kendall tau"], lines), "",
        f"cards of 0.9 of the measured peak: {report['false_fits']} of {report['capacity_rows']} runs accepted; "
        f"of 1.15: {percent(report['false_refusals'])} refused",
        f"80 % intervals made of the other sources' errors: {percent(report['interval_coverage'])} of runs inside, "
        f"half of them within {percent(report['interval_half_width'])}",
        *([f"mixed cards, by profiles: {percent(report['time_mape_mixed'])} over {len(report['mixed'])} rows"]
          if report["mixed"] else []), "", "farthest off:",
        *(f"  {row['error']:+.1%}  {row['source']} {row['row']} ({row['kind']})" for row in far),
    ])  # fmt: skip
