"""The store's native code against Python: equal to the last byte, whatever the keys and values."""

from __future__ import annotations

import ctypes
import mmap
import os
import zlib
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.store import bucket, clib, hashing, lookup, offsets, pack
from danlu.store.arena import Arena
from danlu.store.batch import Batch
from danlu.store.packs import Store, Writer

pytestmark = pytest.mark.skipif(clib.library() is None, reason="no native library")
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)  # on a busy machine
records = st.dictionaries(st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=90)), max_size=40)


def gathered(given_records) -> Batch:
    arena = Arena(1 << 16)
    for key, value in given_records.items():
        arena.add(key, value)
    return arena.batch()


@calm
@given(st.lists(st.binary(max_size=400), max_size=12))
def test_hashes_are_blake2b(keys):
    truth = [int.from_bytes(blake2b(key, digest_size=8).digest(), "big") for key in keys]
    assert hashing.hash_many(keys).tolist() == truth == [hashing.hash_of(key) for key in keys]
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    assert hashing.hash_spans(b"".join(keys), ends).tolist() == truth


@calm
@given(st.binary(max_size=3000))
def test_checksums_are_those_of_zlib(data):
    library = clib.library()
    assert library.danlu_store_crc(data, len(data)) & 0xFFFFFFFF == zlib.crc32(data)


@calm
@given(records, st.integers(1, 20))
def test_buckets_are_those_of_python_and_are_read_back(given_records, of):
    made = gathered(given_records)
    native, plain = bucket.lay(made, 0, of, of, 0, bytearray(9)), bucket.lay_plain(made, 0, of, of, 0)
    assert native[0] == plain[0] and native[1].tolist() == plain[1].tolist()
    data = bytes(native[0])
    one, two = (parse(data, native[1][:-1], native[1][1:]) for parse in (bucket.parse, bucket.parse_plain))
    for name in ("hash", "key_at", "key_count", "value_at", "value_count"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()
    assert {r.key: r.value for r in one.records()} == {key: value or b"" for key, value in given_records.items()}


@calm
@given(records.filter(len), st.integers(0, 2**64), st.integers(1, 255))
def test_both_find_every_damage(given_records, where, change):
    made = gathered(given_records)
    data, edges = bucket.lay(made, 0, 3, 3, 0, bytearray())
    data[where % len(data)] ^= change
    for parse in (bucket.parse, bucket.parse_plain):
        with pytest.raises(bucket.DamagedBucket) as caught:
            parse(bytes(data), edges[:-1], edges[1:])
        assert edges[caught.value.args[0]] <= where % len(data) < edges[caught.value.args[0] + 1]


steps = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 20_000), st.integers(0, 2**40)), max_size=400)


@calm
@given(st.integers(0, 2**20), steps, st.data())
def test_offsets_come_back_by_any_reader(base, given_steps, draw):
    truth = np.cumsum([base, *given_steps], dtype=np.int64)
    made = offsets.offsets_of(truth)
    assert made.between(0, len(truth) - 1).tolist() == truth.tolist()
    first = draw.draw(st.integers(0, len(truth) - 1))
    last = draw.draw(st.integers(first, len(truth) - 1))
    assert made.between(first, last).tolist() == truth[first : last + 1].tolist()
    again = offsets.from_bytes(made.tobytes(), len(truth), base, int(truth[-1]))
    assert again is not None and again.between(0, len(truth) - 1).tolist() == truth.tolist()
    if given_steps:
        table = lookup.Lookup([Index(made, len(given_steps))])
        found = np.empty(last + 1 - first, np.int64)
        clib.library().danlu_store_between(ctypes.byref(clib.offsets_at(made)), first, last, clib.at(found))
        assert found.tolist() == truth[first : last + 1].tolist()
        hashes = np.array([pack.lowest(n, len(given_steps)) for n in range(len(given_steps))], np.uint64)
        _, starts, stops = table.find(hashes)
        assert starts.tolist() == truth[:-1].tolist() and stops.tolist() == truth[1:].tolist()


@calm
@given(steps, st.integers(0, 2**30), st.integers(0, 7))
def test_offsets_with_a_changed_bit_never_lead_outside(given_steps, where, bit):
    truth = np.cumsum([8, *given_steps], dtype=np.int64)
    data = bytearray(offsets.offsets_of(truth).tobytes())
    data[where % len(data)] ^= 1 << bit
    found = offsets.from_bytes(bytes(data), len(truth), 8, int(truth[-1]))
    assert found is None or len(found.between(0, len(truth) - 1)) == len(truth)
    assert offsets.from_bytes(bytes(data[:-1]), len(truth), 8, int(truth[-1])) is None


class Index:
    """A merged pack of which only the index is there."""

    merged, prefix, bits, records = True, 0, 0, 0

    def __init__(self, of: offsets.Offsets, buckets: int) -> None:
        self.offsets, self.buckets = of, buckets
        self.reader = type("NoFile", (), {"fd": 0, "direct": -1})()


@calm
@given(st.integers(0, 12), st.data())
def test_a_bucket_begins_at_its_lowest_hash(bits, draw):
    of = draw.draw(st.integers(1, 2**31))
    number = draw.draw(st.integers(0, of - 1))
    prefix = draw.draw(st.integers(0, (1 << bits) - 1))
    low, high = pack.lowest(number, of, bits, prefix), pack.lowest(number + 1, of, bits, prefix)
    hashes = np.array([low, high - 1], np.uint64)
    assert bucket.bucket_of(hashes, of, bits).tolist() == [number, number]
    assert all(int(each) >> 64 - bits == prefix for each in hashes) if bits else True


def test_a_bucket_is_read_past_the_page_cache_once_and_then_through_it(tmp_path):
    truth = {b"%d" % n: b"%d " % n * (9 if n else 40_000) for n in range(3000)}  # one is larger than a thread's buffer
    with Writer(tmp_path) as writer:
        for key, value in truth.items():
            writer.add(key, value)
        writer.commit({})
    store = Store(tmp_path)
    file = store._packs[0].reader
    mapped = mmap.mmap(file.fd, 0, access=mmap.ACCESS_COPY)
    start, pages = ctypes.addressof(ctypes.c_char.from_buffer(mapped)), -(-file.size // mmap.PAGESIZE)

    def in_memory() -> bool:
        told = (ctypes.c_ubyte * pages)()
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(file.size), told) == 0
        return sum(each & 1 for each in told) > pages // 2

    def forget() -> None:
        os.fsync(file.fd)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    forget()
    if file.direct < 0 or in_memory():
        pytest.skip("this disk knows no direct reads, or is memory")
    ones = list({store._packs[0].span(hashing.hash_of(key)): key for key in truth}.values())  # a key of each bucket
    assert [store.get(key) for key in ones] == [truth[key] for key in ones] and not in_memory()
    assert [store.get(key) for key in ones] == [truth[key] for key in ones] and in_memory()
    forget()
    store._lookup._given.left = 1  # nearly as much was read as there is memory: what was seen is forgotten at the next
    store._lookup._seen[0][-1] = 0
    assert {key: store.get(key) for key in ones[::-1]} == {key: truth[key] for key in ones} and not in_memory()
    assert {key: store.get(key) for key in truth} == truth
    assert 0 < store.index_bytes - store._packs[0].index_bytes <= 3000 / 4 / 8 + 8
    store.close()
