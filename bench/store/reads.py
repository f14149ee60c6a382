"""Records read at random, cold and warm, and in order: a store beside ext4 and WebDataset."""

from __future__ import annotations

import importlib
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from danlu.cli.bench import load
from danlu.cli.output import span
from danlu.store.packs import Store

SMALL, COLD = load("store/small"), load("store/cold")
PEERS = Path(__file__).parents[2] / ".peers"
WARM = 10_000  # reads of a round
SCANNED = 100_000
Get = Callable[[int], bytes]


def measure(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """read_vs_ext4 and read_vs_webdataset (cold), read_warm_vs_ext4, read_many_vs_ext4 (cold, many keys at once),
    read_most_vs_ext4 (a bare page instead of a record: no store could do more), reads_per_record, index_bytes_per_file,
    scan_vs_webdataset, scan_samples_s. Reads what part `ingest` left in home, and makes it where it is not there."""
    if not (home / "store").exists():
        load("store/ingest").measure(home, rounds, quick)
    return of(home, SMALL.Small(SMALL.QUICK_FILES if quick else SMALL.FILES), rounds)


def of(home: Path, small: Any, rounds: int) -> tuple[dict[str, Any], list[list[Any]]]:
    """The same of these files, which are in home."""
    SMALL.write_tars(home, small)
    store, wds, rng = Store(home / "store"), _peer("webdataset"), random.Random(1)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        COLD.measure(found, home, small, store, wds, rng)
        _warm(found, home, small, store)
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
        "read_most_vs_ext4": ("cold files", f"cold {COLD.BARE}"),
        "read_vs_webdataset": ("cold webdataset", "cold pack"),
        "read_many_vs_ext4": (f"cold files, {COLD.AT_ONCE} threads", f"cold pack, {COLD.AT_ONCE} at once"),
        "read_warm_vs_ext4": ("warm files", "warm pack"),
        "scan_vs_webdataset": ("scan webdataset", "scan pack"),
    }
    keys = {key: middle[peer] / middle[ours] for key, (peer, ours) in ratios.items() if peer in middle}
    if "device reads of a cold pack" in middle:
        keys["reads_per_record"] = middle["device reads of a cold pack"]
    return {**keys, "scan_samples_s": 1 / middle["scan pack"]}


def _warm(found: dict[str, list[float]], home: Path, small: Any, store: Store) -> None:
    chosen = random.Random(2).choices(range(len(small)), k=WARM)  # the same in every round: others stay cold
    cases: dict[str, Get] = {
        "pack": lambda n: store.get(small.names[n].encode()) or b"",
        "files": lambda n: COLD.read_file(home / "files", small.names[n]),
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
            lambda: iter(wds.WebDataset(COLD.tars(home), shardshuffle=False)),
            min(2 * SMALL.TARRED, len(small)),
        ),
    }
    for what, (scan, count) in cases.items():
        if what == "pack" or wds:
            sum(1 for _ in islice(scan(), count))  # warm
            found[f"scan {what}"].append(SMALL.timed(lambda: sum(1 for _ in islice(scan(), count))) / count)  # noqa: B023


def _peer(name: str) -> Any:
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    with suppress(ImportError):
        return importlib.import_module(name)
    return None
