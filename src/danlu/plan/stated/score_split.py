"""Which published rows the constants may see, and which ones they are scored on: never the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from danlu.errors import BadRows
from danlu.plan.stated.stack_fit import Case
from danlu.plan.stated.stack_forecast import NAMES, terms
from danlu.plan.stated.stack_time import Constants

SEED = 2026  # of the shuffle before folds
PRIORS = Constants()


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to fit all constants to (none: the given ones stay), to calibrate two a card with, and to score."""

    fitted: tuple[Case, ...]
    tuned: tuple[Case, ...]
    tested: tuple[Case, ...]


def splits(cases: Sequence[Case], leave_out: bool = False, calibrate: int = 0, folds: int = 0) -> tuple[Split, ...]:
    """How rows are shared out.

    leave_out  each source is scored by constants fitted to the others; else by the given ones
    calibrate  so many runs per card and source calibrate its constants and are not scored: typical ones (`chosen`)
    folds      instead of both: all runs are shuffled once (SEED) and dealt into so many parts, each scored by
               constants fitted to the others
    Raises BadRows where nothing is left to fit to or to score.
    """
    if folds:
        return _folds(cases, folds)
    sources = sorted({case.row.source for case in cases})
    if leave_out and len(sources) == 1:
        raise BadRows("there is no other source to fit to", why=f"all rows of time are from {sources[0]}",
                      fix="give the tables of two sources or more")  # fmt: skip
    found = []
    for source in sources:
        own = [case for case in cases if case.row.source == source]
        tuned = chosen(own, calibrate)
        others = [case for case in cases if case.row.source != source] if leave_out else []
        tested = tuple(case for case in own if case not in tuned)
        found.append(Split(tuple(others), tuned, tested))
    return tuple(found)


def chosen(own: Sequence[Case], count: int) -> tuple[Case, ...]:
    """Of each card's runs the `count` most typical ones, at most half of them: no measured second is looked at.

    Runs are alike whose seconds are made of the same terms (by the priors, so that no fit decides). One after the other
    is taken that leaves all runs nearest to a taken one: the one in the middle of the table first, odd ones last.
    """
    found: list[Case] = []
    for card in sorted({case.card.name for case in own}):
        first = {case.row.name: case for case in reversed(own) if case.card.name == card}
        names, made = list(first), np.array([_shares(case) for case in first.values()])
        apart = 0.5 * np.abs(made[:, None] - made[None]).sum(axis=2)
        nearest, picked = np.full(len(names), 1.0), set[str]()
        while len(picked) < min(count, len(names) // 2):
            left = np.minimum(nearest, apart).sum(axis=1)
            best = min((i for i, name in enumerate(names) if name not in picked), key=lambda i: left[i])
            nearest, picked = np.minimum(nearest, apart[best]), picked | {names[best]}
        found += [case for case in own if case.card.name == card and case.row.name in picked]
    return tuple(found)


def _shares(case: Case) -> list[float]:
    """What a run's seconds are made of, in the order of stack_forecast.NAMES."""
    each = [terms(run, amounts, case.card, PRIORS) for run, amounts in case.runs]
    parts = min(each, key=lambda found: sum(found.values()))
    return [parts[name] / sum(parts.values()) for name in NAMES]


def _folds(cases: Sequence[Case], folds: int) -> tuple[Split, ...]:
    runs = sorted({(case.row.source, case.row.name) for case in cases})
    if len(runs) < folds or folds < 2:
        raise BadRows(f"{folds} folds cannot be made", why=f"there are {len(runs)} runs of time",
                      fix="--folds 5, and tables with more rows")  # fmt: skip
    Random(SEED).shuffle(runs)
    part = {run: index % folds for index, run in enumerate(runs)}
    dealt = [part[case.row.source, case.row.name] for case in cases]
    return tuple(
        Split(
            tuple(case for case, at in zip(cases, dealt, strict=True) if at != fold), (),
            tuple(case for case, at in zip(cases, dealt, strict=True) if at == fold),
        )
        for fold in range(folds)
    )  # fmt: skip
