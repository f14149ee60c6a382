"""What a stated run should cost: seconds with an interval, which term dominates, bytes and whether they fit.

The interval comes from rows that the constants were not fitted to (leave one source out): those whose seconds were made
of the same terms count most. stack_residuals.csv holds them; `danlu plan check --residuals` writes it anew.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from io import StringIO

import numpy as np
import numpy.typing as npt

from danlu.plan.stated import stack_memory, stack_time
from danlu.plan.stated.setup import Setup, choices
from danlu.plan.stated.stack_time import Constants, Rated
from danlu.plan.stated.stack_work import AMOUNTS, Work, work

TERMS = {
    "matmuls": ("matmul_flop", "narrow_flop"), "attention": ("attention_flop", "score_bytes"),
    "memory traffic": ("matmul_bytes", "pass_bytes", "eager_bytes"),
    "tensor parallelism": ("tp_bytes", "tp_beside", "tp_messages"),
    "pipeline messages": ("pp_bytes",), "context parallelism": ("cp_bytes",), "expert parallelism": ("ep_bytes",),
    "issuing kernels": ("kernels",),
}  # fmt: skip
REST = ("pipeline bubble", "data parallelism and optimizer", "waiting for the slowest card")
NAMES = (*TERMS, *REST)
NEAR = 0.25  # of all seconds: rows whose terms differ by so much count 1/e of those that do not differ
WIDER = 2.0  # how much an interval grows with the distance of the nearest rows: LEVEL of bench/truth/cold end in it
LEVEL = 0.8


@dataclass(frozen=True, slots=True)
class Residual:
    """A published run that was predicted without its source: the logarithm of predicted over real, and its terms."""

    source: str
    error: float
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StackForecast:
    """What a run should cost.

    seconds, low, high   of a step; LEVEL of such runs end between low and high
    terms      seconds by NAMES; they sum to `seconds`
    need       bytes of the fullest card as the maker's tool counts them
    fits       whether it may be started on its card
    """

    run: Setup
    seconds: float
    low: float
    high: float
    terms: dict[str, float]
    need: float
    fits: bool

    @property
    def dominant(self) -> str:
        """The term with most seconds."""
        return max(self.terms, key=lambda name: self.terms[name])


def forecast(setup: Setup, card: Rated, constants: Constants | None = None) -> StackForecast:
    """The fastest run that fits of those the statement may mean; of those that do not fit, where none does."""
    known = constants or stack_time.published()
    found = [_one(run, card, known) for run in choices(setup)]
    return min(found, key=lambda each: (not each.fits, each.seconds))


def _one(run: Setup, card: Rated, known: Constants) -> StackForecast:
    parts = terms(run, work(run), card, known)
    total, need = sum(parts.values()), stack_memory.device(run)
    spread = half_width(tuple(parts[name] / total for name in NAMES), residuals())
    low, high = total * float(np.exp(-spread)), total * float(np.exp(spread))
    return StackForecast(run, total, low, high, parts, need, stack_memory.fits(need, card.mem_bytes))


def terms(run: Setup, amounts: Work, card: Rated, constants: Constants) -> dict[str, float]:
    """Seconds of a step by what they are spent on, in the slowest stage; what it waits for is the bubble."""
    price, m = stack_time.prices(run, card, constants), run.micro_batches
    rows = amounts.stages * price
    rows[-1] += amounts.head * price
    slow = rows[rows.sum(axis=1).argmax()] * m
    found = {name: float(sum(slow[AMOUNTS.index(each)] for each in of)) for name, of in TERMS.items()}
    total = stack_time.seconds(run, amounts, card, constants)
    alone = total / stack_time.waiting(run.cards, constants)
    apart = stack_time.reduced_seconds(run, amounts, card, constants)
    found[REST[0]] = max(0.0, alone - sum(found.values()) - apart)
    found[REST[1]] = alone - sum(found.values())
    found[REST[2]] = total - alone
    return found


def half_width(shares: Sequence[float], known: Sequence[Residual]) -> float:
    """Half the width of the interval in logarithms: LEVEL of `known` errors, weighed by nearness, are smaller.

    Every source weighs as much as the next where all are as near. It grows with the distance of the nearest tenth.
    """
    apart = np.array([0.5 * np.abs(np.subtract(each.shares, shares)).sum() for each in known])
    count = {each.source: 0 for each in known}
    for each in known:
        count[each.source] += 1
    weight = np.exp(-apart / NEAR) / [count[each.source] for each in known]
    size: npt.NDArray[np.float64] = np.abs([each.error for each in known])
    order = np.argsort(size)
    share = np.cumsum(weight[order]) / weight.sum()
    nearest = np.sort(apart)[: max(1, len(apart) // 10)].mean()
    return float(size[order][np.searchsorted(share, LEVEL)] * (1 + WIDER * nearest))


def coverage(known: Sequence[Residual]) -> tuple[float, float]:
    """(share of rows inside the interval made of the other sources alone, median of its half widths as a share)."""
    widths = [half_width(each.shares, [one for one in known if one.source != each.source]) for each in known]
    inside = [abs(each.error) <= width for each, width in zip(known, widths, strict=True)]
    return float(np.mean(inside)), float(np.expm1(np.median(widths)))


@lru_cache(maxsize=1)
def residuals() -> tuple[Residual, ...]:
    """Those of bench/truth and its folder more, as `danlu plan check --leave-one-source-out --residuals` wrote them."""
    text = files("danlu.plan.stated").joinpath("stack_residuals.csv").read_text(encoding="utf-8")
    return tuple(Residual(line["source"], float(line["error"]), tuple(float(line[name]) for name in NAMES))
                 for line in csv.DictReader(StringIO(text)))  # fmt: skip


def dumps(known: Sequence[Residual]) -> str:
    """Residuals as CSV, to four digits after the point."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["source", "error", *NAMES])
    writer.writerows([each.source, f"{each.error:.4f}", *(f"{share:.4f}" for share in each.shares)] for each in known)
    return out.getvalue()
