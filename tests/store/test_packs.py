"""Packs and stores: what was committed is found, once, by key and in hash order, or its loss is named."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu import atomic, native
from danlu.store import clib, hashing, lookup, pack
from danlu.store import packs as packs_module
from danlu.store.packs import MANIFEST, Store, Writer

records = st.dictionaries(st.binary(max_size=30), st.binary(max_size=60), max_size=60)


@given(st.lists(records, max_size=4))
def test_a_store_is_a_dictionary_in_hash_order(tmp_path_factory, commits):
    folder = tmp_path_factory.mktemp("store") / "s"
    truth: dict[bytes, bytes] = {}
    with Writer(folder) as writer:
        for number, each in enumerate(commits):
            for key, value in each.items():
                writer.add(key, value)
            truth |= each
            writer.commit({"next": number})
    store = Store(folder)
    found = list(store.scan())
    assert {r.key: r.value for r in found} == truth and len(found) == len(truth)
    assert [r.hash for r in found] == sorted(pack.hash_of(key) for key in truth)
    assert all(store.get(key) == value for key, value in truth.items())
    assert store.get(b"absent" * 9) is None and store.verify() == []
    if len(found) > 1:
        assert list(store.scan(found[0].hash + 1)) == found[1:]
    store.close()


def fill(folder: Path, count: int = 2000, size: int = 200) -> Store:
    with Writer(folder) as writer:
        for number in range(count):
            writer.add(b"doc %d" % number, b"%d " % number * (size // 8))
        writer.commit({"next": count}, done=True)
    return Store(folder)


@given(st.data(), st.integers(1, 9), st.integers(1, 60))
def test_a_scan_from_and_to_any_hash_gives_what_lies_between(tmp_path_factory, data, packs, run):
    rng = random.Random(packs)
    where = tmp_path_factory.mktemp("scan")
    with Writer(where) as writer:
        for number in range(packs):
            for _ in range(20):
                writer.add(str(rng.randrange(90)).encode(), rng.randbytes(rng.randrange(40)))
            writer.commit({}, done=number == packs - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs_module, "RUN", run)
        store = Store(where)
        every = list(store.scan())
        near = [each.hash + step for each in every for step in (0, 1)]
        start, stop = (data.draw(st.sampled_from([0, 1 << 64, *near])) for _ in range(2))
        assert list(store.scan(start, stop)) == [each for each in every if start <= each.hash < stop]
        store.close()
    assert [each.hash for each in every] == sorted(each.hash for each in every)


def test_the_index_is_half_a_byte_a_record(tmp_path):
    store = fill(tmp_path, size=2000)
    assert store.records == 2000 and store.index_bytes / store.records < 0.6


@pytest.mark.parametrize("kind", ["<u4", "<u8"])
def test_a_pack_of_the_version_before_is_read(tmp_path, kind):
    """Its offsets are plain numbers, in 4 bytes each or, of a large pack, in 8."""
    store = fill(tmp_path)
    truth, numbers = list(store.scan()), store._packs[0].offsets.between(0, store._packs[0].buckets)
    store.close()
    path = tmp_path / "000000.pack"
    whole = path.read_bytes()
    footer = np.frombuffer(whole[-pack.FOOTER.itemsize :], pack.FOOTER).copy()
    index = numbers.astype(kind).tobytes()
    footer["magic"], footer["index_crc"], footer["crc"] = pack.OLDER, zlib.crc32(index), 0
    footer["crc"] = zlib.crc32(footer.tobytes())
    path.write_bytes(pack.OLDER + whole[8 : int(footer["index"][0])] + index + footer.tobytes())
    store = Store(tmp_path)
    assert list(store.scan()) == truth and store.verify() == [] and all(store.get(r.key) == r.value for r in truth)
    store.close()


def test_two_keys_of_one_hash_are_two_records(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    clib.library.cache_clear()
    for room in (hashing, lookup):
        monkeypatch.setattr(room, "hash_of", lambda key: 7)
    with Writer(tmp_path) as writer:
        for keys in (b"ab", b"bc"):
            for key in keys:
                writer.add(bytes([key]), keys)
            writer.commit({})
    store = Store(tmp_path)
    assert [store.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"ab", b"bc", b"bc", None]
    assert [record.key for record in store.scan()] == [b"a", b"b", b"c"]
    clib.library.cache_clear()


def test_every_flipped_bit_is_found(tmp_path):
    fill(tmp_path, 60, 40).close()
    path = tmp_path / "000000.pack"
    whole, rng = path.read_bytes(), random.Random(1)
    for at in [*range(60), *range(len(whole) - pack.FOOTER.itemsize, len(whole)), *rng.sample(range(len(whole)), 100)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        with provoke("DL-DATA-063"):
            if problems := Store(tmp_path).verify():
                raise pack.damaged(path, problems[0])
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with provoke("DL-DATA-063"):
            Store(tmp_path)


def test_one_damaged_bucket_costs_only_its_own_records(tmp_path):
    fill(tmp_path).close()
    path = tmp_path / "000000.pack"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    store, lost = Store(tmp_path), 0
    for number in range(2000):
        try:
            assert store.get(b"doc %d" % number) == b"%d " % number * 25
        except pack.DamagedPack:
            lost += 1
    assert 0 < lost < 20 and len(store.verify()) == 2


def test_a_manifest_that_is_not_ours_is_refused(tmp_path):
    fill(tmp_path).close()
    for text, code in (("{", "DL-DATA-063"), ('{"pack": 9}', "DL-DATA-062")):
        (tmp_path / MANIFEST).write_text(text)
        with provoke(code):
            Store(tmp_path)


def test_two_writers_cannot_have_one_store(tmp_path):
    with Writer(tmp_path), provoke("DL-ENV-060") as caught:
        Writer(tmp_path)
    assert str(os.getpid()) in caught.error.why
    Writer(tmp_path).close()


def test_a_store_of_more_packs_than_files_may_be_open_is_read(tmp_path):
    """The limit that a process has is often 1,024; it may raise it as far as the host lets it."""
    with Writer(tmp_path) as writer:
        for number in range(60):
            writer.add(b"%d" % number, b"value")
            writer.commit({})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    if limits[1] < used + 200:
        pytest.skip(f"this host lets a process open {limits[1]} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    try:
        store = Store(tmp_path)
        assert all(store.get(b"%d" % number) == b"value" for number in range(60))
        store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_full_disk_keeps_what_was_committed_and_the_next_try_goes_on(tmp_path):
    with Writer(tmp_path) as writer:
        writer.add(b"a", b"1")
        writer.commit({"next": 1})
        writer.add(b"b", b"2" * 2**20)
        part = atomic.draft(tmp_path / "000001.pack")
        part.symlink_to("/dev/full")
        with provoke("DL-MEM-002"):
            writer.commit({"next": 2})
        assert Store(tmp_path).get(b"a") == b"1" and not part.is_symlink()
        writer.commit({"next": 2})
    assert Store(tmp_path).get(b"b") and Store(tmp_path).cursor == {"next": 2}


WRITER = """
import sys
from pathlib import Path
from danlu.store.packs import Writer
with Writer(Path(sys.argv[1]), pack_bytes=2000) as writer:
    for number in range(writer.cursor.get("next", 0), 3000):
        if writer.add(b"doc %d" % number, b"%d " % number * 20):
            writer.commit({"next": number + 1})
            print(number + 1, flush=True)
    writer.commit({"next": 3000}, done=True)
