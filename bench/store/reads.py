"""Records read at random, cold and warm, and in order: a store beside ext4 and WebDataset."""

from __future__ import annotations

import importlib
import mmap
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import span
from danlu.store.packs import Store

SMALL = load("store/small")
PEERS = Path(__file__).parents[2] / ".peers"
COLD, WARM, FROM_TAR = 300, 10_000, 3  # cold reads a round, warm ones, cold reads from a tar
AT_ONCE = 32  # keys asked for together: of a store in one call, of ext4 by as many threads
SCANNED = 100_000
Get = Callable[[int], bytes]


def measure(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """read_vs_ext4 and read_vs_webdataset (cold), read_warm_vs_ext4, read_many_vs_ext4 (cold, AT_ONCE keys at once),
    reads_per_record, index_bytes_per_file, scan_vs_webdataset, scan_samples_s. Reads what part `ingest` left in home,
    which it makes where it is not there."""
    if not (home / "store").exists():
        load("store/ingest").measure(home, rounds, quick)
    small = SMALL.Small(SMALL.QUICK_FILES if quick else SMALL.FILES)
    SMALL.write_tars(home, small)
    store, wds, rng = Store(home / "store"), _peer("webdataset"), random.Random(1)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        _cold(found, home, small, store, wds, rng)
        _warm(found, home, small, store, rng)
        _scan(found, home, small, store, wds)
    index, packs = store.index_bytes / len(small), store.packs
    store.close()
    rows: list[list[Any]] = []
    for name, each in found.items():
        many = "device reads" in name
        shown = (f"{x:.2f}" if many else span(x) for x in SMALL.spread(each))
        rows.append([name if many else f"{name}, a record", *shown])
    rows += [[f"index of {packs} packs, bytes a file", f"{index:.4f}", "", ""]]
    rows += [] if wds else [["webdataset: not in .peers (--peers installs it)", "", "", ""]]
    rows += [] if "cold pack" in found else [["cold reads: only root can empty the page cache", "", "", ""]]
    return {"index_bytes_per_file": index, **_keys({name: median(each) for name, each in found.items()})}, rows


def _keys(middle: dict[str, float]) -> dict[str, float]:
    ratios = {
        "read_vs_ext4": ("cold files", "cold pack"),
        "read_vs_webdataset": ("cold webdataset", "cold pack"),
        "read_many_vs_ext4": (f"cold files, {AT_ONCE} threads", f"cold pack, {AT_ONCE} at once"),
        "read_warm_vs_ext4": ("warm files", "warm pack"),
        "scan_vs_webdataset": ("scan webdataset", "scan pack"),
    }
    keys = {key: middle[peer] / middle[ours] for key, (peer, ours) in ratios.items() if peer in middle}
    if "device reads of a cold pack" in middle:
        keys["reads_per_record"] = middle["device reads of a cold pack"]
    return {**keys, "scan_samples_s": 1 / middle["scan pack"]}


def _cold(found: dict[str, list[float]], home: Path, small: Any, store: Store, wds: Any, rng: random.Random) -> None:
    chosen = rng.sample(range(len(small)), COLD)
    room = mmap.mmap(-1, 1 << 20)
    cases: dict[str, tuple[Get, int]] = {
        "pack": (lambda n: store.get(small.names[n].encode()) or b"", COLD),
        "files": (lambda n: read_file(home / "files", small.names[n]), COLD),
        "files, O_DIRECT": (lambda n: _direct(home / "files", small.names[n], room), COLD),
        "webdataset": (lambda n: _from_tar(wds, home, small, n), FROM_TAR),
    }
    for what, (get, count) in cases.items():
        if (what != "webdataset" or wds) and SMALL.forget():
            get(rng.randrange(len(small)))  # opens what is opened once
            before = SMALL.device_reads(home)
            found[f"cold {what}"].append(SMALL.timed(lambda: [get(n) for n in chosen[:count]]) / count)  # noqa: B023
            found[f"device reads of a cold {what}"].append((SMALL.device_reads(home) - before) / count)
    names = [small.names[n] for n in rng.sample(range(len(small)), COLD)]
    parts = [names[i : i + AT_ONCE] for i in range(0, COLD, AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        ways: dict[str, Callable[[list[str]], Any]] = {
            f"pack, {AT_ONCE} at once": lambda part: store.get_many([name.encode() for name in part]),
            f"files, {AT_ONCE} threads": lambda part: list(threads.map(lambda n: read_file(home / "files", n), part)),
        }
        for what, way in ways.items():
            if SMALL.forget():
                found[f"cold {what}"].append(SMALL.timed(lambda: [way(each) for each in parts]) / COLD)  # noqa: B023


def _warm(found: dict[str, list[float]], home: Path, small: Any, store: Store, rng: random.Random) -> None:
    chosen = rng.choices(range(len(small)), k=WARM)
    cases: dict[str, Get] = {
        "pack": lambda n: store.get(small.names[n].encode()) or b"",
        "files": lambda n: read_file(home / "files", small.names[n]),
    }
    for what, get in cases.items():
        for _ in range(2):  # a store reads past the page cache what it is asked for the first time
            assert all(get(n) == small.value(n) for n in chosen)
        found[f"warm {what}"].append(SMALL.timed(lambda: [get(n) for n in chosen]) / WARM)  # noqa: B023
    keys = [small.names[n].encode() for n in chosen]
    assert store.get_many(keys) == [small.value(n) for n in chosen]
    found["warm pack, 10,000 at once"].append(SMALL.timed(lambda: store.get_many(keys)) / WARM)


def _scan(found: dict[str, list[float]], home: Path, small: Any, store: Store, wds: Any) -> None:
    cases: dict[str, tuple[Callable[[], Iterator[Any]], int]] = {
        "pack": (store.scan, min(SCANNED, len(small))),
        "webdataset": (
            lambda: iter(wds.WebDataset(_tars(home), shardshuffle=False)),
            min(2 * SMALL.TARRED, len(small)),
        ),
    }
    for what, (scan, count) in cases.items():
        if what == "pack" or wds:
            sum(1 for _ in islice(scan(), count))  # warm
            found[f"scan {what}"].append(SMALL.timed(lambda: sum(1 for _ in islice(scan(), count))) / count)  # noqa: B023


def read_file(folder: Path, name: str) -> bytes:
    """A file whole."""
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


def _direct(folder: Path, name: str, room: mmap.mmap) -> bytes:
    """A file whole, its bytes past the page cache as a store's are; what leads to them is the file system's own."""
    file = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_DIRECT)
    try:
        return room[: os.preadv(file, [room], 0)]
    finally:
        os.close(file)


def _tars(home: Path) -> list[str]:
    return [str(path) for path in sorted(home.glob("*.tar"))]


def _from_tar(wds: Any, home: Path, small: Any, number: int) -> Any:
    """One sample by its name. WebDataset has no look-up: the tar that holds it is read until it comes."""
    every = _tars(home)
    number %= len(every) * SMALL.TARRED
    samples = wds.WebDataset([every[number // SMALL.TARRED]], shardshuffle=False)
    return next(each for each in samples if each["__key__"] == f"{number:08d}")


def _peer(name: str) -> Any:
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    with suppress(ImportError):
        return importlib.import_module(name)
    return None
