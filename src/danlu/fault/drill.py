"""Real faults on purpose: a real signal to a real process at a chosen step."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from danlu.errors import BadValue


@dataclass(frozen=True, slots=True)
class Drill:
    """Do something bad to the process of `stage` in the middle of `step`: "kill" is SIGKILL, "freeze" is SIGSTOP."""

    stage: int
    step: int
    kind: str = "kill"


SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


def parse(text: str, stages: int, steps: int) -> Drill:
    """A drill from "STAGE@STEP". Raises BadValue naming the range when it is not one of this run."""
    stage, at, step = text.partition("@")
    if not (at and stage.isdecimal() and step.isdecimal() and int(stage) < stages and 1 <= int(step) <= steps):
        raise BadValue(
            f"no drill {text!r}", where="command line",
            why=f"it must be STAGE@STEP with stage 0 to {stages - 1} and step 1 to {steps}",
            fix=f"--kill 0@{max(1, steps // 2)}",
        )  # fmt: skip
    return Drill(int(stage), int(step))
