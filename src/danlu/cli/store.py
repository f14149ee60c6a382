"""Look into a store of packs: what it holds, one record, whether every byte is as it was written.

`stat` says what a store is made of, `ls` prints keys in the store's own (shuffled) order, `get` writes one record's
bytes to standard output, `verify` reads everything. prep keeps two stores, OUT/store/raw and OUT/store/clean.

example:
  danlu store ls runs/notes/store/clean --limit 5
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.store.packs import Store


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which store."""
    parser.add_argument("act", choices=("stat", "ls", "get", "verify"), help="what to do")
    parser.add_argument("folder", type=Path, help="the store: a folder with manifest.json and packs")
    parser.add_argument("key", nargs="?", help="for get: the record's name")
    parser.add_argument("--limit", type=_count, metavar="N", help="for ls: stop after N keys")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of keys; give 0 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Open the store and do it."""
    from danlu.cli.output import write_json

    store = _open(args.folder)
    try:
        acts = {"stat": _stat, "ls": _ls, "get": _get, "verify": _verify}
        write_json(args.json, acts[args.act](store, args))
    finally:
        store.close()
    return 0


def _open(folder: Path) -> Store:
    from danlu.errors import NoStore
    from danlu.store.packs import MANIFEST, Store

    if not (folder / MANIFEST).is_file():
        raise NoStore(
            f"{folder} is no store",
            where=str(folder),
            why=f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder",
            fix="name a folder that danlu prep has filled: OUT/store/raw or OUT/store/clean",
        )
    return Store(folder)


def _stat(store: Store, args: argparse.Namespace) -> dict[str, Any]:
    from danlu.cli.output import size, table

    found = {"store.records": store.records, "store.bytes": store.size, "store.index_bytes": store.index_bytes,
             "store.done": store.done}  # fmt: skip
    rows = [["records", f"{store.records:,}"], ["on disk", size(store.size)],
            ["index in memory", size(store.index_bytes)],
            ["source read", "to its end" if store.done else "in part"]]  # fmt: skip
    print(table([str(args.folder), ""], rows))
    return found


def _ls(store: Store, args: argparse.Namespace) -> dict[str, Any]:
    count = 0
    for record in islice(store.scan(), args.limit):
        count += 1
        # A name may hold a line end; one line stays one key.
        print(record.key.decode("utf-8", "backslashreplace").replace("\\", "\\\\").replace("\n", "\\n"))
    return {"store.listed": count}


def _get(store: Store, args: argparse.Namespace) -> dict[str, Any]:
    from danlu.errors import NoSuchRecord

    value = store.get((args.key or "").encode("utf-8", "surrogateescape"))
    if value is None:
        raise NoSuchRecord(
            f"the store has no record {args.key!r}",
            where=str(args.folder),
            why=f"none of its {store.records:,} records has that key" if args.key else "no key was given",
            fix=f"danlu store ls {args.folder}",
        )
    sys.stdout.buffer.write(value)
    sys.stdout.flush()
    return {"store.bytes": len(value)}


def _verify(store: Store, args: argparse.Namespace) -> dict[str, Any]:
    from danlu.store.pack import damaged

    problems = store.verify()
    for problem in problems:
        print(problem)
    if problems:
        raise damaged(args.folder, f"{len(problems)} problems, the first: {problems[0]}")
    print(f"{store.records:,} records, every byte as it was written")
    return {"store.records": store.records, "store.problems": 0}
