"""A damaged store: what does not need the damage is read, and `mend` keeps every record that is whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.cli.app import main
from danlu.errors import DamagedPack, StoreInUse
from danlu.store import folder as locks
from danlu.store import keys, manifest
from danlu.store.mend import mend
from danlu.store.merge import merge
from danlu.store.packs import Store, Writer
from danlu.store.remake import counted
from danlu.store.salvage import ONE_BIT

CURSOR = {"source": "crawl", "file": 3}
Records = dict[bytes, bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Records]:
    """Four merged packs and a younger one with a removal and newer values."""
    folder, rng = tmp_path_factory.mktemp("whole"), random.Random(3)
    truth = {b"k%d" % n: rng.randbytes(rng.randrange(900)) for n in range(200)}
    with Writer(folder) as writer:
        for part in (0, 1):
            for key in list(truth)[part::2]:
                writer.add(key, truth[key])
            writer.commit({})
    merge(folder, range_bytes=30_000)
    with Writer(folder) as writer:
        for key in list(truth)[:20]:
            truth[key] = b"newer " + key
            writer.add(key, truth[key])
        writer.remove(b"k9")
        del truth[b"k9"]
        writer.commit(CURSOR, done=True)
    assert len(list(folder.glob("*.m*.pack"))) == 4
    return folder, truth


def copied(whole: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    return folder


def records(folder: Path) -> Records:
    store = Store(folder)
    try:
        assert store.verify() == []
        found = {each.key: each.value for each in store.scan()}
        assert store.get_many(list(found)) == list(found.values())
        return found
    finally:
        store.close()


def named(folder: Path, data: st.DataObject) -> Path:
    return data.draw(st.sampled_from(sorted([*folder.glob("*.pack"), folder / manifest.NAME])))


@settings(max_examples=100)
@given(st.data())
def test_one_flipped_bit_anywhere_costs_no_record(whole, tmp_path_factory, data):
    """It is in a bucket, an index, a footer or the manifest: nothing is lost, and nothing is left to mend."""
    folder = copied(whole[0], tmp_path_factory.getbasetemp() / "bit")
    file = named(folder, data)
    was = bytearray(file.read_bytes())
    back = data.draw(st.one_of(st.integers(1, len(was)), st.integers(1, min(200, len(was)))))
    was[-back] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(was)
    assert [(each.name, each.lost, each.keys) for each in mend(folder)] == [(file.name, 0, ())]
    assert records(folder) == whole[1] and mend(folder) == []


@settings(max_examples=60)
@given(st.data())
def test_what_is_overwritten_or_cut_costs_its_own_records_alone(whole, tmp_path_factory, data):
    """A value that was older than a lost one may be back; no other value is ever read, and no whole pack is touched."""
    folder, truth = copied(whole[0], tmp_path_factory.getbasetemp() / "burst"), whole[1]
    file = data.draw(st.sampled_from(sorted(folder.glob("*.m*.pack"))))
    was = bytearray(file.read_bytes())
    at, count = data.draw(st.integers(0, len(was) - 1)), data.draw(st.integers(2, 1500))
    if data.draw(st.booleans()):
        was[at : at + count] = random.Random(at).randbytes(len(was[at : at + count]))
    else:
        del was[at:]
    file.write_bytes(was)
    others = {each.name: each.read_bytes() for each in folder.glob("*.pack") if each != file}
    done = mend(folder)
    assert [each.name for each in done] == [file.name]
    found = records(folder)
    assert found.items() <= truth.items()
    gone = truth.keys() - found.keys()
    assert done[0].lost is None or len(gone) <= done[0].lost
    assert {key for key in done[0].keys if key in truth} <= gone | {b"k%d" % n for n in range(20)}
    assert all((folder / name).read_bytes() == was for name, was in others.items())


def test_a_long_bucket_is_not_guessed(tmp_path):
    with Writer(tmp_path) as writer:
        writer.add(b"long", bytes(2 * ONE_BIT))
        writer.commit({})
    pack = tmp_path / "000000.pack"
    was = bytearray(pack.read_bytes())
    was[ONE_BIT] ^= 1
    pack.write_bytes(was)
    (done,) = mend(tmp_path)
    assert (done.lost, done.keys, done.corrected) == (1, (b"long",), 0)
    assert records(tmp_path) == {}


def test_the_rest_of_a_store_is_read_while_a_pack_is_damaged(whole, tmp_path, capfd):
    folder, truth = copied(whole[0], tmp_path / "store"), whole[1]
    victim = sorted(folder.glob("*.m*.pack"))[2]
    victim.write_bytes(victim.read_bytes()[:-30])
    with pytest.raises(DamagedPack):
        Store(folder)
    store = Store(folder, partly=True)
    found, refused = {}, set()
    for key in truth:
        try:
            found[key] = store.get(key)
        except DamagedPack as error:
            assert victim.name in str(error) and "danlu store mend" in error.fix
            refused.add(key)
    assert found.items() <= truth.items() and len(found) > len(truth) // 2 and refused
    assert all(store.get(b"k%d" % n) == b"newer k%d" % n for n in range(9)), "a younger pack answers"
    with pytest.raises(DamagedPack):
        list(store.scan())
    assert any(victim.name in problem for problem in store.verify())
    store.close()


def test_a_lost_pack_is_left_out(whole, tmp_path):
    folder = copied(whole[0], tmp_path / "store")
    victim = sorted(folder.glob("*.m*.pack"))[1]
    victim.unlink()
    (done,) = mend(folder)
    assert (done.name, done.lost) == (victim.name, None) and records(folder).items() <= whole[1].items()
    assert manifest.load(Store(folder).home).cursor == CURSOR


@pytest.mark.parametrize("text", [None, b"", b"{}", b"\xff\xfe"])
def test_a_manifest_that_is_gone_is_made_from_the_packs(whole, tmp_path, text):
    folder = copied(whole[0], tmp_path / "store")
    (folder / manifest.NAME).unlink()
    if text is not None:
        (folder / manifest.NAME).write_bytes(text)
    assert [each.name for each in mend(folder)] == [manifest.NAME]
    assert records(folder) == whole[1]
    with Writer(folder) as writer:
        assert writer.cursor == {} and not writer.done


def test_a_writer_removes_no_pack_of_a_store_that_lost_its_manifest(whole, tmp_path):
    """To it they look like packs that a killed writer has not committed."""
    folder = copied(whole[0], tmp_path / "store")
    (folder / manifest.NAME).unlink()
    with pytest.raises(DamagedPack) as caught:
        Writer(folder)
    assert "5 packs are" in caught.value.why and f"danlu store mend {folder}" in caught.value.fix
    assert len(list(folder.glob("*.pack"))) == 5 and mend(folder) and records(folder) == whole[1]


def test_which_packs_count_is_seen_from_their_names():
    two = lambda name: 1  # noqa: E731  # a merge of two ranges
    young, ranges = ["000000.pack", "000001.pack"], ["000002.m000.pack", "000002.m001.pack"]
    assert counted([*young, "000003.pack"], two) == [*young, "000003.pack"]
    assert counted(sorted([*young, *ranges, "000003.pack"]), two) == [*ranges, "000003.pack"], "all ranges are made"
    assert counted(sorted([*young, ranges[0]]), two) == young, "one range is not: the inputs are all there"
    assert counted(sorted([young[1], ranges[0]]), two) == [ranges[0], young[1]], "nobody knows: both"
    again = "000004.m000.pack"
    assert counted(sorted([*ranges, "000003.pack", again]), two) == [*ranges, "000003.pack"]
    assert counted(sorted(["000003.pack", again]), lambda name: 0) == [again]


KILLED = """
import sys
from pathlib import Path
from danlu.store.mend import mend
mend(Path(sys.argv[1]), tell=lambda name, share: print(name, flush=True))
"""


def test_kill_9_while_it_is_mended_loses_nothing(whole, tmp_path):
    folder = copied(whole[0], tmp_path / "store")
    for each in [*folder.glob("*.pack"), folder / manifest.NAME]:
        was = bytearray(each.read_bytes())
        was[-9] ^= 1
        each.write_bytes(was)
    for count in range(1, 6):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE,
                                   env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
        assert process.stdout is not None
        for _ in range(count):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    mend(folder)
    assert records(folder) == whole[1]


def test_mend_waits_for_no_writer_and_names_it(whole, tmp_path):
    folder = copied(whole[0], tmp_path / "store")
    with Writer(folder), pytest.raises(StoreInUse):
        mend(folder)


HOLDING = """
import os, signal, sys
from pathlib import Path
from danlu.store.folder import Folder
lock = Folder(Path(sys.argv[1])).lock("manifest.lock", wait=True)
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_process_that_stands_still_is_named_and_nobody_waits_for_ever(whole, tmp_path, monkeypatch):
    folder = copied(whole[0], tmp_path / "store")
    monkeypatch.setattr(locks, "MOMENT_S", 0.2)
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with pytest.raises(StoreInUse) as caught, Writer(folder) as writer:
                writer.add(b"new", b"value")
                writer.commit({})
            assert str(process.pid) in caught.value.why and "manifest.lock" in caught.value.why
        finally:
            process.kill()
    with Writer(folder) as writer:
        writer.add(b"new", b"value")
        writer.commit({})
    assert records(folder) == {**whole[1], b"new": b"value"}


def test_a_person_mends_a_store(whole, tmp_path, capsys):
    folder = copied(whole[0], tmp_path / "store")
    assert main(["store", "mend", str(folder)]) == 0 and "0 files were damaged" in capsys.readouterr().err
    pack = folder / "000003.pack"
    was = bytearray(pack.read_bytes())
    was[100:160] = bytes(60)
    pack.write_bytes(was)
    assert main(["store", "verify", str(folder)]) == 5
    assert f"danlu store mend {folder}" in capsys.readouterr().err
    assert main(["store", "mend", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "records stay" in said and "are lost" in said and f"--into {folder}" in said
    assert main(["store", "verify", str(folder)]) == 0
    assert main(["store", "keys", str(folder)]) == 0
    was = bytearray((folder / keys.NAME).read_bytes())
    was[20] ^= 1
    (folder / keys.NAME).write_bytes(was)
    assert main(["store", "verify", str(folder)]) == 5 and main(["store", "mend", str(folder)]) == 0
    assert main(["store", "verify", str(folder)]) == 0
    assert main(["store", "mend", str(tmp_path / "none")]) == 5
