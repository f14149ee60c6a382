"""The torch.distributed back end: a plain DDP script trains to the same bits as with gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.procs
def test_a_plain_ddp_script_trains_as_with_gloo(tmp_path):
    script = Path(__file__).with_name("ddp_plain.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        ours, theirs = (torch.load(tmp_path / f"{backend}-{rank}.pt") for backend in ("danlu", "gloo"))
        assert ours[0] == theirs[0]
        assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))
