"""Snapshots: whole or absent, whatever happens to their writer."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke
from snapshots import NAMES, same, save, tensors

from danlu import atomic
from danlu.store import checkpoint


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.tuples(
    st.sampled_from(["float32", "float16", "float64", "uint16", "int64", "int32", "int8", "uint8", "bool"]),
    st.lists(st.integers(0, 4), max_size=3))))  # fmt: skip
def test_any_tensors_come_back_as_they_were(tmp_path_factory, kinds):
    folder = tmp_path_factory.mktemp("any")
    rng = np.random.default_rng(0)
    truth = {name: np.asarray(rng.integers(0, 2, shape)).astype(dtype) for name, (dtype, shape) in kinds.items()}
    checkpoint.commit(folder, 3, [checkpoint.save_shard(folder, 3, 0, truth)])
    found = checkpoint.load(folder, 3)
    assert found.keys() == truth.keys()
    for name, array in truth.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def test_a_shard_is_a_plain_safetensors_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    truth = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(5, dtype=np.int64)}
    shard = checkpoint.save_shard(tmp_path, 1, 0, truth)
    found = safetensors.load_file(checkpoint.folder_of(tmp_path, 1) / shard.file)
    assert all(np.array_equal(found[name], truth[name]) for name in truth)


def test_tensors_are_found_in_any_shard_and_meta_comes_back(tmp_path):
    save(tmp_path, 4, ranks=3)
    wanted = [NAMES[0], NAMES[5] + ".m"]
    found = checkpoint.load(tmp_path, 4, wanted)
    assert sorted(found) == sorted(wanted)
    assert all(np.array_equal(found[name], tensors(4)[name]) for name in wanted)
    assert checkpoint.read(tmp_path, 4).meta == {"seed": 7, "loader": {"step": 4}}
    found[NAMES[0]][:] = 0  # ours to write on


def test_parts_of_a_tensor_are_put_together(tmp_path):
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    first = checkpoint.save_shard(tmp_path, 1, 0, {"a@1:0:2": whole[:, :2], "a@1:0:2.m": whole[:, :2] + 1, "b": whole})
    second = checkpoint.save_shard(tmp_path, 1, 1, {"a@1:2:6": whole[:, 2:], "a@1:2:6.m": whole[:, 2:] + 1})
    checkpoint.commit(tmp_path, 1, [first, second])
    found = checkpoint.load(tmp_path, 1)
    assert found.keys() == {"a", "a.m", "b"} and np.array_equal(found["a"], whole)
    assert np.array_equal(checkpoint.load(tmp_path, 1, ["a.m"])["a.m"], whole + 1)
    assert checkpoint.read(tmp_path, 1).shapes == {"a": (4, 6), "a.m": (4, 6), "b": (4, 6)}


def test_parts_that_leave_a_hole_are_damage(tmp_path):
    shard = checkpoint.save_shard(tmp_path, 1, 0, {"a@0:0:1": np.ones((1, 2)), "a@0:2:3": np.ones((1, 2))})
    checkpoint.commit(tmp_path, 1, [shard])
    with provoke("DL-DATA-060") as caught:
        checkpoint.load(tmp_path, 1, ["a"])
    assert "2:3 of a follows 1" in caught.error.why


def test_a_shard_crosses_a_socket_as_json(tmp_path):
    shard = checkpoint.save_shard(tmp_path, 1, 0, tensors(1), {"rank": 0})
    assert checkpoint.shard_of(json.loads(json.dumps(asdict(shard)))) == shard


def test_the_newest_two_stay(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step)
    assert checkpoint.steps(tmp_path) == (20, 30)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000020", "step-000000030"]


def test_a_rewound_run_drops_the_steps_after_it(tmp_path):
    for step in (10, 20, 15):
        save(tmp_path, step)
    assert checkpoint.latest(tmp_path) == 15


def test_shards_without_a_manifest_are_no_snapshot(tmp_path):
    save(tmp_path, 1)
    checkpoint.save_shard(tmp_path, 2, 0, tensors(2))
    assert checkpoint.latest(tmp_path) == 1
    with provoke("DL-DATA-060"):
        checkpoint.load(tmp_path, 2)
    checkpoint.clear(tmp_path)
    assert checkpoint.latest(tmp_path) is None


def test_every_flipped_bit_is_found_and_the_older_snapshot_serves(tmp_path, capsys):
    save(tmp_path, 1)
    save(tmp_path, 2)
    rng = random.Random(0)
    for path in sorted(checkpoint.folder_of(tmp_path, 2).iterdir()):
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little") if path.suffix == ".safetensors" else 0
        for _ in range(20):
            at = rng.randrange(header, len(whole))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
            assert checkpoint.latest(tmp_path) in ([1] if path.suffix == ".safetensors" else [1, 2]), (path.name, at)
            if checkpoint.latest(tmp_path) == 2:  # a blank or an escape of the outer JSON: the body is what was written
                assert same(tmp_path, 2)
        path.write_bytes(whole[: len(whole) // 2])
        assert checkpoint.latest(tmp_path) == 1
        path.write_bytes(whole)
    assert checkpoint.latest(tmp_path) == 2
    assert "step 2 is skipped" in capsys.readouterr().err


def test_a_tensor_the_snapshot_lacks_is_named(tmp_path):
    save(tmp_path, 1)
    with provoke("DL-DATA-061") as caught:
        checkpoint.load(tmp_path, 1, ["layers.9.attn.q.weight"])
    assert "layers.9.attn.q.weight" in str(caught.error)


def test_a_newer_checkpoint_is_refused_by_version(tmp_path):
    save(tmp_path, 1)
    path = checkpoint.folder_of(tmp_path, 1) / checkpoint.MANIFEST
    path.write_text(path.read_text().replace('"checkpoint": 2', '"checkpoint": 9'))
    with provoke("DL-DATA-062"):
        checkpoint.latest(tmp_path)


def test_a_full_disk_leaves_the_snapshot_before_it(tmp_path):
    save(tmp_path, 1)
    place = checkpoint.folder_of(tmp_path, 2)
    place.mkdir()
    part = atomic.draft(place / "rank-00000.safetensors")
    part.symlink_to("/dev/full")  # every write to it meets ENOSPC, as on a full disk
    with provoke("DL-MEM-002"):
        checkpoint.save_shard(tmp_path, 2, 0, tensors(2))
    assert not part.is_symlink() and list(place.iterdir()) == []
    assert checkpoint.latest(tmp_path) == 1 and same(tmp_path, 1)


WRITER = """
import sys
from pathlib import Path
from snapshots import save
for step in range(int(sys.argv[2]), 10**6):
    save(Path(sys.argv[1]), step, ranks=1 + step % 3)
    print(step, flush=True)
"""


@pytest.mark.procs
def test_kill_9_at_any_moment_loses_no_committed_snapshot(tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    rng, step = random.Random(seed), 0
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(step + 1)], env=env,
                              stdout=subprocess.PIPE, text=True) as writer:  # fmt: skip
            assert writer.stdout
            told = [writer.stdout.readline()]
            try:
                writer.wait(rng.uniform(0, 0.15))
            except subprocess.TimeoutExpired:
                writer.send_signal(signal.SIGKILL)
            told += writer.stdout.readlines()
        step = checkpoint.latest(tmp_path) or 0
        assert step >= max(int(line) for line in told if line.endswith("\n")), f"seed {seed}"
        assert same(tmp_path, step), f"seed {seed}: step {step}"
