"""A pacer makes a CPU thread behave as a card of declared speed, on a virtual clock.

Each instruction starts at max(clock, its inputs' arrival) and ends at start + thread CPU / speed. The thread sleeps to
absolute times, so an oversleep (65-70 us) is never paid twice, and a late thread catches up over later instructions.
The sleep is owed on exit and paid on entry of the next instruction (or by `settle`): what an instruction made can be
posted, stamped with `clock`, before the thread sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf


class Pacer:
    """Owns the virtual clock of one card; used by one thread."""

    def __init__(self, speed: float = inf) -> None:
        """speed  CPU seconds of work per second, in (0, 1]; inf for a real card, whose clock is the real one."""
        assert speed > 0
        self.speed = speed
        self.clock = time.monotonic()

    @property
    def real(self) -> bool:
        """True when nothing is paced: `clock` is then the end of the last instruction on the real clock."""
        return self.speed == inf

    @contextmanager
    def instruction(self, ready: float = 0.0) -> Iterator[None]:
        """Run one instruction.

        ready  time.monotonic() seconds at which its inputs arrived (a message's ready time); 0 when it needs none
        On entry sleeps to max(clock, ready); on exit `clock` is the instruction's end. Work that fails is not charged.
        """
        if self.real:
            yield
            self.clock = time.monotonic()
            return
        start = max(self.clock, ready)
        sleep_until(start)
        before = time.thread_time()
        yield
        self.clock = start + (time.thread_time() - before) / self.speed

    def settle(self) -> float:
        """Sleep what is still owed; returns `clock`, the end of the last instruction."""
        if not self.real:
            sleep_until(self.clock)
        return self.clock

    def restart(self) -> None:
        """Set the clock to now: after a pause that is not the card's (a rewind, a snapshot being restored)."""
        self.clock = time.monotonic()


def sleep_until(moment: float) -> None:
    """Sleep to an absolute time.monotonic() moment; returns at once when it has passed."""
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)
