"""Signals that end a command, as exceptions that unwind it through every `finally`.

None is thrown into an import: libraries guard their optional imports with a bare `except`, which swallowed every fifth
Ctrl-C of the seconds in which torch loads, and left a torch with holes behind. It waits until the import is over.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

AGAIN_S = 0.02


def unwind() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions of the main thread; those that are ignored (nohup) stay so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    if _importing(frame) and not signal.getitimer(signal.ITIMER_REAL)[0]:  # the second Ctrl-C does not wait
        signal.signal(signal.SIGALRM, lambda _, later: _end(number, later))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    print(f"\nstopped by {signal.Signals(number).name}", file=sys.stderr)
    raise SystemExit(128 + number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
