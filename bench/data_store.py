"""Small files kept, found, read in order, killed and resumed: store and loader beside ext4 and WebDataset.

A part is a file of bench/store/ with `measure(home, rounds, quick)`; its keys and its table come out here. --only takes
names of parts: ingest, reads, sizes, lookups, kills, resume (ingest,reads for two in one run).
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import table

PEER_PACKAGES = ("webdataset",)
PARTS = ("ingest", "reads", "sizes", "lookups", "kills", "resume")
ON_DISK = ("ingest", "reads", "sizes")  # parts on a file system of their own; the second reads what the first wrote


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """Keys: those of the parts; a peer not installed has no key. quick: fewer files, keys, kills."""
    found: dict[str, Any] = {}
    with ExitStack() as held:
        # On a disk: the folder for temporary files may be memory.
        home = Path(held.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        chosen = tuple(only.split(",")) if only else PARTS
        if set(ON_DISK) & set(chosen):
            disk, words = held.enter_context(load("store/disk").fresh(home))
            print(f"files and packs are on {words}\n", flush=True)
        for number, part in enumerate(chosen, 1):
            print(f"{number} of {len(chosen)}: {part}", file=sys.stderr, flush=True)
            place = disk if part in ON_DISK else home / part
            place.mkdir(exist_ok=True)
            values, rows = load(f"store/{part}").measure(place, rounds, quick)
            print(table([part, "median", "least", "most"], rows) + "\n", flush=True)
            found |= values
    return found
