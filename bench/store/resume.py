"""A torch loop that goes on in the middle, with other numbers of workers and ranks."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from danlu.cli.bench import load
from danlu.cli.output import span
from danlu.data.dataset import TokenBatches
from danlu.data.loader import Loader
from danlu.data.prep import prep

SMALL = load("store/small")
SHAPE: dict[str, Any] = {"seq": 128, "batch": 8, "seed": 3, "packing": "best_fit"}
STEPS, STOPPED = 40, 20
WORKERS, RANKS = (0, 1, 2, 4), (1, 2, 4)


def measure(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """resume_same_order (with WORKERS of a DataLoader and RANKS), resume_state_bytes, resume_s (to the first batch,
    the workers' start included, the longest of all), resume_alone_s (in the process itself)."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than there are cores
    tokens = _tokens(home)
    whole = Loader(tokens, **SHAPE)
    truth = [whole.batch_at(step) for step in range(STOPPED, STEPS)]
    state = json.dumps(TokenBatches(tokens, **SHAPE).state_dict(STOPPED))
    same, seconds = True, dict[tuple[int, int], float]()
    for workers in WORKERS:
        for ranks in RANKS:
            loops = [_loop(tokens, state, workers, rank, ranks) for rank in range(ranks)]
            began = time.perf_counter()
            firsts = [next(loops[0])]
            seconds[workers, ranks] = time.perf_counter() - began
            parts = [[*firsts, *islice(loops[0], len(truth) - 1)], *(islice(each, len(truth)) for each in loops[1:])]
            same &= all(
                np.array_equal(right, torch.cat(rows)) for right, *rows in zip(truth, *map(list, parts), strict=True)
            )
    longest, alone = max(seconds.values()), max(s for (workers, _), s in seconds.items() if not workers)
    values = {"resume_same_order": same, "resume_state_bytes": len(state), "resume_s": longest, "resume_alone_s": alone}
    words = f"the same order with {', '.join(map(str, WORKERS))} workers of each of {', '.join(map(str, RANKS))} ranks"
    rows: list[list[Any]] = [[words, "yes" if same else "no", "", ""], ["state, bytes", len(state), "", ""],
                             ["first batch, workers started", span(longest), "", ""],
                             ["first batch, no worker", span(alone), "", ""]]  # fmt: skip
    return values, rows


def _tokens(home: Path) -> Path:
    (home / "text").mkdir(parents=True)
    small = SMALL.Small(300)
    for number in range(300):
        (home / "text" / f"{number}.txt").write_bytes(small.value(number).decode(errors="ignore").encode())
    return prep([home / "text"], home / "prepared", vocab=1000, limit_bytes=10**8).tokens


def _loop(tokens: Path, state: str, workers: int, rank: int, ranks: int) -> Iterator[torch.Tensor]:
    """Batches of one rank from where `state` says; nothing is opened before the first is asked for."""
    data = TokenBatches(tokens, **SHAPE, rank=rank, ranks=ranks)
    data.load_state_dict(json.loads(state))
    yield from DataLoader(data, batch_size=None, num_workers=workers)
