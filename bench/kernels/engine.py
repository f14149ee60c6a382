"""A whole model in the native engine; bench/engine.py says what is measured."""

from __future__ import annotations

from typing import Any

from danlu.cli import bench


def measure(rounds: int) -> dict[str, Any]:
    """The keys of bench/engine.py."""
    found: dict[str, Any] = bench.load("engine").measure(rounds)
    return found
