"""The operators of a 4-bit model beside the peers: products, quantizing, sums between processes, the engine.

Every file of bench/kernels/ is a part: its measure(rounds) prints a table and returns keys, or returns {} and says why.
`--only PART` measures one of them, and FILE of `--json` keeps the others' keys and their commits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu import kernels
from danlu.cli import bench
from danlu.errors import UnknownPlugin

PARTS = Path(__file__).with_suffix("")


def peers() -> None:
    """Build what the tables compare with, once, into .peers."""
    bench.load("peers/build").build()


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """The keys of all parts, or of the one named, and `isa`; five rounds at least where it need not be quick."""
    names = sorted(path.stem for path in PARTS.glob("*.py"))
    if only and only not in names:
        raise UnknownPlugin(f"bench kernels has no part {only!r}", why=f"there are: {', '.join(names)}",
                            fix=f"danlu bench kernels --only {names[0]}")  # fmt: skip
    found: dict[str, Any] = {"isa": kernels.describe()}
    print(f"{kernels.describe()}\n")
    for name in [only] if only else names:
        found |= bench.load(f"kernels/{name}").measure(1 if quick else max(rounds, 5))
        print(flush=True)
    return found


def profile(shape: str) -> None:
    """Where the time of a model of that shape goes, by kind of operator."""
    bench.load("engine").profile(shape)
