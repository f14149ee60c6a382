"""A mixture of experts in the native engine beside llama.cpp; bench/engine.py says how."""

from __future__ import annotations

from typing import Any

import torch

from danlu.cli import bench


def measure(rounds: int) -> dict[str, Any]:
    """Key: moe_vs_llamacpp, with the peers built."""
    with torch.inference_mode():
        found: dict[str, Any] = bench.load("engine").experts(rounds)
    return found
