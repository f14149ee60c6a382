"""The drills of a run: when the next one strikes, and since when one has without its effect being seen."""

from __future__ import annotations

import time
from collections.abc import Sequence

from danlu.fault.drill import Drill


class Strikes:
    """Owns the drills that are still to come, in the order of their steps."""

    def __init__(self, drills: Sequence[Drill]) -> None:
        self._left = list(drills)
        self._next: Drill | None = None
        self._at = self._struck = 0.0

    def plan(self, step: int, typical_s: float) -> None:
        """A step begins that takes so long: a drill of it strikes in its middle."""
        if self._left and self._next is None and step >= self._left[0].step:
            self._at, self._next = time.monotonic() + typical_s / 2, self._left.pop(0)

    def wait_s(self, limit_s: float) -> float:
        """Seconds until the next one, `limit_s` at most."""
        return limit_s if self._next is None else min(limit_s, self._at - time.monotonic())

    def due(self) -> Drill | None:
        """The drill whose moment has come; it counts as struck from then on."""
        if self._next is None or time.monotonic() < self._at:
            return None
        found, self._next, self._struck = self._next, None, time.monotonic()
        return found

    def seen(self, now: float) -> float:
        """A fault was seen: the moment it was caused, or now if it was none of ours. What was planned is called off."""
        struck, self._struck, self._next = self._struck or now, 0.0, None
        return struck
