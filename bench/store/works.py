"""What is killed: pieces of work, each of which goes on where a killed one was. Children of kills.py import it."""

from __future__ import annotations

import json
import random
import shutil
from hashlib import blake2b
from pathlib import Path

from danlu import atomic
from danlu.cli import spread
from danlu.data import clean, ingest, parts
from danlu.data.gather import gather
from danlu.data.loader import Loader
from danlu.data.prep import prep
from danlu.store.mend import mend
from danlu.store.merge import merge
from danlu.store.packs import Writer

RECORDS, STEPS = 4000, 300


def write_and_merge(text: Path, tokens: Path, out: Path) -> None:
    """Records into packs of 40 KB, then a merge by ranges."""
    with Writer(out, pack_bytes=40_000) as writer:
        for i in range(writer.cursor.get("next", 0), RECORDS):
            if writer.add(b"%d" % i, b"%d " % i * 40):
                writer.commit({"next": i + 1})
        writer.commit({"next": RECORDS}, done=True)
    merge(out, range_bytes=100_000)


def add(text: Path, tokens: Path, out: Path) -> None:
    """`danlu store add`, then a merge."""
    gather([text], str(out), tell=lambda words, share: None, pack_bytes=60_000)
    merge(out, range_bytes=200_000)


def prepare(text: Path, tokens: Path, out: Path) -> None:
    """`danlu prep` with small packs."""
    ingest.PACK_BYTES = clean.PACK_BYTES = 60_000
    prep([text], out, vocab=400, limit_bytes=10**8)


def prepare_in_parts(text: Path, tokens: Path, out: Path) -> None:
    """`danlu prep` with two workers: read and cleaned in one pass, compared and encoded in parts."""
    ingest.PACK_BYTES = clean.PACK_BYTES = parts.PART_BYTES = 60_000
    with spread.local(2) as execute:
        prep([text], out, vocab=400, limit_bytes=10**8, execute=execute, reads=True)


def mend_it(text: Path, tokens: Path, out: Path) -> None:
    """`danlu store mend` of a store: flipped bits in the middle and at the end of every file."""
    if not out.exists():
        made, rng = out.with_name(f".{out.name}"), random.Random(1)
        shutil.rmtree(made, ignore_errors=True)
        write_and_merge(text, tokens, made)
        for file in sorted([*made.glob("*.pack"), made / "manifest.json"]):
            data = bytearray(file.read_bytes())
            for place in (len(data) // 2, len(data) - 9):
                data[place] ^= 1 << rng.randrange(8)
            file.write_bytes(data)
        made.rename(out)
    mend(out)


def load(text: Path, tokens: Path, out: Path) -> None:
    """Batches of a loader, each noted in a log; whoever goes on reads in it where it is."""
    loader, done = Loader(tokens, seq=64, batch=8, seed=1), out / "done.jsonl"
    out.mkdir(exist_ok=True)
    lines = done.read_bytes().splitlines(keepends=True) if done.exists() else []
    lines = [line for line in lines if line.endswith(b"\n")]
    atomic.write(done, b"".join(lines))
    with done.open("ab", buffering=0) as log:
        for step in range(len(lines), STEPS):
            log.write(json.dumps([step, blake2b(loader.batch_at(step), digest_size=8).hexdigest()]).encode() + b"\n")


WORKS = {"write and merge": write_and_merge, "add": add, "mend": mend_it, "prep": prepare,
         "prep in parts": prepare_in_parts, "load": load}  # fmt: skip
