"""Small files to store and read, and how that is timed: shared by the parts of bench data_store."""

from __future__ import annotations

import os
import statistics
import tarfile
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from danlu.data.read import Refused, default_text, listing, read

FILES, QUICK_FILES, SIZE = 1_000_000, 50_000, 2_000  # small files, and their mean size in bytes
FOLDERS = 1_000
TARRED = 10_000  # samples of a tar

Row = list[Any]


class Small:
    """Small files: a name, and a slice of this machine's documents, lognormal around `mean` bytes; not stored."""

    def __init__(self, count: int, mean: int = SIZE) -> None:
        pool = bytearray()
        for source in listing(default_text())[0]:
            pool += b"".join(each.text.encode() for each in read(source, 1 << 20) if not isinstance(each, Refused))
            if len(pool) > 1 << 24:
                break
        rng = np.random.default_rng(0)
        self.pool = bytes(pool)
        least, most = mean * 4 // 125, mean * 1024 // 125
        self.sizes = np.clip(rng.lognormal(np.log(mean) - 0.32, 0.8, count).astype(np.int64), least, most)
        self.places = rng.integers(0, len(self.pool) - most, count)
        self.names = [f"d{i % FOLDERS:03d}/{i:08d}.txt" for i in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def value(self, number: int) -> bytes:
        """Bytes of a file."""
        place = self.places[number]
        return self.pool[place : place + self.sizes[number]]


def make_folders(folder: Path) -> None:
    """Where files are written."""
    for i in range(FOLDERS):
        (folder / f"d{i:03d}").mkdir(parents=True, exist_ok=True)


def write_files(folder: Path, small: Small, numbers: Iterable[int]) -> None:
    """A file each, then one sync of the disk."""
    for number in numbers:
        with open(f"{folder}/{small.names[number]}", "wb") as file:
            file.write(small.value(number))
    os.sync()


def write_tars(home: Path, small: Small) -> None:
    """Tars of TARRED samples as WebDataset has them, of the first files, enough for a scan."""
    for first in range(0, min(len(small), 5 * TARRED), TARRED):
        with tarfile.open(home / f"{first // TARRED:04d}.tar", "w") as tar:
            for number in range(first, min(first + TARRED, len(small))):
                member = tarfile.TarInfo(f"{number:08d}.txt")
                member.size = int(small.sizes[number])
                tar.addfile(member, BytesIO(small.value(number)))


def timed(work: Callable[[], Any]) -> float:
    """Seconds it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


def forget() -> bool:
    """Empty the page cache; False where this user may not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def device_reads(folder: Path) -> int:
    """Reads the device under a folder has done; others' reads count too. 0 where the device does not say."""
    device = os.stat(folder).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(stat.read_text().split()[0]) if stat.exists() else 0
