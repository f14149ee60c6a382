"""All-reduce of fp32 between two processes: shared memory beside gloo, call by call from Python, interleaved."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.comm.team import Team

SIZES = {"1k": 1 << 10, "8k": 1 << 13, "64k": 1 << 16, "1m": 1 << 20, "16m": 1 << 24}
BYTES_A_ROUND = 1 << 25


def measure(rounds: int) -> dict[str, Any]:
    """Keys: allreduce_vs_gloo_8k and _1m (gloo's median time / ours), and the times."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        rank0, _ = load("comm/crowd").crowd(2, lambda *who: _rank(*who, store, rounds))
    rows, found = [], {}
    for name, (ours, sockets, gloo) in rank0.items():
        middle = [1e6 * statistics.median(each) for each in (ours, sockets, gloo)]
        ratios = sorted(theirs / mine for mine, theirs in zip(ours, gloo, strict=True))
        rows.append(
            [name, *(f"{us:.1f}" for us in middle), f"{middle[2] / middle[0]:.1f}x",
             f"{ratios[0]:.1f} to {ratios[-1]:.1f}"]
        )  # fmt: skip
        found |= {f"allreduce_{name}_us": middle[0], f"allreduce_vs_gloo_{name}": middle[2] / middle[0]}
    head = ["fp32 sum, 2 processes", "shared memory, us", "our sockets, us", "gloo, us", "gloo / ours", "by round"]
    print(table(head, rows))
    return found


def _rank(rank: int, door: Any, addresses: dict[int, str], store: str, rounds: int) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    team = Team(rank, door, addresses, b"k" * 16)
    group = team.form()
    sockets = team.sockets()
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {}
    for name, size in SIZES.items():
        array = np.zeros(size // 4, np.float32)
        tensor = torch.from_numpy(array)
        ways: list[Callable[[], object]] = [
            lambda a=array: group.all_reduce(a), lambda a=array: sockets.all_reduce(a),
            lambda t=tensor: dist.all_reduce(t),
        ]  # fmt: skip
        took: list[list[float]] = [[], [], []]
        for each in range(rounds + 1):
            for way, times in zip(ways, took, strict=True):
                count = max(3, min(400, BYTES_A_ROUND // size // 8))
                dist.barrier()
                began = time.perf_counter()
                for _ in range(count):
                    way()
                if each:
                    times.append((time.perf_counter() - began) / count)
        found[name] = took
    dist.destroy_process_group()
    team.close()
    return found
