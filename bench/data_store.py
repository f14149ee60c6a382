"""Small files kept, found, read in order, killed and resumed: store and loader beside ext4 and WebDataset.

A part is a file of bench/store/ with `measure(home, rounds, quick)`; its keys and its table come out here. --only takes
the name of a part: ingest, reads, lookups, kills, resume.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import table

PEER_PACKAGES = ("webdataset",)
PARTS = ("ingest", "reads", "lookups", "kills", "resume")
SHARED = {"ingest": "small", "reads": "small"}  # parts of one folder: files that one wrote are read by the next


def measure(rounds: int, quick: bool = False, only: str = "") -> dict[str, Any]:
    """Keys: those of the parts; a peer not installed has no key. quick: fewer files, keys, kills."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # on a disk: the folder for temporary files may be memory
        for part in [only] if only else PARTS:
            home = Path(name) / SHARED.get(part, part)
            home.mkdir(exist_ok=True)
            values, rows = load(f"store/{part}").measure(home, rounds, quick)
            print(table([part, "median", "least", "most"], rows) + "\n", flush=True)
            found |= values
    return found
