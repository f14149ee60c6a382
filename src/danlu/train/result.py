"""What a training run gives back, and the step log it keeps on disk."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

Span = tuple[str, int, float, float]  # op, micro-batch, start and end in seconds


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the final curve.

    norm      gradient norm before clipping
    seconds   from the end of the step before (or the start of its epoch) to the end of the slowest stage
    ended     monotonic seconds
    epoch     counts rewinds
    saved     step of the newest snapshot by then
    peaks     by rank, most bytes its card has held so far
    host_bytes  bytes of snapshots that the ranks keep in host memory
    """

    step: int
    loss: float
    norm: float
    lr: float
    seconds: float
    ended: float
    epoch: int
    saved: int
    peaks: tuple[int, ...] = ()
    host_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A rank that died, and how the job got over it.

    during       step that broke off
    restored     step of the snapshot everyone went back to
    detected_s   from the fault (a drill's signal, else the moment it was seen) to its detection
    recovery_s   from the fault to the end of the next good step
    caught_up_s  from the fault to the end of the first step that had not been done before
    recomputed   finished steps that were done again
    """

    stage: int
    card: str
    during: int
    restored: int
    detected_s: float
    recovery_s: float = 0.0
    caught_up_s: float = 0.0
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run. Tuples have one entry per stage where they say so.

    steps        the final curve: every step once
    faults       in order
    step_s       seconds of a steady step (median)
    busy_s       per stage, seconds its card computed in a steady step
    spans        per stage, what ran when in one step: (op, micro-batch, start, end), seconds from its first start
    peak_bytes   per stage, most bytes its card held
    began_at     step the run started from: 0, or the snapshot it resumed
    """

    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    step_s: float
    tokens_per_s: float
    busy_s: tuple[float, ...]
    spans: tuple[tuple[Span, ...], ...]
    peak_bytes: tuple[int, ...]
    snapshots: int
    began_at: int

    @property
    def repeated(self) -> int:
        """Steps that the final curve has more than once."""
        return len(self.steps) - len({each.step for each in self.steps})

    @property
    def lost(self) -> int:
        """Steps that the final curve should have and has not."""
        return self.steps[-1].step - self.began_at - len({each.step for each in self.steps}) if self.steps else 0


def steady(steps: tuple[Step, ...], save_every: int) -> tuple[Step, ...]:
    """Steps to time: not the first two of an epoch, not those beside a snapshot; all but the first if none is left."""
    first = {each.epoch: each.step for each in reversed(steps)}
    quiet = [s for s in steps if s.step > first[s.epoch] + 1 and (save_every <= 3 or s.step % save_every > 1)]
    return tuple(quiet) or steps[1:] or steps


def step_seconds(steps: tuple[Step, ...], save_every: int) -> float:
    """Median seconds of the steady steps."""
    return median(each.seconds for each in steady(steps, save_every))


class StepLog:
    """Owns OUT/steps.jsonl: one line per step of the final curve, in order (docs/formats.md, "step log")."""

    def __init__(self, path: Path, start: int) -> None:
        """start  keep the lines of steps up to this one, from a run that is being resumed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._ends: list[tuple[int, int]] = []
        at = 0
        with os.fdopen(os.dup(self._fd), "rb") as lines:
            for line in lines:
                at += len(line)
                if not line.endswith(b"\n"):
                    break
                self._ends.append((int(json.loads(line)["step"]), at))
        self.rewind(start)

    def add(self, step: Step) -> None:
        """Write one step. Raises OSError when the disk is full."""
        values = {"step": step.step, "loss": step.loss, "norm": step.norm, "lr": step.lr, "seconds": step.seconds}
        os.write(self._fd, (json.dumps({**values, "t": time.time()}) + "\n").encode())
        self._ends.append((step.step, os.lseek(self._fd, 0, os.SEEK_CUR)))

    def rewind(self, step: int) -> None:
        """Drop the lines of steps after `step`."""
        while self._ends and self._ends[-1][0] > step:
            self._ends.pop()
        end = self._ends[-1][1] if self._ends else 0
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
