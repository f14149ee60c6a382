"""The operators of a 4-bit model beside the peers: products, quantizing, sums between processes, the engine.

Every file of bench/kernels/ is a part: its measure(rounds) prints a table and returns keys, or returns {} and says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu import kernels
from danlu.cli import bench

PARTS = Path(__file__).with_suffix("")


def peers() -> None:
    """Build what the tables compare with, once, into .peers."""
    bench.load("peers/build").build()


def measure(rounds: int) -> dict[str, Any]:
    """The keys of all parts, and `isa`."""
    found: dict[str, Any] = {"isa": kernels.describe()}
    print(f"{kernels.describe()}\n")
    for path in sorted(PARTS.glob("*.py")):
        found |= bench.load(f"kernels/{path.stem}").measure(max(rounds, 5))
        print()
    return found


def profile(shape: str) -> None:
    """Where the time of a model of that shape goes, by kind of operator."""
    bench.load("engine").profile(shape)
