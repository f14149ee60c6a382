"""Training over unlike cards: what an unequal pipeline makes of them, and one card of itself; forecasts beside both.

A part is a file with `measure(rounds)`; its keys and its table come out here. One round is a quick look (--quick): 24
micro-batches on 2:1:1, placements of two ranks. --only takes a part (card, fleets, gradients, comm), or a case of the
part "fleets" (211_m24, 211_m96, 5321_m24, 5321_m96).
"""

from __future__ import annotations

from typing import Any

from danlu.cli.bench import load
from danlu.errors import UnknownPlugin

PARTS = {"card": "training/card", "fleets": "training/fleets", "gradients": "training/together", "comm": "comm"}


def worst(found: dict[str, Any]) -> dict[str, Any]:
    """Keys over several cases, each the worst of those that were measured."""
    shares = [value for key, value in found.items() if key.startswith("share_of_bound.efficiency")]
    errors = [abs(value) for key, value in found.items() if key.startswith("forecast_error.")]
    return {"share_of_bound": min(shares), "forecast_error": max(errors)} if shares else {}


def measure(rounds: int, only: str = "") -> dict[str, Any]:
    """The keys of every part, or those that `only` names. Raises UnknownPlugin for another word."""
    fleets = load(PARTS["fleets"])
    if only in fleets.CASES:
        case: dict[str, Any] = fleets.measure(rounds, only)
        return case
    if only and only not in PARTS:
        raise UnknownPlugin(f"bench train has no part {only!r}", why=f"there are: {', '.join((*PARTS, *fleets.CASES))}",
                            fix="danlu bench train --only gradients")  # fmt: skip
    found: dict[str, Any] = {}
    for part in [only] if only else PARTS:
        found |= load(PARTS[part]).measure(rounds)
    return found
