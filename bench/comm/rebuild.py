"""A rank is killed while it sums with others: from the kill to the survivors' first sum in their new group."""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import table
from danlu.comm.mesh import PeerLost
from danlu.comm.team import Team

RANKS, DOOMED = 4, 1
PLACES = {"shared memory": (0, 0, 0, 0), "sockets": (0, 1, 2, 3), "islands 2 + 2": (0, 0, 1, 1)}


def measure(rounds: int) -> dict[str, Any]:
    """Keys: rebuild_s (the slowest survivor, median over rounds, the worst transport)."""
    rows, worst = [], []
    for name, places in PLACES.items():
        took = []
        for _ in range(rounds):
            answers = load("comm/crowd").crowd(RANKS, lambda *who, places=places: _rank(*who, places), spare=(DOOMED,))
            killed = answers[0]["killed"]
            took.append(max(each["again"] for each in answers if each) - killed)
        worst.append(statistics.median(took))
        rows.append([name, *(f"{1e3 * f(took):.0f}" for f in (statistics.median, min, max))])
    print(table([f"kill -9 of one of {RANKS}: ms until the survivors' next sum", "median", "least", "most"], rows))
    return {"rebuild_s": max(worst)}


def _rank(rank: int, door: Any, addresses: dict[int, str], places: tuple[int, ...]) -> dict[str, float]:
    team = Team(rank, door, addresses, b"k" * 16, place=bytes([places[rank]]) * 32)
    group, killed = team.form(), 0.0
    process = np.zeros(RANKS, np.int64)
    process[rank] = os.getpid()
    group.all_reduce(process)
    sums = 0
    while True:
        array = np.full(20_000, rank + 1.0, np.float32)
        try:
            group.all_reduce(array)
        except PeerLost:
            group = team.form()
            continue
        if len(team.members) < RANKS:
            assert array[0] == sum(r + 1.0 for r in team.members)
            break
        sums += 1
        if rank == 0 and sums == 50:
            killed = time.monotonic()
            os.kill(int(process[DOOMED]), signal.SIGKILL)
    again = time.monotonic()
    team.close()
    return {"killed": killed, "again": again}
