"""A pacer makes a CPU thread behave as a card of declared speed, on a virtual clock.

Each instruction starts at max(clock, its inputs' arrival) and ends at start + thread CPU / speed. The thread sleeps to
absolute times, so an oversleep (65-70 us) is never paid twice, and a late thread catches up over later instructions.
The sleep is owed on exit and paid on entry of the next instruction (or by `settle`): what an instruction made can be
posted, stamped with `clock`, before the thread sleeps.

CPU time is not work: on a shared machine the same kernel takes 20% more of it at one moment than at another. A pacer
that is told of that drift (danlu.fleet.reference) charges what the work would have taken when the machine was probed.
A look is a millisecond, so that one interrupt makes it half as long again: the median of many looks is the drift.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from statistics import median

LOOK_S = 0.03  # CPU seconds of work between two looks at how fast the machine is; a look costs 3% of that
PATIENCE = 3  # times LOOK_S of the card's own seconds after which a slow card looks: its looks would be too few
LOOKS = 31  # that are kept: 0.9 s of work
WIDEST = 2.0  # a machine that is slower or faster than this by turns is not corrected further


class Pacer:
    """Owns the virtual clock of one card; used by one thread."""

    def __init__(self, speed: float = inf, drift: Callable[[], float] | None = None) -> None:
        """Start the clock now.

        speed  CPU seconds of work per second, in (0, 1]; inf for a real card, whose clock is the real one
        drift  CPU seconds that a second's work of the probe takes now: 1.1 while the machine is 10% slower than it was
               then. Asked now and then; CPU time is divided by the median of the last answers. None: a CPU second is
               a CPU second
        """
        assert speed > 0
        self._looks = deque[float](maxlen=LOOKS)
        self.speed = speed
        self._drift, self._slower, self._unseen = drift, 1.0, inf
        self._before = 0.0  # thread CPU seconds at which the work not yet charged began
        self.restart()

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
        self.resume(ready)
        yield
        self.pause()

    def pause(self) -> float:
        """Charge the work of an instruction so far: what it sends from its middle leaves at the moment returned."""
        if self.real:
            return time.monotonic()
        self._charge(time.thread_time() - self._before)
        return self.clock

    def resume(self, ready: float = 0.0) -> None:
        """Go on with an instruction that waited for what arrived at `ready`; the wait is the card's too."""
        if self.real:
            return
        self.clock = max(self.clock, ready)
        sleep_until(self.clock)
        self._before = time.thread_time()

    def _charge(self, cpu_s: float) -> None:
        if self._drift is not None:
            self._unseen += max(cpu_s, cpu_s / self.speed / PATIENCE)
            if self._unseen > LOOK_S:
                self._looks.append(min(max(self._drift(), 1 / WIDEST), WIDEST))
                self._slower = median(self._looks)
                self._unseen = 0.0
        self.clock += cpu_s / self._slower / self.speed

    def settle(self) -> float:
        """Sleep what is still owed; returns `clock`, the end of the last instruction."""
        if not self.real:
            sleep_until(self.clock)
        return self.clock

    def restart(self) -> None:
        """Set the clock to now: after a pause that is not the card's (a rewind, a snapshot being restored).

        How fast the machine was before it is forgotten: while ranks start, it is slower than when they train.
        """
        self.clock = time.monotonic()
        self._looks.clear()
        self._unseen = inf


def sleep_until(moment: float) -> None:
    """Sleep to an absolute time.monotonic() moment; returns at once when it has passed."""
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)