"""


@pytest.mark.procs
def test_kill_9_at_any_moment_loses_nothing_committed_and_doubles_nothing(tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    rng, env = random.Random(seed), {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for attempt in range(60):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=env, stdout=subprocess.PIPE,
                              text=True) as writer:  # fmt: skip
            assert writer.stdout
            told = [writer.stdout.readline()]
            try:
                writer.wait(rng.uniform(0, 0.15) if attempt < 8 else None)
            except subprocess.TimeoutExpired:
                writer.send_signal(signal.SIGKILL)
            told += writer.stdout.readlines()
        store = Store(tmp_path)
        committed = store.cursor["next"]
        assert committed >= max([0, *(int(line) for line in told if line.endswith("\n"))]), f"seed {seed}"
        assert store.records == committed == len({r.key for r in store.scan()}), f"seed {seed}"
        if store.done:
            break
    assert store.done and store.verify() == []
    assert all(store.get(b"doc %d" % number) == b"%d " % number * 20 for number in range(3000)), f"seed {seed}"


@given(st.lists(records, min_size=1, max_size=3), st.integers(0, 3), st.data())
def test_packs_of_other_stores_are_taken_and_cost_no_second_copy(tmp_path_factory, parts, bits, data):
    home = tmp_path_factory.mktemp("store")
    every = {key: value for each in parts for key, value in each.items()}
    taken: list[Path] = []
    for number in range(1 << bits):
        with Writer(home / str(number), bits=bits, pack_bytes=4096) as writer:
            for key, value in every.items():
                if pack.hash_of(key) >> 64 - bits == number:
                    writer.add(key, value)
            writer.commit({}, done=True)
        part = Store(home / str(number))
        taken += [home / str(number) / name for name in part.names]
        assert all(each.bits == bits and each.prefix == number for each in part._packs)
        assert [r.key for r in part.scan()] == sorted(
            (key for key in every if pack.hash_of(key) >> 64 - bits == number), key=lambda k: (pack.hash_of(k), k)
        )
        part.close()
    gone = set(data.draw(st.lists(st.sampled_from(sorted(every)), unique=True))) if every else set()
    with Writer(home / "whole", pack_bytes=4096) as writer:
        writer.take(taken)
        for key in gone:
            writer.remove(key)
        writer.commit({"of": "parts"}, done=True)
    assert {each.stat().st_nlink for each in taken} <= {2}
    whole = Store(home / "whole")
    assert {r.key: r.value for r in whole.scan()} == {k: v for k, v in every.items() if k not in gone}
    assert all(whole.get(key) == (None if key in gone else value) for key, value in every.items())
    assert whole.get_many(sorted(every)) == [None if key in gone else every[key] for key in sorted(every)]
    whole.close()


def test_a_pack_whose_hashes_share_no_bits_covers_them_all(tmp_path):
    with Writer(tmp_path / "s", bits=4) as writer:
        for number in range(500):
            writer.add(b"%d" % number, b"value")
        writer.commit({}, done=True)
    store = Store(tmp_path / "s")
    assert len(list(store.scan())) == 500 and all(store.get(b"%d" % number) == b"value" for number in range(500))


def test_packs_of_a_disk_that_gives_no_second_names_are_copied(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    truth = {r.key: r.value for r in fill(tmp_path / "one").scan()}
    monkeypatch.setattr(os, "link", refuse)
    with Writer(tmp_path / "two") as writer:
        writer.take([tmp_path / "one" / "000000.pack"])
        writer.commit({}, done=True)
    assert {r.key: r.value for r in Store(tmp_path / "two").scan()} == truth


def test_packs_taken_and_not_committed_are_swept(tmp_path):
    fill(tmp_path / "one")
    with Writer(tmp_path / "two") as writer:
        writer.take([tmp_path / "one" / "000000.pack"])
    with Writer(tmp_path / "two"):
        assert not list((tmp_path / "two").glob("*.pack"))
    assert list(Store(tmp_path / "two").scan()) == []
