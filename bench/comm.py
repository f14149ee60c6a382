"""What collectives cost beside gloo, what islands save over a slow link, and how soon survivors of a death go on.

All processes are real and run on this host; the slow link is paced (fleet emulation), 1 Gb/s and 1 ms.
"""

from __future__ import annotations

from typing import Any

from danlu.cli.bench import load

PARTS = ("gloo", "islands", "rebuild")


def measure(rounds: int) -> dict[str, Any]:
    """Keys: allreduce_vs_gloo_8k, allreduce_vs_gloo_1m, islands_vs_ring, rebuild_s."""
    found: dict[str, Any] = {}
    for part in PARTS:
        found |= load(f"comm/{part}").measure(rounds)
    return found
