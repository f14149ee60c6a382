"""Two hosts and the slow link between them: network namespaces joined by a shaped veth pair. Nothing is paced here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clusters import two_hosts, until
from test_system_launch import a_run, launched

from danlu.cli.bench import load
from danlu.comm.mesh import Door
from danlu.store import checkpoint

pytestmark = pytest.mark.system
assert a_run  # a fixture
RANK = "from test_system_link import main; main(*__import__('sys').argv[1:])"


def inside(host: str, *argv: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(["ip", "netns", "exec", host, *argv], text=True, cwd=Path(__file__).parent, **options)


def test_training_over_a_slow_link_is_that_of_one_host_to_the_bit(a_run, tmp_path):
    (tmp_path / "apart").mkdir()
    with two_hosts(delay_ms=5, mbit=50) as (names, addresses):
        path, orders = a_run(tmp_path / "apart", "a", "b"), tmp_path / "apart" / "out" / "orders"
        helpers = [inside(name, sys.executable, "-m", "danlu.launch.come", str(orders), host)
                   for name, host in zip(names, "ab", strict=True)]  # fmt: skip
        train = [sys.executable, "-m", "danlu.cli", "train", str(path), "--plan.split", "even"]
        began = time.monotonic()
        owner = inside(names[0], *train, "--launch.by", "orders", "--launch.interface", addresses[0],
                       stderr=subprocess.PIPE)  # fmt: skip
        said = owner.communicate(timeout=110)[1]
        assert owner.returncode == 0, said
        assert [helper.wait(30) for helper in helpers] == [0, 0]
        sent = json.loads(subprocess.check_output(["ip", "-n", names[1], "-s", "-j", "link", "show", names[1]]))
        assert sent[0]["stats64"]["tx"]["bytes"] > 6 * 4 * 2 * 32 * 64 * 4  # at least its gradients
    print(f"trained over 5 ms and 50 Mb/s in {time.monotonic() - began:.1f} s")
    out, alone = tmp_path / "apart" / "out", tmp_path / "alone"
    plan, tokens = ["--plan.path", str(out / "plan.json")], ["--data.tokens", str(out / "tokens")]
    done = launched("-m", "danlu.cli", "train", str(path), "--out", str(alone), *plan, *tokens)
    assert done.returncode == 0, done.stderr
    first, second = (checkpoint.read(each / "checkpoints", 6) for each in (out, alone))
    assert first.shards == second.shards  # checksums of every tensor


def test_islands_beat_a_ring_over_a_slow_link(tmp_path):
    """1.5 times by the bytes that cross: the array once each way, where a ring of four sends one and a half arrays."""
    with two_hosts(delay_ms=1, mbit=100) as (names, addresses):
        ranks = [inside(names[rank // 2], sys.executable, "-c", RANK, str(rank), addresses[rank // 2], str(tmp_path),
                        stdout=subprocess.PIPE) for rank in range(4)]  # fmt: skip
        said = [rank.communicate(timeout=110)[0] for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks)
    took = load("comm/islands").seconds([json.loads(each) for each in said])
    assert min(ring_s / ours_s for ours_s, ring_s in took.values()) > 1.2, took


def test_a_plain_ddp_script_finds_the_other_host(tmp_path):
    """Two pods of one machine: one kernel, so one boot, but neither hears the other's Unix sockets."""
    comm = Path(__file__).parents[1] / "comm"
    words = (f"import sys; sys.path.insert(0, {str(comm)!r}); from ddp_plain import train; "
             "train(int(sys.argv[1]), 'danlu', sys.argv[2])")  # fmt: skip
    with two_hosts(delay_ms=1, mbit=100) as (names, addresses):
        met = {**os.environ, "MASTER_ADDR": addresses[0]}
        ranks = [inside(name, sys.executable, "-c", words, str(rank), str(tmp_path), env=met, stderr=subprocess.PIPE)
                 for rank, name in enumerate(names)]  # fmt: skip
        said = [rank.communicate(timeout=100)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], said
    ours = [torch.load(tmp_path / f"danlu-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(ours[0][1:], ours[1][1:], strict=True))


def main(rank: str, address: str, folder: str) -> None:
    """One rank of the comparison: says its address in the folder, waits for the others', and prints its seconds."""
    door = Door(address)
    draft = Path(folder) / f".{rank}"
    draft.write_text(door.address)
    draft.rename(Path(folder) / rank)
    until(lambda: all((Path(folder) / str(each)).exists() for each in range(4)))
    addresses = {each: (Path(folder) / str(each)).read_text() for each in range(4)}
    print(json.dumps(load("comm/islands").one_rank(int(rank), door, addresses, 3, link=None)))
