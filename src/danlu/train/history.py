"""What a run's folder tells about it, whether the run is over or goes on: plan, job, step log and events."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from danlu import events
from danlu.errors import BadValue, DanluError
from danlu.nouns import Plan
from danlu.plan import text
from danlu.plan.ranks.seats import seats

RECENT = 50  # steps whose median is the run's speed
ALIVE_S = 60.0  # a run that wrote nothing for so long, and for ten steps, is taken for stopped


@dataclass(frozen=True, slots=True)
class History:
    """One run.

    steps    lines of the step log: step, loss, norm, lr, seconds, t (Unix seconds)
    faults   train.fault events
    wanted   steps the run is to have, 0 if its job file does not say
    over     True when its owner said that it stopped; one that was killed says nothing
    """

    name: str
    plan: Plan
    steps: tuple[dict[str, Any], ...]
    faults: tuple[dict[str, Any], ...]
    wanted: int
    over: bool = False

    @property
    def cards(self) -> int:
        """Cards that train."""
        return len(seats(self.plan))

    @property
    def step_s(self) -> float:
        """Median seconds of the last steps; 0 before the first."""
        return median(each["seconds"] for each in self.steps[-RECENT:]) if self.steps else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Trained tokens per second at that speed."""
        step = self.plan.sequences * self.plan.seq
        return step / self.step_s if self.step_s else 0.0

    @property
    def emulated(self) -> str:
        """What of the run is paced or imitated, not real; "" where nothing is."""
        return self.plan.emulated

    def state(self, now: float) -> str:
        """ "done", "running" or "stopped", by what it said and the age of its last line. `now` in Unix seconds."""
        if self.steps and self.steps[-1]["step"] >= self.wanted > 0:
            return "done"
        if self.over:
            return "stopped"
        fresh = self.steps and now - self.steps[-1]["t"] < max(ALIVE_S, 10 * self.step_s)
        return "running" if fresh else "stopped"


def find(folder: Path) -> list[Path]:
    """The runs in a folder, newest first: it may be a run itself, or hold runs at any depth down to three."""
    found = [path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}steps.jsonl")]
    return sorted(found, key=lambda run: (run / "steps.jsonl").stat().st_mtime, reverse=True)


def read(run: Path) -> History:
    """One run's folder. Raises BadValue for one that holds no run, UnreadablePlan."""
    log = run / "steps.jsonl"
    if not log.exists():
        raise BadValue(f"{run} holds no run", why="it has no steps.jsonl", fix="danlu runs ls shows the runs there are")
    try:
        plan = text.loads((run / "plan.json").read_text(encoding="utf-8"), str(run / "plan.json"))
    except OSError as error:
        raise BadValue(f"{run} holds no whole run", why=str(error), fix="danlu runs ls") from error
    said = [each for each in events.read(run / "events.jsonl") if str(each.get("event")).startswith("train.")]
    faults = tuple(each for each in said if each["event"] == "train.fault")
    over = bool(said) and said[-1]["event"] == "train.stop"
    return History(run.name, plan, tuple(_lines(log)), faults, _wanted(run), over)


def readable(runs: list[Path]) -> list[tuple[Path, History | DanluError]]:
    """Every run, or why it cannot be read."""
    found: list[tuple[Path, History | DanluError]] = []
    for run in runs:
        try:
            found.append((run, read(run)))
        except DanluError as error:
            found.append((run, error))
    return found


def age(then: float, now: float | None = None) -> float:
    """Seconds since a moment in Unix seconds."""
    return max(0.0, (time.time() if now is None else now) - then)


def _lines(log: Path) -> list[dict[str, Any]]:
    """The step log; a torn last line is one that is being written."""
    found = []
    for line in log.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _wanted(run: Path) -> int:
    try:
        return int(json.loads((run / "job.json").read_bytes())["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
