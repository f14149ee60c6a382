"""Records read at random after the page cache was emptied: a store, ext4, WebDataset, and the bare device."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from danlu.cli.bench import load
from danlu.store.folder import Folder
from danlu.store.hashing import hash_of
from danlu.store.home import PAGE
from danlu.store.pack import Pack
from danlu.store.packs import Store

SMALL = load("store/small")
COLD, TURN, FROM_TAR = 300, 10, 3  # reads of a case in a round, in a turn; from a tar
AT_ONCE = 32  # keys asked for together: of a store in one call, of ext4 by as many threads
SETTLED_S = 2.0  # whoever reads first after a sync and an emptied cache waits some 15 ms for what they left behind
BARE = "one page of the pack, O_DIRECT"
Case = Callable[[list[int]], Callable[[], object]]  # of numbers of records: what reads these, once it is called


def measure(found: dict[str, list[float]], home: Path, small: Any, store: Store, wds: Any, rng: random.Random) -> None:
    """Seconds and device reads of a record, by case. Those that stand together have turns after one emptying.

    What is together shares nothing on the disk, so that none finds what another left in the cache, and all have the
    same minutes of a machine that others use too. files, O_DIRECT: what leads to the bytes is ext4's own.
    """
    room = mmap.mmap(-1, 1 << 20)
    packs = [Pack(Folder(home / "store").open(name)) for name in store.names]
    files = home / "files"
    alone: dict[str, Case] = {
        "pack": lambda some: partial(_each, store.get, [small.names[n].encode() for n in some]),
        BARE: lambda some: partial(_each, partial(_page, room), [_place(packs, small.names[n]) for n in some]),
        "files": lambda some: partial(_each, partial(read_file, files), [small.names[n] for n in some]),
    }
    past: dict[str, Case] = {
        "files, O_DIRECT": lambda some: partial(_each, partial(_direct, files, room), [small.names[n] for n in some])
    }
    tar: dict[str, Case] = {"webdataset": lambda some: partial(_each, partial(from_tar, wds, home, small), some)}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        many: dict[str, Case] = {
            f"pack, {AT_ONCE} at once": lambda some: partial(store.get_many, [small.names[n].encode() for n in some]),
            f"files, {AT_ONCE} threads": lambda some: partial(
                _at_once, threads, partial(read_file, files), [small.names[n] for n in some]
            ),
        }
        every = ((alone, COLD, TURN), (past, COLD, TURN), (tar if wds else {}, FROM_TAR, 1), (many, COLD, AT_ONCE))
        for cases, count, turn in every:
            if cases and SMALL.forget():
                _in_turn(found, home, cases, count // turn, lambda turn=turn: rng.sample(range(len(small)), turn))
    for each in packs:
        each.close()


def _in_turn(
    found: dict[str, list[float]], home: Path, cases: dict[str, Case], turns: int, choose: Callable[[], list[int]]
) -> None:
    time.sleep(SETTLED_S)
    seconds, reads, records = dict.fromkeys(cases, 0.0), dict.fromkeys(cases, 0), 0
    for case in cases.values():
        case(choose()[:1])()  # opens what is opened once
    for _ in range(turns):
        for what, case in cases.items():
            chosen = choose()
            work, before = case(chosen), SMALL.device_reads(home)
            seconds[what] += SMALL.timed(work)
            reads[what] += SMALL.device_reads(home) - before
        records += len(chosen)
    for what in cases:
        found[f"cold {what}"].append(seconds[what] / records)
        found[f"device reads of a cold {what}"].append(reads[what] / records)


def read_file(folder: Path, name: str) -> bytes:
    """A file whole."""
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


def _each(read: Callable[[Any], object], things: Iterable[Any]) -> None:
    for each in things:
        read(each)


def _at_once(threads: ThreadPoolExecutor, read: Callable[[Any], object], things: Iterable[Any]) -> None:
    for _ in threads.map(read, things):
        pass


def _direct(folder: Path, room: mmap.mmap, name: str) -> bytes:
    """A file whole, its bytes past the page cache as a store's are."""
    file = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_DIRECT)
    try:
        return room[: os.preadv(file, [room], 0)]
    finally:
        os.close(file)


def _place(packs: list[Pack], name: str) -> tuple[int, int]:
    """The file that has a record, and the page its bucket begins in."""
    key_hash = hash_of(name.encode())
    pack = next(each for each in packs if each.covers(key_hash))
    return pack.reader.direct, pack.span(key_hash)[0] // PAGE * PAGE


def _page(room: mmap.mmap, place: tuple[int, int]) -> None:
    """One page of the disk and no more: what no store on it could do without."""
    with memoryview(room)[:PAGE] as page:
        os.preadv(place[0], [page], place[1])


def tars(home: Path) -> list[str]:
    """Paths of the tars, in order."""
    return [str(path) for path in sorted(home.glob("*.tar"))]


def from_tar(wds: Any, home: Path, small: Any, number: int) -> Any:
    """One sample by its name. WebDataset has no look-up: the tar that holds it is read until it comes."""
    every = tars(home)
    number %= len(every) * SMALL.TARRED
    samples = wds.WebDataset([every[number // SMALL.TARRED]], shardshuffle=False)
    return next(each for each in samples if each["__key__"] == f"{number:08d}")
