"""Training over unlike cards: what an unequal pipeline makes of them, and one card of itself; forecasts beside both.

A part is a file of bench/training/ with `measure(rounds)`; its keys and its table come out here. One round is a quick
look (--quick): 24 micro-batches on 2:1:1. --only takes the name of a part, or of a case of the part "fleets" (211_m24,
211_m96, 5321_m24, 5321_m96).
"""

from __future__ import annotations

from typing import Any

from danlu.cli.bench import load

PARTS = ("card", "fleets", "together")


def worst(found: dict[str, Any]) -> dict[str, Any]:
    """Keys over several cases, each the worst of those that were measured."""
    shares = [value for key, value in found.items() if key.startswith("share_of_bound.efficiency")]
    errors = [abs(value) for key, value in found.items() if key.startswith("forecast_error.")]
    return {"share_of_bound": min(shares), "forecast_error": max(errors)} if shares else {}


def one(rounds: int, only: str) -> dict[str, Any]:
    """The keys of one part, or of one case of the fleets. Raises UnknownPlugin for another word."""
    part = load(f"training/{only if only in PARTS else 'fleets'}")
    found: dict[str, Any] = part.measure(rounds) if only in PARTS else part.measure(rounds, only)
    return found


def measure(rounds: int, only: str = "") -> dict[str, Any]:
    """The keys of every part, or those that `only` names."""
    if only:
        return one(rounds, only)
    found: dict[str, Any] = {}
    for part in PARTS:
        found |= load(f"training/{part}").measure(rounds)
    return found | load("comm").measure(rounds)
