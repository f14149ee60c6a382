"""The text of an answer as it may be shown: cut at the first stop string, held back while one may be under way."""

from __future__ import annotations

from collections.abc import Sequence


class Reply:
    """Collects text in pieces of any size; what it shows does not depend on how the text was cut into pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; returns what may be shown now. Behind the first complete stop string nothing is."""
        if self.stopped:
            return ""
        self._held += text
        ends = [(found + len(stop), found) for stop in self._stops if (found := self._held.find(stop)) >= 0]
        if ends:
            shown, self._held, self.stopped = self._held[: min(ends)[1]], "", True
            return shown
        keep = self._under_way()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """The answer is over: what was held back is text after all."""
        shown, self._held = self._held, ""
        return shown

    def _under_way(self) -> int:
        """Length of the longest tail of the text that begins a stop string."""
        longest = min(max((len(stop) - 1 for stop in self._stops), default=0), len(self._held))
        for size in range(longest, 0, -1):
            tail = self._held[len(self._held) - size :]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
