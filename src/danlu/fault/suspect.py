"""From what was last heard of every rank to who is dead and who is slow. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

RECENT = 8  # step times kept per rank; the median of eight shrugs off three odd ones


@dataclass(frozen=True, slots=True)
class Watch:
    """What the owner knows of its ranks.

    heard   rank -> monotonic seconds of its last sign of life
    busy    rank -> seconds it computed in each of its last RECENT steps
    """

    heard: Mapping[int, float] = field(default_factory=dict)
    busy: Mapping[int, tuple[float, ...]] = field(default_factory=dict)


def heard(watch: Watch, rank: int, now: float) -> Watch:
    """A sign of life."""
    return replace(watch, heard={**watch.heard, rank: now})


def forget(watch: Watch, rank: int) -> Watch:
    """A rank that is being replaced is neither silent nor slow."""
    return Watch(
        {r: t for r, t in watch.heard.items() if r != rank}, {r: t for r, t in watch.busy.items() if r != rank}
    )


def stepped(watch: Watch, rank: int, busy_s: float) -> Watch:
    """A rank finished a step in which it computed for `busy_s`."""
    return replace(watch, busy={**watch.busy, rank: (*watch.busy.get(rank, ()), busy_s)[-RECENT:]})


def silent(watch: Watch, now: float, patience_s: float) -> tuple[int, ...]:
    """Ranks not heard of for longer than `patience_s`, most silent first."""
    late = [rank for rank, at in watch.heard.items() if now - at > patience_s]
    return tuple(sorted(late, key=lambda rank: watch.heard[rank]))


def slow(watch: Watch, expected_s: Mapping[int, float], factor: float) -> dict[int, float]:
    """Ranks whose recent steps took more than `factor` times what the plan expects: rank -> measured / expected.

    A rank with fewer than RECENT steps is not judged.
    """
    ratios = {
        rank: median(times) / expected_s[rank]
        for rank, times in watch.busy.items()
        if len(times) == RECENT and expected_s.get(rank)
    }
    return {rank: ratio for rank, ratio in ratios.items() if ratio > factor}
