"""A mixture of experts in the native engine beside llama.cpp; bench/engine.py says how."""

from __future__ import annotations

from typing import Any

import torch

from danlu.cli import bench


def measure(rounds: int) -> dict[str, Any]:
    """Keys: moe_vs_llamacpp, with the peers built, and moe_whole_tokens_s, where memory holds all layers."""
    engine = bench.load("engine")
    with torch.inference_mode():
        found: dict[str, Any] = engine.experts(rounds) | engine.whole_mixture(rounds)
    return found
