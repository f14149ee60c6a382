"""A dense model of 1.1 billion parameters in the native engine, and every family's logits; bench/engine.py says how."""

from __future__ import annotations

from typing import Any

import torch

from danlu.cli import bench


def measure(rounds: int) -> dict[str, Any]:
    """The keys of `beside` in bench/engine.py, and native_logit_error."""
    engine = bench.load("engine")
    with torch.inference_mode():
        found: dict[str, Any] = {"native_logit_error": engine.logit_error(), **engine.beside(rounds)}
    return found
