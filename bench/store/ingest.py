"""Small files into a store and into folders of ext4, by turns."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import span
from danlu.store.merge import merge
from danlu.store.packs import Writer

SMALL = load("store/small")
TURNS = 5


def measure(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """ingest_vs_ext4 (with the merge), ingest_unmerged_vs_ext4, ingest_files, ingest_files_s; rounds has no part in it.

    Leaves home/files and home/store. Every turn writes a part of the files and syncs it, by both.
    """
    return of(home, SMALL.Small(SMALL.QUICK_FILES if quick else SMALL.FILES))


def of(home: Path, small: Any) -> tuple[dict[str, Any], list[list[Any]]]:
    """The same of these files."""
    edges = [len(small) * turn // TURNS for turn in range(TURNS + 1)]
    SMALL.make_folders(home / "files")
    seconds: dict[str, list[float]] = {"write files": [], "write packs": []}
    with Writer(home / "store") as writer:
        for turn in pairwise(edges):
            numbers = range(*turn)
            taken = SMALL.timed(lambda: SMALL.write_files(home / "files", small, numbers))  # noqa: B023
            seconds["write files"].append(taken / len(numbers))
            taken = SMALL.timed(lambda: write_packs(writer, small, numbers))  # noqa: B023
            seconds["write packs"].append(taken / len(numbers))
    seconds["merge packs"] = [SMALL.timed(lambda: merge(home / "store")) / len(small)]
    files, packs, merging = (median(each) for each in seconds.values())
    rows = [[f"{name}, a record", *map(span, SMALL.spread(each))] for name, each in seconds.items()]
    return {"ingest_vs_ext4": files / (packs + merging), "ingest_unmerged_vs_ext4": files / packs,
            "ingest_files": len(small), "ingest_files_s": 1 / (packs + merging)}, rows  # fmt: skip


def write_packs(writer: Writer, small: Any, numbers: range) -> None:
    """The same files as records; all of them are on the disk at the end."""
    for number in numbers:
        if writer.add(small.names[number].encode(), small.value(number)):
            writer.commit({"next": number + 1}, wait=False)
    writer.commit({"next": numbers.stop}, done=numbers.stop == len(small))
