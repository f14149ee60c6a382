"""Whether a process stands still: it neither computes, nor wants a core, nor waits for a disk. Pure but for `look`.

A rank that others wait for may be slow for good reasons: its core is another's, its weights come from a disk. What a
frozen one does (SIGSTOP, a paused container, a debugger) is nothing at all, and the system's own account says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STOPPED_S = 0.1  # only a person starts a stopped process (T) again, so little time is given to one
GAP_S = 0.5  # between two looks: more, and the one who looks stood still itself


@dataclass(frozen=True, slots=True)
class Look:
    """One process at a moment.

    at     monotonic seconds;  used  clock ticks it has computed
    state  of proc(5): R runs or would, D waits for a disk, S sleeps, T is stopped, t is traced
    """

    at: float
    state: str
    used: int


@dataclass(frozen=True, slots=True)
class Watch:
    """The last look, and when the process was last seen to move."""

    last: Look
    moved: float


def look(pid: int, now: float) -> Look | None:
    """The process as the system tells of it; None when it is gone, or where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Look(now, words[0], int(words[11]) + int(words[12]))


def seen(watch: Watch | None, found: Look) -> Watch:
    """What is known after one more look."""
    if watch is None:
        return Watch(found, found.at)
    last = watch.last
    moves = found.used != last.used or found.state in "RD" or found.at - last.at > GAP_S
    return Watch(found, found.at if moves else watch.moved)


def stands_still(watch: Watch, patience_s: float) -> str | None:
    """Why it is not waited for any longer, or None while it moves or has stood for less than `patience_s`."""
    state, stood = watch.last.state, watch.last.at - watch.moved
    if state == "T" and stood >= min(STOPPED_S, patience_s):
        return f"its process is stopped (state T) and did nothing for {stood:.2f} s"
    if stood >= patience_s:
        return f"its process did nothing for {stood:.2f} s (state {state}), {patience_s:g} s are allowed"
    return None
