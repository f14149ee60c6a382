"""Keep small files in a store: add, look up, list, check, merge.

`add` takes files, folders and archives (tar, zip, WARC, Parquet, JSON lines, lists of addresses in a .urls file) and
goes on where a stopped `add` of the same paths was. `get` writes one record's bytes to standard output, `ls` prints
keys in the store's own (shuffled) order, `keys` in theirs; a line end in a key is printed as \\n, and taken so. `rm`
takes keys out, `merge` makes few packs of many, `stat` says what there is, `verify` reads everything, of a token
folder too; `mend` makes a damaged store whole again and names what is lost. prep keeps two stores, OUT/store/raw and
OUT/store/clean, and its tokens in OUT/tokens. A store is a folder, or an address such as s3://bucket/prefix.

example:
  danlu store add ~/crawl ~/pages.tar.gz --into crawl.store
  danlu store get crawl.store crawl/index.html
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.store.packs import Store

Figures = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which store."""
    parser.add_argument("act", choices=("add", "get", "ls", "rm", "merge", "stat", "verify", "mend", "keys"),
                        help="what to do")  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="STORE [KEY...]",
                        help="the store, for get and rm then keys; for add paths (and --into)")  # fmt: skip
    parser.add_argument("--into", metavar="STORE", help="for add: the store; made if it is not there")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="keep what is read from afar on a local disk")
    parser.add_argument("--cache-gib", type=float, default=10.0, metavar="N", help="most that is kept there")
    parser.add_argument("--limit", type=count, metavar="N", help="for ls: stop after N keys")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="for keys: only those that begin so")
    parser.add_argument("--node", metavar="NAME", help="for add: this node's name; only its shards' keys are added")
    parser.add_argument("--nodes", metavar="A,B,...", help="names of all nodes the store is spread over")
    parser.add_argument("--copies", type=int, default=1, metavar="N", help="nodes that hold each key")
    parser.add_argument("--no-merge", action="store_true", help="for add: leave the new packs as they are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def count(text: str) -> int:
    """A flag's number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number; give 0 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from danlu.cli.output import write_json

    writing: dict[str, Callable[[argparse.Namespace], Figures]] = {"add": _add, "rm": _rm, "merge": _merge,
                                                                      "mend": _mend}  # fmt: skip
    reading = {"stat": _stat, "ls": _ls, "get": _get, "verify": _verify, "keys": _keys}
    if args.act in writing:
        figures = writing[args.act](args)
    elif args.act == "verify" and _holds_tokens(_named(args)):
        figures = _verify_tokens(Path(_named(args)))
    else:
        store = _open(_named(args), args)
        try:
            figures = reading[args.act](store, args)
        finally:
            store.close()
    write_json(args.json, figures)
    return 0


def _named(args: argparse.Namespace) -> str:
    if not args.names:
        raise _usage(f"store {args.act} was given no store", f"danlu store {args.act} runs/notes/store/clean")
    return str(args.names[0])


def _usage(what: str, fix: str) -> Exception:
    from danlu.errors import BadValue

    return BadValue(what, why="it is said on the command line: danlu store --help", fix=fix)


def _open(where: str, args: argparse.Namespace) -> Store:
    from danlu.errors import NoStore
    from danlu.store.homes import home_of
    from danlu.store.packs import MANIFEST, Store

    is_file, has_tokens = Path(where).is_file(), _holds_tokens(where)
    if is_file or has_tokens or home_of(where).read(MANIFEST) is None:
        there = "://" in where or Path(where).is_dir()
        why = f"it has no {MANIFEST}" if there else "there is no such folder"
        raise NoStore(
            f"{where} is no store",
            where=where,
            why="it is a file" if is_file else "it holds tokens" if has_tokens else why,
            fix="name one that danlu store add or danlu prep has filled, such as OUT/store/clean",
        )
    if args.cache is None:
        return Store(where, partly=True)
    from danlu.store.cache import Cache

    return Store(where, cache=Cache(args.cache, int(args.cache_gib * 2**30)), partly=True)


def _add(args: argparse.Namespace) -> Figures:
    from danlu.cli.output import Progress, cut, table
    from danlu.data.gather import gather

    if not args.names or not args.into:
        raise _usage("store add needs paths and a store", "danlu store add ~/crawl --into crawl.store")
    line = Progress("add")
    added = gather([Path(each) for each in args.names], args.into,
                   tell=line.part, keep=_keeper(args), kept=_kept(args))  # fmt: skip
    line.done(f"{added.records:,} records")
    rows = [[f"- {rule}", f"{number:,}", cut(added.examples[rule][0])] for rule, number in added.refused.items()]
    print(table(["records", "number", "for example"], [*rows, ["added", f"{added.records:,}", ""]]))
    figures = {"store.added": added.records, **{f"store.refused.{k}": v for k, v in added.refused.items()}}
    if not args.no_merge:
        figures |= _merged(args.into)
    return figures


def _keeper(args: argparse.Namespace) -> Callable[[bytes], bool]:
    from danlu.store.shard import shard_of, shards_at

    if args.node is None:
        return lambda key: True
    nodes = (args.nodes or "").split(",")
    if args.node not in nodes:
        raise _usage(f"node {args.node!r} is none of --nodes {args.nodes}", "--node a --nodes a,b,c")
    mine = set(shards_at(args.node, nodes, args.copies))
    return lambda key: shard_of(key) in mine


def _kept(args: argparse.Namespace) -> str:
    return "" if args.node is None else f" {args.node} {args.nodes} {args.copies}"


def _rm(args: argparse.Namespace) -> Figures:
    from danlu.store.packs import Writer

    where, keys = _named(args), args.names[1:]
    if not keys:
        raise _usage("store rm was given no key", f"danlu store rm {where} KEY; danlu store ls {where}")
    store = _open(where, args)
    try:
        known = [_found(store, where, key)[0] for key in keys]
    finally:
        store.close()
    with Writer(where) as writer:
        for each in known:
            writer.remove(each)
        writer.commit(writer.cursor, done=writer.done)
    print(f"{len(keys):,} removed; their bytes go with the next merge: danlu store merge {where}")
    return {"store.removed": len(keys)}


def _merge(args: argparse.Namespace) -> Figures:
    where = _named(args)
    _open(where, args).close()
    return _merged(where)


def _mend(args: argparse.Namespace) -> Figures:
    from danlu.cli.output import Progress
    from danlu.errors import NoStore
    from danlu.store.homes import home_of
    from danlu.store.mend import mend
    from danlu.store.remake import NAMED

    where = _named(args)
    if not any(NAMED.fullmatch(name) for name in home_of(where).names()):
        raise NoStore(f"{where} is no store", where=where, why="it has no packs",
                      fix="name one that danlu store add or danlu prep has filled")  # fmt: skip
    line = Progress("mend")
    done = mend(where, tell=line.part)
    line.done(f"{len(done)} files were damaged")
    for each in done:
        print(f"{each.name}: {each.why}")
        if each.corrected:
            print(f"  {each.corrected} buckets had one wrong bit, which was set right")
        if each.lost != 0:
            lost = "nobody knows how many" if each.lost is None else f"{each.lost:,}"
            print(f"  {each.kept:,} records stay, {lost} are lost")
        for key in each.keys:
            print(f"  lost: {_line(key)}")
    known = sum(each.lost or 0 for each in done)
    if any(each.lost != 0 for each in done):
        print(f"add what is lost from its source again: danlu store add PATH... --into {where}")
    return {"store.mended": len(done), "store.lost": known, "store.corrected": sum(each.corrected for each in done),
            "store.lost_unknown": sum(each.lost is None for each in done)}  # fmt: skip


def _merged(where: str) -> Figures:
    from danlu.cli.output import Progress, size
    from danlu.store.merge import merge

    line = Progress("merge")
    done = merge(where, tell=line.part)
    line.done(f"{done.packs[0]} packs of {size(done.size[0])} became {done.packs[1]} of {size(done.size[1])}")
    return {"store.packs": done.packs[1], "store.records": done.records[1], "store.bytes": done.size[1]}


def _stat(store: Store, args: argparse.Namespace) -> Figures:
    from danlu.cli.output import size, table

    found = {"store.records": store.records, "store.bytes": store.size, "store.index_bytes": store.index_bytes,
             "store.packs": store.packs, "store.done": store.done}  # fmt: skip
    rows = [["records", f"{store.records:,}"], ["packs", f"{store.packs:,}"], ["on disk", size(store.size)],
            ["index in memory", size(store.index_bytes)],
            ["source read", "to its end" if store.done else "in part"]]  # fmt: skip
    print(table([_named(args), ""], rows))
    return found


def _ls(store: Store, args: argparse.Namespace) -> Figures:
    listed = 0
    for record in islice(store.scan(), args.limit):
        listed += 1
        print(_line(record.key))
    return {"store.listed": listed}


def _keys(store: Store, args: argparse.Namespace) -> Figures:
    from danlu.store import keys

    listed = 0
    for key in islice(keys.listed(store, _bytes(args.prefix)), args.limit):
        listed += 1
        print(_line(key))
    return {"store.listed": listed}


def _line(key: bytes) -> str:
    """A key as one line of text: a name may hold a line end."""
    return key.decode("utf-8", "backslashreplace").replace("\\", "\\\\").replace("\n", "\\n")


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _get(store: Store, args: argparse.Namespace) -> Figures:
    if len(args.names) != 2:
        raise _usage(f"store get was given {len(args.names) - 1} keys; it writes the value of one",
                     f"danlu store get {args.names[0]} KEY; danlu store ls {args.names[0]}")  # fmt: skip
    _, value = _found(store, *args.names)
    sys.stdout.buffer.write(value)
    sys.stdout.flush()
    return {"store.bytes": len(value)}


def spelled(key: str) -> tuple[str, str]:
    """A name as it is, and what it is if it was printed by `ls`."""
    return key, re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], key)


def _found(store: Store, where: str, key: str) -> tuple[bytes, bytes]:
    """Key and value of a record, named as it is or as `ls` prints it."""
    for each in spelled(key):
        if (value := store.get(_bytes(each))) is not None:
            return _bytes(each), value
    raise _no_record(store, where, key)


def _no_record(store: Store, where: str, key: str) -> Exception:
    from danlu.errors import NoSuchRecord

    return NoSuchRecord(
        f"the store has no record {key!r}",
        where=where,
        why=f"none of its {store.records:,} records has that key",
        fix=f"danlu store ls {where}",
    )


def _holds_tokens(where: str) -> bool:
    from danlu.data.token_file import MANIFEST, SPLITS

    folder = Path(where)
    return (folder / MANIFEST).is_file() and any((folder / f"{name}.bin").is_file() for name in SPLITS)


def _verify_tokens(folder: Path) -> Figures:
    from danlu.data import token_file
    from danlu.data.stream import damaged

    problems = token_file.verify(folder)
    for problem in problems:
        print(problem)
    if problems:
        raise damaged(folder / token_file.MANIFEST, f"{folder} is damaged",
                      f"{len(problems)} problems, the first: {problems[0]}")  # fmt: skip
    tokens = sum(split["tokens"] for split in token_file.manifest_of(folder)["splits"].values())
    print(f"{tokens:,} tokens, every byte as it was written")
    return {"tokens": tokens, "tokens.problems": 0}


def _verify(store: Store, args: argparse.Namespace) -> Figures:
    from danlu.store import keys
    from danlu.store.pack import damaged

    problems = store.verify() + keys.verify(store)
    for problem in problems:
        print(problem)
    if problems:
        name, _, first = problems[0].partition(": ")
        raise damaged(f"{store.home.where}/{name}", f"{len(problems)} problems in the store, the first: {first}")
    print(f"{store.records:,} records, every byte as it was written")
    return {"store.records": store.records, "store.problems": 0}
