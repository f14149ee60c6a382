"""Which published rows the constants may see, and which ones they are scored on: never the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from danlu.errors import BadRows
from danlu.plan.stated.stack_fit import Case

SEED = 2026  # of the shuffle before folds


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to fit all constants to (none: the given ones stay), to calibrate two a card with, and to score."""

    fitted: tuple[Case, ...]
    tuned: tuple[Case, ...]
    tested: tuple[Case, ...]


def splits(cases: Sequence[Case], leave_out: bool = False, calibrate: int = 0, folds: int = 0) -> tuple[Split, ...]:
    """How rows are shared out.

    leave_out  each source is scored by constants fitted to the others; else by the given ones
    calibrate  so many runs per card and source calibrate its constants and are not scored (`chosen`)
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
    """Of each card's runs, in the table's order, those at (i + 1/2) / count of its length; at most half of them."""
    found: list[Case] = []
    for card in sorted({case.card.name for case in own}):
        names = list(dict.fromkeys(case.row.name for case in own if case.card.name == card))
        taken = min(count, len(names) // 2)
        picked = {names[int((i + 0.5) * len(names) / taken)] for i in range(taken)}
        found += [case for case in own if case.card.name == card and case.row.name in picked]
    return tuple(found)


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
