"""What ranks report of their steps: kept until all have of one, and summed up over the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median_high
from typing import Any

from danlu.train.result import Span

Reports = dict[int, dict[str, Any]]  # by rank


class Tally:
    """Owns the reports of steps that are not whole yet, and each rank's seconds, peak and spans."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = ranks
        self._open: defaultdict[int, Reports] = defaultdict(dict)
        self._spans: dict[int, list[Any]] = {}
        self._busy: dict[int, list[float]] = {rank: [] for rank in ranks}
        self._peaks: dict[int, int] = {}

    def add(self, rank: int, message: dict[str, Any]) -> Reports | None:
        """Take a rank's report; those of all ranks when it was the last of its step."""
        reports = self._open[message["step"]]
        reports[rank] = message
        if len(reports) < len(self._ranks):
            return None
        del self._open[message["step"]]
        for rank, each in reports.items():
            self._busy[rank].append(each["busy"])
            self._peaks[rank] = max(each["peak"], self._peaks.get(rank, 0))
            if "spans" in each:
                self._spans[rank] = each["spans"]
        return reports

    def clear(self) -> None:
        """Forget steps that are not whole: their epoch broke."""
        self._open.clear()

    @property
    def peaks(self) -> tuple[int, ...]:
        """Most bytes each rank's card has held."""
        return tuple(self._peaks.get(rank, 0) for rank in self._ranks)

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Median seconds that each rank computed in a step."""
        return tuple(median_high(busy) if busy else 0.0 for busy in self._busy.values())

    @property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """Of each rank in the step that was traced, from its first one on."""
        begun = min((span[2] for spans in self._spans.values() for span in spans), default=0.0)
        return tuple(
            tuple((op, mb, start - begun, end - begun) for op, mb, start, end in self._spans.get(rank, []))
            for rank in self._ranks
        )
