"""Ingest, cold reads and scans again, of files that are a tenth and ten times as large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.cli.bench import load

SMALL, INGEST, READS = load("store/small"), load("store/ingest"), load("store/reads")
SIZES = {"200b": (200, 100_000), "20kb": (20_000, 20_000)}  # mean bytes, files
KEPT = ("ingest_vs_ext4", "read_vs_ext4", "read_warm_vs_ext4", "read_many_vs_ext4", "reads_per_record",
        "index_bytes_per_file", "scan_vs_webdataset", "scan_samples_s")  # fmt: skip


def measure(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """KEPT of each size, as ingest_vs_ext4_200b, ...; quick: a fifth of the files."""
    values: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for name, (mean, count) in SIZES.items():
        small, place = SMALL.Small(count // (5 if quick else 1), mean), home / name
        place.mkdir()
        for found, own in (INGEST.of(place, small), READS.of(place, small, min(rounds, 3))):
            values |= {f"{key}_{name}": value for key, value in found.items() if key in KEPT}
            rows += [[f"{name}: {what}", *shown] for what, *shown in own]
    return values, rows
