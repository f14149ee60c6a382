"""The torch.distributed back end: a plain DDP script trains to the same bits as with gloo."""

from __future__ import annotations

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
    page = Path(__file__).parents[2] / "docs" / "collectives.md"
    script = tmp_path / "script.py"
    script.write_text(page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0])
    done = subprocess.run([sys.executable, "-c", TWO_RANKS, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.splitlines()) == ["0 [0.0, 1.0, 1.0]", "1 [0.0, 1.0, 1.0]"]
