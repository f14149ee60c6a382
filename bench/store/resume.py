"""A loader that goes on in the middle, with another number of workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import span
from danlu.data.loader import Loader
from danlu.data.prep import prep

SMALL = load("store/small")


def measure(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """resume_same_order (with 1, 2 and 4 workers), resume_state_bytes, resume_s."""
    (home / "text").mkdir(parents=True)
    small = SMALL.Small(300)
    for number in range(300):
        (home / "text" / f"{number}.txt").write_bytes(small.value(number).decode(errors="ignore").encode())
    tokens = prep([home / "text"], home / "prepared", vocab=1000, limit_bytes=10**8).tokens

    def loader() -> Loader:
        return Loader(tokens, seq=128, batch=8, seed=3)

    whole = loader()
    truth = [whole.batch_at(step) for step in range(40)]
    state = json.dumps({"step": 20, **whole.state()})
    began = time.perf_counter()
    resumed = loader()
    resumed.check({name: value for name, value in json.loads(state).items() if name != "step"})
    resumed.batch_at(20)
    seconds = time.perf_counter() - began
    same = all(np.array_equal(truth[step], _gathered(loader, step, n)) for step in range(20, 40) for n in (1, 2, 4))
    values = {"resume_same_order": same, "resume_state_bytes": len(state), "resume_s": seconds}
    rows: list[list[Any]] = [["the same order with 1, 2, 4 workers", "yes" if same else "no", "", ""],
                             ["state, bytes", len(state), "", ""], ["time", span(seconds), "", ""]]  # fmt: skip
    return values, rows


def _gathered(loader: Callable[[], Loader], step: int, workers: int) -> np.ndarray[Any, Any]:
    """The batch of a step as so many workers load it, each its own rows."""
    parts = [loader().batch_at(step)[rank * 8 // workers : (rank + 1) * 8 // workers] for rank in range(workers)]
    return np.concatenate(parts)
