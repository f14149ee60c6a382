"""What goes into packs on its way: the buffer of records is a dictionary, the stream is a file."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.store import keys, stream
from danlu.store.arena import Arena
from danlu.store.batch import REMOVED
from danlu.store.hashing import hash_of
from danlu.store.merge import merge
from danlu.store.packs import Store, Writer

steps = st.lists(st.tuples(st.binary(max_size=3), st.one_of(st.none(), st.binary(max_size=50))), max_size=60)


@given(st.lists(steps, max_size=3), st.integers(1, 200))
def test_an_arena_is_a_dictionary_in_hash_order(rounds, room):
    arena = Arena(room)
    for given_steps in rounds:
        truth: dict[bytes, bytes | None] = {}
        for key, value in given_steps:
            held = arena.add(key, value)
            truth[key] = value
        assert not given_steps or held == sum(len(key) + len(value or b"") for key, value in given_steps)
        made = arena.batch()
        order = [(made.hash[n], made.key(n)) for n in range(len(made))]
        assert order == sorted((hash_of(key), key) for key in truth)
        for n, (_, key) in enumerate(order):
            start, count = int(made.value_at[n]), int(made.value_count[n])
            assert (None if count == REMOVED else bytes(made.data[start : start + count])) == truth[key]
        del made
        arena.clear()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3 * stream.BLOCK), max_size=6), st.binary(min_size=1, max_size=9))
def test_a_stream_writes_what_it_is_given(tmp_path_factory, sizes, seed):
    path = tmp_path_factory.mktemp("stream") / "file"
    truth = b""
    with path.open("wb") as file, stream.Stream(file) as out:
        for size in sizes:
            part = (seed * (size // len(seed) + 1))[:size]
            assert out.write(part) == size
            truth += part
            if size % 2:
                out.flush()
                assert path.stat().st_size >= len(truth)
    assert path.read_bytes() == truth


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MiB; skipped where this user may mount none."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mount here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_disk_of_temporary_files_is_named_when_it_fills(small_disk, tmp_path, monkeypatch):
    with Writer(tmp_path / "store") as writer:
        for number in range(1000):
            writer.add(b"%d" % number * 3000, b"")
        writer.commit({})
    monkeypatch.setattr(keys, "RUN", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with provoke("DL-MEM-002") as caught:
        keys.write(Store(tmp_path / "store"))
    assert caught.error.where == f"{small_disk}/keys" and not (tmp_path / "store" / "keys").exists()


def test_a_disk_that_fills_stops_a_stream(small_disk):
    for size in (stream.BLOCK // 2, 3 * stream.BLOCK):
        with (
            pytest.raises(OSError) as caught,
            (small_disk / "file").open("wb") as file,
            stream.Stream(file) as out,
        ):
            for _ in range(40):
                out.write(bytes(size))
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("wait", [True, False])
def test_a_disk_that_fills_costs_a_store_nothing_that_was_committed(small_disk, wait):
    """The store stays whole and readable, and goes on when there is room again."""
    values = {b"%d" % n: bytes([n]) * 400_000 for n in range(16)}
    with Writer(small_disk / "store", pack_bytes=1_500_000) as writer:
        with provoke("DL-MEM-002"):
            for number, (key, value) in enumerate(values.items()):
                if writer.add(key, value):
                    writer.commit({"next": number + 1}, wait=wait)
        with provoke("DL-MEM-002"):
            writer.add(b"more", bytes(1_500_000))
            writer.commit({"next": 99})
        done = writer.cursor["next"]
    store = Store(small_disk / "store")
    assert 0 < done == store.records == store.cursor["next"] and store.verify() == []
    assert all(store.get(key) == value for key, value in list(values.items())[:done])
    store.close()
    with provoke("DL-MEM-002"):
        merge(small_disk / "store")
    assert not [path for path in (small_disk / "store").iterdir() if path.name.endswith(".part")]
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    with Writer(small_disk / "store", pack_bytes=1_500_000) as writer:
        for number, key in [*enumerate(values)][writer.cursor["next"] :]:
            if writer.add(key, values[key]):
                writer.commit({"next": number + 1}, wait=wait)
        writer.commit({"next": len(values)}, done=True)
    merge(small_disk / "store")
    store = Store(small_disk / "store")
    assert {record.key: record.value for record in store.scan()} == values and store.verify() == []
    store.close()
