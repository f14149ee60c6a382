"""How far predictions are from published rows: the numbers of `danlu plan check`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from danlu.errors import BadRows
from danlu.plan.stated import stack_forecast, stack_memory
from danlu.plan.stated.rows import Row
from danlu.plan.stated.score_split import splits
from danlu.plan.stated.setup import Setup, choices
from danlu.plan.stated.stack_fit import FEW, FEW_BEND, Case, cases, fit
from danlu.plan.stated.stack_fit import calibrate as tune
from danlu.plan.stated.stack_forecast import Residual
from danlu.plan.stated.stack_time import Constants, Rated, published, seconds

MEMORY = ("formula", "allocated", "device", "reserved")
TIE = 0.03  # times closer than this are ties
TOO_SMALL, ENOUGH = 0.9, 1.15  # of a measured peak
RANKED = 8  # rows a source needs before their order is judged


@dataclass(frozen=True, slots=True)
class Scored:
    """A row and what was predicted for it; for times also the shares of its seconds by stack_forecast.NAMES."""

    row: Row
    predicted: float
    shares: tuple[float, ...] = ()

    @property
    def error(self) -> float:
        """|predicted / real - 1|."""
        return abs(self.predicted / self.row.real - 1)


def score(
    rows: Sequence[Row], rated: Callable[[str], Rated], leave_out: bool = False, known: Constants | None = None,
    *, calibrate: int = 0, folds: int = 0,
) -> tuple[Scored, ...]:  # fmt: skip
    """Every row with its prediction, but those that calibrated.

    rated       a card by its name
    known       constants of time where none are fitted; the published ones without it
    leave_out, calibrate, folds   what the constants of time may see (score_split.splits); memory fits nothing here
    Raises BadRows where nothing can be scored or nothing is left to fit to, and what `rated` raises.
    """
    if not rows:
        raise BadRows("no row is left to score", why="all lines are marked suspect, or the tables are empty",
                      fix="danlu plan check bench/truth/*.csv")  # fmt: skip
    found = [Scored(row, _bytes(row)) for row in rows if row.kind != "time"]
    for split in splits(cases(rows, rated), leave_out, calibrate, folds):
        constants = fit(split.fitted) if split.fitted else known or published()
        if split.tuned:
            constants = tune(split.tuned, constants, FEW, FEW_BEND)
        found += [_timed(case, constants) for case in split.tested]
    return tuple(found)


def _timed(case: Case, constants: Constants) -> Scored:
    run, amounts = min(case.runs, key=lambda each: seconds(each[0], each[1], case.card, constants))
    parts = stack_forecast.terms(run, amounts, case.card, constants)
    total = float(seconds(run, amounts, case.card, constants))
    return Scored(case.row, total, tuple(part / total for part in parts.values()))


def residuals(scored: Sequence[Scored]) -> tuple[Residual, ...]:
    """The errors of times, with what they are made of."""
    times = [each for each in scored if each.row.kind == "time"]
    return tuple(Residual(e.row.source, math.log(e.predicted / e.row.real), e.shares) for e in times)


def figures(scored: Sequence[Scored]) -> dict[str, Any]:
    """The report: None for what no row can answer.

    interval_coverage  share of runs inside an interval that is made of the other sources' errors

    time_mape    mean over rows of |predicted/real - 1| in seconds of a step (lines of one run are averaged first), then
                 mean over sources; time_worst_source is the largest of these
    tau_min      smallest Kendall tau inside a source of RANKED rows or more; pairs within TIE are left out
    memory_mape  the same mean, of bytes, by kind
    false_fits, false_refusals   on cards of TOO_SMALL times the measured peak, how many runs are accepted; on cards of
                 ENOUGH times it, what share is refused (capacity_rows: readings of real cards, formulas are none)
    """
    times = [each for each in scored if each.row.kind == "time"]
    by_source = {source: _mape(each) for source, each in _split(times).items()}
    worst = max(by_source, key=lambda name: by_source[name], default=None)
    taus = {source: tau(_runs(each)) for source, each in _split(times).items() if len(_runs(each)) >= RANKED}
    memory = {kind: _over_sources([each for each in scored if each.row.kind == kind]) for kind in MEMORY}
    peaks = [each for each in scored if each.row.kind in MEMORY[1:]]
    refused = [each for each in peaks if not stack_memory.fits(each.predicted, ENOUGH * each.row.real)]
    covered, width = stack_forecast.coverage(residuals(scored)) if len(by_source) > 1 else (None, None)
    report: dict[str, Any] = {
        "interval_coverage": covered,
        "interval_half_width": width,
        "false_fits": sum(stack_memory.fits(each.predicted, TOO_SMALL * each.row.real) for each in peaks),
        "false_refusals": len(refused) / len(peaks) if peaks else None,
        "capacity_rows": len(peaks),
        "time_mape": fmean(by_source.values()) if by_source else None,
        "time_worst_source": by_source[worst] if worst else None,
        "time_worst_source_name": worst,
        "tau_min": min(taus.values(), default=None),
        "memory_mape": memory,
        **{f"memory_mape_{kind}": value for kind, value in memory.items()},
        "time_rows": len({(each.row.source, each.row.name) for each in times}),
        "sources": {source: {"time_mape": by_source.get(source), "tau": taus.get(source),
                             **{f"memory_mape_{kind}": _over_sources([e for e in each if e.row.kind == kind])
                                for kind in MEMORY}} for source, each in _split(scored).items()},
        "rows": [{"source": each.row.source, "row": each.row.name, "kind": each.row.kind, "real": each.row.real,
                  "predicted": each.predicted, "error": each.predicted / each.row.real - 1,
                  "dominant": _dominant(each)} for each in scored],
    }  # fmt: skip
    return report


def _dominant(scored: Scored) -> str | None:
    return max(zip(scored.shares, stack_forecast.NAMES, strict=True))[1] if scored.shares else None


def tau(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau of (real, predicted) pairs; a pair of reals within TIE is no pair, equal predictions count none."""
    signs = [math.copysign(1, a[0] - b[0]) * ((a[1] > b[1]) - (a[1] < b[1])) for a, b in combinations(pairs, 2)
             if abs(a[0] - b[0]) > TIE * min(a[0], b[0])]  # fmt: skip
    return fmean(signs) if signs else 1.0


def _bytes(row: Row) -> float:
    def of(run: Setup) -> float:
        if row.kind == "formula":
            return stack_memory.formula(run, row.embedding)
        return stack_memory.read_as(run, row.kind)

    return of(choices(row.setup)[0])


def _runs(scored: Iterable[Scored]) -> list[tuple[float, float]]:
    """(real, predicted) of each run: the mean of its lines."""
    lines: dict[str, list[Scored]] = {}
    for each in scored:
        lines.setdefault(each.row.name, []).append(each)
    return [(fmean(e.row.real for e in same), fmean(e.predicted for e in same)) for same in lines.values()]


def _mape(scored: Iterable[Scored]) -> float:
    lines: dict[str, list[float]] = {}
    for each in scored:
        lines.setdefault(each.row.name, []).append(each.error)
    return fmean(fmean(errors) for errors in lines.values())


def _split(scored: Iterable[Scored]) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = {}
    for each in scored:
        found.setdefault(each.row.source, []).append(each)
    return found


def _over_sources(scored: Sequence[Scored]) -> float | None:
    return fmean(_mape(each) for each in _split(scored).values()) if scored else None
