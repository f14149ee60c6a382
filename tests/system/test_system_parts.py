"""Parts of the text cleaned by a Slurm array and by Ray are those of one process, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import ray_cluster, slurm_cluster
from provoke import provoke
from test_parts import fill, raw, seen

from danlu.cli import spread
from danlu.data import parts
from danlu.data.prep import Prepared, prep

pytestmark = pytest.mark.system
STEPS = ["normalise", "length", "gopher_repetition", "exact", "near"]
# The command itself, with parts so small that a test's text has many.
COMMAND = """import sys
from danlu.cli import app
from danlu.data import parts
parts.PART_BYTES = 9000
sys.exit(app.main())
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("home") / "text")


def told(text: Path, out: Path, *words: str, steps: str = str(STEPS), **environment: str):
    argv = ["prep", "--out", str(out), "--data.text", str(text), "--data.vocab", "400", "--data.seq", "32",
            "--data.steps", steps, "--data.workers", "2", *words]  # fmt: skip
    return subprocess.run([sys.executable, "-c", COMMAND, *argv], env={**os.environ, **environment}, check=False,
                          capture_output=True, text=True, timeout=100)  # fmt: skip


def whole(text: Path, out: Path) -> Prepared:
    """By one process; of tokens that lie there already, only what they say."""
    return prep([text], out, vocab=400, limit_bytes=64_000_000, steps=STEPS)


def same(text: Path, out: Path, alone: Path) -> None:
    (job,) = (out / "store" / "parts").iterdir()
    assert parts.left(job) == [] and len(list(job.glob("*/store/manifest.json"))) > 3
    assert seen(whole(text, out), out) == seen(whole(text, alone), alone)


def fails(text: Path, out: Path, execute: parts.Run) -> None:
    """Parts of a step that only those who make them find impossible: the command would refuse it before."""
    out.mkdir()
    raw(text, out, 10**8, False)
    record = {"source": "test", "steps": [{"language": ["klingon"]}], "compares": []}
    parts.run(parts.prepare(out / "jobs", "clean", out / "raw", record), execute, lambda words, share: None)


def test_a_slurm_array_cleans_as_one_process_does(text, tmp_path, monkeypatch):
    with slurm_cluster(tmp_path) as conf:
        done = told(text, tmp_path / "out", "--on", "slurm", SLURM_CONF=conf)
        assert done.returncode == 0, done.stderr
        assert len(list(tmp_path.glob("out/store/parts/*/slurm-*.log"))) == 2
        same(text, tmp_path / "out", tmp_path / "alone")
        monkeypatch.setenv("SLURM_CONF", str(conf))
        with provoke("DL-RUN-014") as caught:
            fails(text, tmp_path / "bad", spread.slurm(2))
        assert "FAILED" in caught.error.why


def test_ray_cleans_as_one_process_does(text, tmp_path):
    with ray_cluster() as address:
        done = told(text, tmp_path / "out", "--on", "ray", "--address", address)
        assert done.returncode == 0, done.stderr
        same(text, tmp_path / "out", tmp_path / "alone")
        with provoke("DL-RUN-014") as caught:
            fails(text, tmp_path / "bad", spread.ray(2, address))
        assert "Ray task" in caught.error.why
