"""A store far away is the same store: packs by range requests, locks that name their holder, a bounded cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from provoke import provoke

from danlu.store import cache as caching
from danlu.store.cache import Cache
from danlu.store.homes import home_of
from danlu.store.merge import merge
from danlu.store.packs import Store, Writer

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def where():
    """A fresh address in memory."""
    return f"memory://{uuid.uuid4().hex}/store"


def fill(where: str, count: int = 600) -> dict[bytes, bytes]:
    truth = {b"doc %d" % n: b"%d " % n * 40 for n in range(count)}
    with Writer(where) as writer:
        for part in range(3):
            for key in list(truth)[part::3]:
                writer.add(key, truth[key])
            writer.commit({"part": part}, done=part == 2)
    return truth


def same(store: Store, truth: dict[bytes, bytes]) -> None:
    assert {r.key: r.value for r in store.scan()} == truth and store.verify() == []
    assert all(store.get(key) == value for key, value in list(truth.items())[:50])
    assert store.get_many([*list(truth)[:20], b"absent"]) == [*list(truth.values())[:20], None]


def whole(where: str) -> None:
    truth = fill(where)
    store = Store(where)
    assert store.packs == 3 and store.done and store.cursor == {"part": 2}
    same(store, truth)
    merge(where, range_bytes=30_000)
    store = Store(where)
    assert store.packs > 1 and store.records == len(truth)
    same(store, truth)
    with Writer(where) as writer:
        with provoke("DL-ENV-060") as caught:
            Writer(where)
        assert str(os.getpid()) in caught.error.why
        writer.remove(b"doc 0")
        writer.commit({})
    assert Store(where).get(b"doc 0") is None and Store(where).get(b"doc 1") == truth[b"doc 1"]
    Writer(where).close()


def test_a_store_in_memory_is_a_store(where):
    whole(where)


def test_an_address_of_this_machine_is_a_folder(tmp_path):
    whole(f"file://{tmp_path}/s")
    assert Store(tmp_path / "s").get(b"doc 1")


def test_a_lock_left_by_a_killed_process_of_this_host_is_taken_over(where):
    home = home_of(where)
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = b'{"host": "%s", "pid": %d, "t": 0}' % (os.uname().nodename.encode(), gone.pid)
    home.put("lock", lambda file: file.write(left))
    Writer(where).close()
    home.put("lock", lambda file: file.write(left.replace(os.uname().nodename.encode(), b"another-host")))
    with provoke("DL-ENV-060") as caught:
        Writer(where)
    assert "another-host" in caught.error.why


def test_the_cache_answers_is_bounded_and_mends_itself(where, tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "BLOCK", 4096)
    truth = fill(where)
    cache = Cache(tmp_path / "cache", 20 * 4100)
    store = Store(where, cache=cache)
    same(store, truth)
    files = list((tmp_path / "cache").iterdir())
    assert 10 < len(files) <= 20 and sum(each.stat().st_size for each in files) <= 20 * 4100
    assert store.get(b"doc 7") == truth[b"doc 7"]
    before = cache.misses
    assert store.get(b"doc 7") == truth[b"doc 7"] and cache.misses == before
    for each in files:
        data = bytearray(each.read_bytes()) if each.exists() else bytearray(b"    x")
        data[-1] ^= 1
        each.write_bytes(data)
    again = Cache(tmp_path / "cache", 20 * 4100)
    same(Store(where, cache=again), truth)
    assert again.misses > 0


def test_drafts_of_killed_processes_are_swept_from_the_cache_and_those_under_way_stay(tmp_path):
    """A process that is killed while it keeps a block leaves a draft, which counts against no bound."""
    code = """
import os, signal, sys
from pathlib import Path
from danlu.store.cache import Cache
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)  # the moment between written and named
Cache(Path(sys.argv[1])).read("far", 1000, 0, 1000, lambda start, stop: b"x" * (stop - start))
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    (left,) = tmp_path.iterdir()
    Cache(tmp_path)
    assert left.exists()
    os.utime(left, (0, 0))
    Cache(tmp_path)
    assert not left.exists()


def test_a_cache_opens_while_others_make_room_in_its_folder(tmp_path):
    def keep(cache: Cache, numbers: range) -> None:
        for number in numbers:
            cache.read(f"far {number}", 10, 0, 10, lambda start, stop: b"x" * (stop - start))

    crowd = Cache(tmp_path, 100 * 14)
    keep(crowd, range(100))
    with ThreadPoolExecutor() as pool:
        busy = pool.submit(keep, crowd, range(100, 1500))
        while not busy.done():
            Cache(tmp_path)
        busy.result()


def test_bad_addresses_say_what_to_do(monkeypatch):
    with provoke("DL-ENV-061"):
        home_of("nosuchprotocol://x")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with provoke("DL-ENV-001"):
        home_of("memory://x")


@pytest.mark.slow
@pytest.mark.system
def test_an_s3_server_holds_a_store(tmp_path):
    moto, _ = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        whole("s3://bucket/a/store")
        cache = Cache(tmp_path / "cache")
        store, began = Store("s3://bucket/a/store", cache=cache), time.monotonic()
        assert store.get(b"doc 5") == store.get(b"doc 5") and cache.hits and time.monotonic() - began < 30
    server.stop()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with provoke("DL-ENV-061"):
            Store("s3://bucket/a/store")
