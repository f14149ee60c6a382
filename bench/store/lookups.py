"""Keys looked up in the index of a hundred million synthetic ones, which alone is in memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from danlu.cli.bench import load
from danlu.cli.output import size
from danlu.store.hashing import hash_many, hash_spans
from danlu.store.lookup import Lookup
from danlu.store.offsets import offsets_of

SMALL = load("store/small")
KEYS, QUICK_KEYS = 100_000_000, 10_000_000
RANGES = 256  # merged packs they are in, as a store of 200 GB has them
BATCH, BATCHES = 1 << 16, 32  # keys asked for at once; batches of a round


class Sketch:
    """A pack of which only the index is there: what a look-up reads before it reads the disk."""

    merged, records = True, 0

    def __init__(self, prefix: int, bits: int, buckets: int, rng: np.random.Generator) -> None:
        self.prefix, self.bits, self.buckets = prefix, bits, buckets
        sizes = rng.integers(2_000, 15_000, buckets)
        self.offsets = offsets_of(np.concatenate([[8], np.cumsum(sizes) + 8]))
        self.reader = type("NoFile", (), {"fd": 0, "direct": -1})()


def measure(_: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """lookups_s_1e8: keys a second in one buffer, hashed and looked up in an index of KEYS synthetic keys, one core;
    lookups_s_1e8_bytes: the same with a Python object for each; lookups_memory_mb: what the index takes."""
    count, bits = QUICK_KEYS if quick else KEYS, RANGES.bit_length() - 1
    rng, before = np.random.default_rng(1), _resident()
    packs = [Sketch(prefix, bits, count // RANGES // 4, rng) for prefix in range(RANGES)]
    lookup = Lookup(packs)  # type: ignore[arg-type]
    held = _resident() - before
    rates: dict[str, list[float]] = defaultdict(list)
    for _round in range(rounds):
        keys = [b"crawl/2026/%09d" % number for number in rng.integers(0, count, BATCH * BATCHES).tolist()]
        for name, seconds in _round_of(lookup, keys).items():
            rates[name].append(len(keys) / seconds)
    hashes = hash_many(keys[:1000])
    _check(lookup, packs, hashes, bits)
    index = sum(each.offsets.nbytes for each in packs)
    rows: list[list[Any]] = [
        [f"{name}, M/s", *(f"{x / 1e6:.2f}" for x in SMALL.spread(each))] for name, each in rates.items()
    ]
    rows += [[f"index of {count:,} keys", size(index), "", ""], ["memory taken", size(held), "", ""]]
    return {"lookups_s_1e8": median(rates["keys in one buffer, as Arrow has them"]),
            "lookups_s_1e8_bytes": median(rates["keys as Python bytes"]), "lookups_keys": count,
            "lookups_index_mb": index / 1e6, "lookups_memory_mb": held / 1e6}, rows  # fmt: skip


def _round_of(lookup: Lookup, keys: list[bytes]) -> dict[str, float]:
    """Seconds of each way and part, over all batches."""
    spent: dict[str, float] = defaultdict(float)
    for first in range(0, len(keys), BATCH):
        part = keys[first : first + BATCH]
        data, ends = b"".join(part), np.cumsum(np.fromiter(map(len, part), np.int64, len(part)))
        began = time.perf_counter()
        hashes = hash_many(part)
        hashed = time.perf_counter()
        lookup.find(hashes)
        found = time.perf_counter()
        hashes = hash_spans(data, ends)
        spanned = time.perf_counter()
        lookup.find(hashes)
        ended = time.perf_counter()
        spent["keys as Python bytes"] += found - began
        spent["of which hashing"] += hashed - began
        spent["keys in one buffer, as Arrow has them"] += ended - found
        spent["of which the hash"] += spanned - found
        spent["of which the index"] += ended - spanned
    return spent


def _check(lookup: Lookup, packs: list[Sketch], hashes: Any, bits: int) -> None:
    """The same by numbers of any length."""
    found, starts, stops = lookup.find(hashes)
    for n, key_hash in enumerate(hashes.tolist()):
        pack = packs[key_hash >> 64 - bits]
        bucket = (key_hash << bits) % 2**64 * pack.buckets >> 64
        assert (starts[n], stops[n]) == tuple(pack.offsets.between(bucket, bucket + 1)) and found[n] == pack.prefix


def _resident() -> int:
    """Bytes of this process in memory, after giving back what it does not use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
