"""A merge changes how a store lies on the disk and nothing else, however often it is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu import atomic
from danlu.store import manifest
from danlu.store.folder import Folder
from danlu.store.merge import merge
from danlu.store.packs import Store, Writer

commits = st.lists(st.dictionaries(st.sampled_from([b"%d" % n for n in range(40)]),
                                   st.one_of(st.none(), st.binary(max_size=60)), max_size=30), max_size=5)  # fmt: skip


def write(folder: Path, every) -> dict[bytes, bytes]:
    truth: dict[bytes, bytes | None] = {}
    with Writer(folder) as writer:
        for each in every:
            for key, value in each.items():
                writer.remove(key) if value is None else writer.add(key, value)
            truth |= each
            writer.commit({"n": len(truth)})
    return {key: value for key, value in truth.items() if value is not None}


def content(folder: Path) -> dict[bytes, bytes]:
    store = Store(folder)
    found = list(store.scan())
    assert [r.hash for r in found] == sorted(r.hash for r in found) and store.verify() == []
    assert all(store.get(r.key) == r.value for r in found)
    assert store.get_many([r.key for r in found]) == [r.value for r in found]
    store.close()
    return {r.key: r.value for r in found}


@settings(deadline=None, max_examples=12)  # every commit waits for the disk
@given(commits, commits, st.sampled_from([500, 1 << 30]))
def test_a_merged_store_is_the_same_dictionary(tmp_path_factory, first, second, range_bytes):
    folder = tmp_path_factory.mktemp("merge") / "s"
    truth = write(folder, first)
    assert content(folder) == truth
    done = merge(folder, range_bytes=range_bytes)
    assert content(folder) == truth
    store = Store(folder)
    assert done.packs[1] == store.packs and (store.records == len(truth) or done.packs[0] < 2)
    assert store.get(b"absent") is None and not [n for n in os.listdir(folder) if n.endswith(".part")]
    store.close()
    later = write(folder, second)
    gone = {key for each in second for key in each} - later.keys()
    truth = {key: value for key, value in (truth | later).items() if key not in gone}
    assert content(folder) == truth
    merge(folder, range_bytes=range_bytes)
    assert content(folder) == truth


def many(folder: Path, packs: int = 6, count: int = 3000) -> dict[bytes, bytes]:
    every = [{b"doc %d" % n: b"%d of %d " % (n, p) * 20 for n in range(p, count, 3)} for p in range(packs)]
    every[-1] |= {b"doc %d" % n: None for n in range(0, count, 50)}
    return write(folder, every)


def test_a_record_is_in_one_pack_and_the_index_is_half_a_byte(tmp_path):
    truth = many(tmp_path)
    merge(tmp_path, range_bytes=100_000)
    store = Store(tmp_path)
    assert store.packs >= 8 and store.records == len(truth)
    assert store.index_bytes / store.records < 0.6
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in store.names}
    merge(tmp_path, range_bytes=100_000)  # there is nothing to do
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in store.names} == before


def test_readers_and_writers_go_on_during_a_merge(tmp_path):
    truth = many(tmp_path)
    reader = Store(tmp_path)
    with Writer(tmp_path) as writer:

        def meanwhile(words: str, share: float) -> None:
            writer.add(b"new %d" % round(share * 100), b"while it merged")
            writer.commit({"n": 1})
            with provoke("DL-ENV-060") as caught:
                merge(tmp_path)
            assert str(os.getpid()) in caught.error.why
            with provoke("DL-ENV-060"):
                writer.clear()

        merge(tmp_path, range_bytes=200_000, tell=meanwhile)
    assert {r.key: r.value for r in reader.scan()} == truth
    found = content(tmp_path)
    assert len(found) > len(truth) and all(found[key] == value for key, value in truth.items())


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path):
    truth = many(tmp_path)
    number = manifest.load(Folder(tmp_path)).next

    def fill_the_disk(words: str, share: float) -> None:
        if share:
            atomic.draft(tmp_path / f"{number:06d}.m001.pack").symlink_to("/dev/full")

    with provoke("DL-MEM-002"):
        merge(tmp_path, range_bytes=200_000, tell=fill_the_disk)
    assert content(tmp_path) == truth
    merge(tmp_path, range_bytes=200_000)
    assert content(tmp_path) == truth


def test_what_was_written_after_a_merge_was_stopped_is_merged_too(tmp_path):
    truth = many(tmp_path)

    def stop(words: str, share: float) -> None:
        if share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path, range_bytes=200_000, tell=stop)
    truth |= write(tmp_path, [{b"doc 1": b"later", b"more": b"too"}])
    merge(tmp_path, range_bytes=200_000)
    assert content(tmp_path) == truth and Store(tmp_path).records == len(truth)


MERGE = """
import sys
from danlu.store.merge import merge
print("begin", flush=True)
merge(sys.argv[1], range_bytes=60_000)
"""


@pytest.mark.procs
def test_kill_9_in_a_merge_changes_no_byte_of_the_result(tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    rng, env = random.Random(seed), {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    truth = many(tmp_path / "whole", count=6000)
    many(tmp_path / "killed", count=6000)
    merge(tmp_path / "whole", range_bytes=60_000)
    done = False
    for attempt in range(40):
        with subprocess.Popen([sys.executable, "-c", MERGE, str(tmp_path / "killed")], env=env,
                              stdout=subprocess.PIPE) as child:  # fmt: skip
            assert child.stdout and child.stdout.readline()
            try:
                done = child.wait(rng.uniform(0, 0.05) if attempt < 9 else None) == 0
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        assert content(tmp_path / "killed") == truth, f"seed {seed}"
        if done:
            break
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if "lock" not in path.name}
             for name in ("whole", "killed")]  # fmt: skip
    assert files[0] == files[1], f"seed {seed}"
