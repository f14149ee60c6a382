"""Snapshots whose every number follows from the step: what a killed writer left can be checked without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from danlu.store import checkpoint

NAMES = [f"layers.{i}.attn.q.weight" for i in range(6)]


def tensors(step: int, names: list[str] = NAMES) -> dict[str, np.ndarray]:
    made = {}
    for name in names:
        rng = np.random.default_rng([step, *name.encode()])
        made[name] = rng.standard_normal((16, 8), dtype=np.float32)
        made[name + ".m"] = rng.integers(0, 2**16, (16, 8), dtype=np.uint16)
    return made


def save(folder: Path, step: int, ranks: int = 2) -> None:
    cut = len(NAMES) // ranks
    parts = [tensors(step, NAMES[rank * cut : (rank + 1) * cut]) for rank in range(ranks)]
    shards = [checkpoint.save_shard(folder, step, rank, part) for rank, part in enumerate(parts)]
    checkpoint.commit(folder, step, shards, {"seed": 7, "loader": {"step": step}})


def same(folder: Path, step: int) -> bool:
    found, truth = checkpoint.load(folder, step), tensors(step)
    return found.keys() == truth.keys() and all(np.array_equal(found[n], truth[n]) for n in truth)
