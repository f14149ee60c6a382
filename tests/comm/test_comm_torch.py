"""The torch.distributed back end: a plain DDP script trains to the same bits as with gloo."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# What torchrun sets, in two forks of one process that has loaded torch: three would load it anew.
TWO_RANKS = """
import os, runpy, socket, sys, torch.distributed
torch.set_num_threads(1)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
children = []
for rank in "01":
    children.append(os.fork())
    if not children[-1]:
        os.environ["RANK"] = rank
        os.dup2(os.open(f"{sys.argv[1]}.{rank}", os.O_WRONLY | os.O_CREAT), 1)  # two prints into one pipe mix
        runpy.run_path(sys.argv[1], run_name="__main__")
        sys.exit()
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.procs
@pytest.mark.parametrize("script", ["ddp_plain", "fsdp_plain"])
def test_a_plain_script_trains_as_with_gloo(tmp_path, script):
    argv = [sys.executable, Path(__file__).with_name(f"{script}.py"), tmp_path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        ours, theirs = (torch.load(tmp_path / f"{backend}-{rank}.pt") for backend in ("danlu", "gloo"))
        assert len(ours) == len(theirs) > 6
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.procs
def test_the_script_of_the_documentation_runs_as_it_stands(tmp_path):
    script = documented(1, tmp_path / "script.py")
    done = subprocess.run([sys.executable, "-c", TWO_RANKS, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [Path(f"{script}.{rank}").read_text() for rank in (0, 1)]
    assert said == ["0 [0.0, 1.0, 1.0]\n", "1 [0.0, 1.0, 1.0]\n"]


@pytest.mark.procs
def test_the_script_without_torch_goes_on_when_a_rank_has_died(tmp_path):
    script = documented(2, tmp_path / "script.py")
    (tmp_path / "doors").mkdir()
    argv = [[sys.executable, script, str(rank), "3", tmp_path / "doors"] for rank in range(3)]
    ranks = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in argv]
    said = [rank.communicate(timeout=60)[0].splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, -signal.SIGKILL]
    for rank in (0, 1):
        assert said[rank][0] == f"rank {rank}, step 0: ranks (0, 1, 2) sum to 3"
        assert said[rank][1:] == [f"rank {rank}, step {step}: ranks (0, 1) sum to 1" for step in (1, 2)]


def documented(number: int, path: Path) -> Path:
    """The n-th script of the page on collectives, written to a file."""
    page = Path(__file__).parents[2] / "docs" / "collectives.md"
    path.write_text(page.read_text(encoding="utf-8").split("```python\n")[number].split("```")[0])
    return path
