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


def parse(text: str, stages: int | None, steps: int, start: int = 0) -> Drill:
    """A drill from "STAGE@STEP". Raises BadValue naming the range when it is not one of this run.

    stages  of the plan; None before there is one: then any is taken
    start   step the run goes on from
    """
    stage, at, step = text.partition("@")
    whole = at and stage.isdecimal() and step.isdecimal()
    if not whole or (stages is not None and int(stage) >= stages) or not start < int(step) <= steps:
        known = "" if stages is None else f" 0 to {stages - 1}"
        raise BadValue(
            f"no drill {text!r}", where="command line",
            why=f"it must be STAGE@STEP with stage{known or ' from 0'} and step {start + 1} to {steps}",
            fix=f"--kill 0@{max(start + 1, (start + steps) // 2)}",
        )  # fmt: skip
    return Drill(int(stage), int(step))
