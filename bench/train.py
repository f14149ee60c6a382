"""Training over unlike cards: what an unequal pipeline makes of them, and one card of itself; forecasts beside both.

A part is a file of bench/training/ with `measure(rounds)`; its keys and its table come out here. One round is a quick
look (--quick): 24 micro-batches on 2:1:1.
"""

from __future__ import annotations

from typing import Any

from danlu.cli.bench import load

PARTS = ("card", "fleets", "together")


def measure(rounds: int) -> dict[str, Any]:
    """The keys of every part."""
    found: dict[str, Any] = {}
    for part in PARTS:
        found |= load(f"training/{part}").measure(rounds)
    return found | load("comm").measure(rounds)
