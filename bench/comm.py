"""What collectives cost beside gloo, what islands save over a slow link, and how soon survivors of a death go on.

All processes are real and run on this host; the slow links are paced (fleet emulation): 1 Gb/s and 1 ms, 100 Mb/s and
5 ms. --only takes a part.
"""

from __future__ import annotations

from typing import Any

from danlu.cli.bench import load
from danlu.errors import UnknownPlugin

PARTS = ("gloo", "islands", "rebuild")


def measure(rounds: int, only: str = "") -> dict[str, Any]:
    """Keys: allreduce_vs_gloo_8k, allreduce_vs_gloo_1m, islands_vs_ring, rebuild_s. Raises UnknownPlugin."""
    if only and only not in PARTS:
        raise UnknownPlugin(f"bench comm has no part {only!r}", why=f"there are: {', '.join(PARTS)}",
                            fix=f"danlu bench comm --only {PARTS[0]}")  # fmt: skip
    found: dict[str, Any] = {}
    for part in [only] if only else PARTS:
        found |= load(f"comm/{part}").measure(rounds)
    return found
