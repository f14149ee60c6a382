"""Records read at random after the page cache was emptied: a store, ext4, WebDataset, and the bare device."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from danlu.cli.bench import load
from danlu.store.hashing import hash_of
from danlu.store.home import PAGE, Folder
from danlu.store.pack import Pack
from danlu.store.packs import Store

SMALL = load("store/small")
COLD, TURN, FROM_TAR = 300, 10, 3  # reads of a case in a round, in a turn; from a tar
AT_ONCE = 32  # keys asked for together: of a store in one call, of ext4 by as many threads
SETTLED_S = 2.0  # whoever reads first after a sync and an emptied cache waits some 15 ms for what they left behind
BARE = "one page of the pack, O_DIRECT"
Work = Callable[[list[int]], object]  # reads records by their numbers


def measure(found: dict[str, list[float]], home: Path, small: Any, store: Store, wds: Any, rng: random.Random) -> None:
    """Seconds and device reads of a record, by case. Those that stand together have turns after one emptying.

    What is together shares nothing on the disk, so that none finds what another left in the cache, and all have the
    same minutes of a machine that others use too. files, O_DIRECT: what leads to the bytes is ext4's own.
    """
    room = mmap.mmap(-1, 1 << 20)
    packs = [Pack(Folder(home / "store").open(name)) for name in store.names]
    files = home / "files"
    alone: dict[str, Work] = {
        "pack": lambda some: [store.get(small.names[n].encode()) for n in some],
        BARE: lambda some: [_page(packs, small.names[n], room) for n in some],
        "files": lambda some: [read_file(files, small.names[n]) for n in some],
    }
    past: dict[str, Work] = {"files, O_DIRECT": lambda some: [_direct(files, small.names[n], room) for n in some]}
    tar: dict[str, Work] = {"webdataset": lambda some: [from_tar(wds, home, small, n) for n in some]} if wds else {}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        many: dict[str, Work] = {
            f"pack, {AT_ONCE} at once": lambda some: store.get_many([small.names[n].encode() for n in some]),
            f"files, {AT_ONCE} threads": lambda some: list(
                threads.map(lambda n: read_file(files, small.names[n]), some)
            ),
        }
        for cases, count, turn in ((alone, COLD, TURN), (past, COLD, TURN), (tar, FROM_TAR, 1), (many, COLD, AT_ONCE)):
            if cases and SMALL.forget():
                _in_turn(found, home, cases, count // turn, lambda turn=turn: rng.sample(range(len(small)), turn))
    for each in packs:
        each.close()


def _in_turn(
    found: dict[str, list[float]], home: Path, cases: dict[str, Work], turns: int, choose: Callable[[], list[int]]
) -> None:
    time.sleep(SETTLED_S)
    seconds, reads, records = Counter[str](), Counter[str](), 0
    for work in cases.values():
        work(choose()[:1])  # opens what is opened once
    for _ in range(turns):
        for what, work in cases.items():
            chosen, before = choose(), SMALL.device_reads(home)
            seconds[what] += SMALL.timed(lambda: work(chosen))  # type: ignore[assignment]  # noqa: B023
            reads[what] += SMALL.device_reads(home) - before
        records += len(chosen)
    for what in cases:
        found[f"cold {what}"].append(seconds[what] / records)
        found[f"device reads of a cold {what}"].append(reads[what] / records)


def read_file(folder: Path, name: str) -> bytes:
    """A file whole."""
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


def _direct(folder: Path, name: str, room: mmap.mmap) -> bytes:
    """A file whole, its bytes past the page cache as a store's are."""
    file = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_DIRECT)
    try:
        return room[: os.preadv(file, [room], 0)]
    finally:
        os.close(file)


def _page(packs: list[Pack], name: str, room: mmap.mmap) -> int:
    """One page where a record's bucket begins, and no more: what no store on this disk could do without."""
    key_hash = hash_of(name.encode())
    pack = next(each for each in packs if each.covers(key_hash))
    with memoryview(room)[:PAGE] as page:
        return os.preadv(pack.reader.direct, [page], pack.span(key_hash)[0] // PAGE * PAGE)


def tars(home: Path) -> list[str]:
    """Paths of the tars, in order."""
    return [str(path) for path in sorted(home.glob("*.tar"))]


def from_tar(wds: Any, home: Path, small: Any, number: int) -> Any:
    """One sample by its name. WebDataset has no look-up: the tar that holds it is read until it comes."""
    every = tars(home)
    number %= len(every) * SMALL.TARRED
    samples = wds.WebDataset([every[number // SMALL.TARRED]], shardshuffle=False)
    return next(each for each in samples if each["__key__"] == f"{number:08d}")
