"""The constants of stack_time.py from published rows: damped Gauss-Newton on logarithms, held near their priors.

Every source weighs as much as the next, so that no long table outvotes a short one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.plan.stated.rows import Row
from danlu.plan.stated.setup import Setup, choices
from danlu.plan.stated.stack_memory import allocated
from danlu.plan.stated.stack_time import Constants, Rated, seconds
from danlu.plan.stated.stack_work import Work, work

Floats = npt.NDArray[Any]

# Standard deviation of each constant's logarithm around its prior: what hardware bounds moves little, software more.
SPREAD = {
    "matmul": 0.05, "attention": 0.25, "wide_attention": 0.15, "first_flash": 0.15, "third_flash": 0.15,
    "wide": 0.07, "narrow": 0.15, "matmul_bytes": 0.3,
    "pass_bytes": 0.3, "eager_bytes": 0.1, "score_bytes": 0.3, "fused": 0.2, "link": 0.15, "bus": 0.15, "socket": 0.2,
    "network": 0.15, "alpha_s": 0.1, "kernel_s": 0.5, "unhidden": 0.3, "contended": 0.3, "straggle": 0.5,
}  # fmt: skip
OWN = 0.08  # the same of a card's own efficiency
TUNED = 0.15  # of what calibration sets
ERROR = 0.05  # and of what the model cannot say about a row
BEND = 3.0  # errors beyond so many of ERROR pull no harder: what no stated word explains must not move constants
FEW, FEW_BEND = 0.1, 1.0  # the same two of a few published rows: one that is odd must not outvote the others
STEPS = 25


@dataclass(frozen=True, slots=True)
class Case:
    """A row made ready: what does not depend on constants is computed once, for each run the row may mean."""

    row: Row
    card: Rated
    runs: tuple[tuple[Setup, Work], ...]

    def predicted(self, constants: Constants) -> float:
        """Seconds of a step, of the fastest run that the row may mean; an array where constants are (seconds)."""
        each = [seconds(run, amounts, self.card, constants) for run, amounts in self.runs]
        fastest: float = np.minimum.reduce(each)
        return fastest


def cases(rows: Sequence[Row], rated: Callable[[str], Rated]) -> tuple[Case, ...]:
    """The rows of time among `rows`; `rated` gives a card by its name and raises for one it does not know.

    Of the runs a row may mean those that do not fit the card's memory are left out, but where none does.
    """
    return tuple(_case(row, rated(row.setup.card)) for row in rows if row.kind == "time")


def _case(row: Row, card: Rated) -> Case:
    found = choices(row.setup)
    fitting = [run for run in found if allocated(run).total <= card.mem_bytes] or found
    return Case(row, card, tuple((run, work(run)) for run in fitting))


def fit(known: Sequence[Case], start: Constants | None = None) -> Constants:
    """Constants under which `known` is most likely, given priors."""
    prior = start or Constants()
    cards = sorted({case.card.name for case in known})
    count = Counter(case.row.source for case in known)
    weight = np.sqrt([len(known) / len(count) / count[case.row.source] for case in known])
    spread = np.array([*SPREAD.values()] + [OWN] * len(cards))

    def at(x: Floats) -> Constants:
        values: dict[str, Any] = {name: getattr(prior, name) * np.exp(x[i]) for i, name in enumerate(SPREAD)}
        own = {name: np.exp(x[len(SPREAD) + i]) for i, name in enumerate(cards)}
        return replace(prior, cards={**prior.cards, **own}, **values)

    return at(_least(known, at, spread, weight, ERROR, BEND))


def calibrate(known: Sequence[Case], start: Constants, error: float = ERROR, bend: float = BEND) -> Constants:
    """`start` with two constants set for each card of `known`: its matmuls' efficiency, and all its other seconds.

    Both are held near what `start` has, so that one odd row cannot carry a card away. `error` and `bend` are ERROR and
    BEND for a user's own runs; FEW and FEW_BEND for a few rows that others published.
    """
    cards = sorted({case.card.name for case in known})

    def at(x: Floats) -> Constants:
        rate, rest = (dict(zip(cards, np.exp(part), strict=True)) for part in np.split(x, 2))
        return replace(
            start,
            cards={**start.cards, **{name: start.cards.get(name, 1.0) * by for name, by in rate.items()}},
            others={**start.others, **{name: start.others.get(name, 1.0) * by for name, by in rest.items()}},
        )

    return at(_least(known, at, np.full(2 * len(cards), TUNED), np.ones(len(known)), error, bend))


def _least(
    known: Sequence[Case], at: Callable[[Floats], Constants], spread: Floats, weight: Floats, error: float, bend: float
) -> Floats:
    """Where the squares of weighted logarithmic errors, and of steps from the prior beside their spread, are least.

    error   standard deviation of a row's; beyond `bend` of it a row pulls no harder
    """

    real = np.array([case.row.real for case in known])

    def residual(points: Floats) -> Floats:
        """One column for each column of `points`."""
        constants = at(points)
        off = np.log(np.array([case.predicted(constants) for case in known]) / real[:, None])
        return np.concatenate([_bent(off / error, bend) * weight[:, None], points / spread[:, None]])

    def alone(x: Floats) -> Floats:
        return residual(x[:, None])[:, 0]

    x = np.zeros(len(spread))
    now, damping, steps = alone(x), 1.0, 1e-4 * np.eye(len(x))
    for _ in range(STEPS):
        slope = (residual(x[:, None] + steps) - now[:, None]) / 1e-4
        square = slope.T @ slope
        move = np.linalg.solve(square + damping * np.diag(np.diag(square)), -slope.T @ now)
        then = alone(x + move)
        if then @ then < now @ now:
            gain = 1 - (then @ then) / (now @ now)
            x, now, damping = x + move, then, damping / 3
            if gain < 1e-5:
                break
        else:
            damping *= 4
    return x


def _bent(off: Floats, bend: float) -> Floats:
    """Residuals whose squares grow like squares up to `bend`, and from there like the errors: Huber's loss."""
    far = np.maximum(np.abs(off), bend)
    bent: Floats = np.where(np.abs(off) <= bend, off, np.sign(off) * np.sqrt(bend * (2 * far - bend)))
    return bent
