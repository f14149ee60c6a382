"""A token of Yuan2.0-102B's 84 layers in the native engine; bench/engine.py says how."""

from __future__ import annotations

from typing import Any

import torch

from danlu.cli import bench


def measure(rounds: int) -> dict[str, Any]:
    """Keys: yuan102b_token_s, yuan102b_roof_share."""
    with torch.inference_mode():
        found: dict[str, Any] = bench.load("engine").yuan(rounds)
    return found
