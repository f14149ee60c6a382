"""Disks that go while a run trains: a full one, and one that turns read-only under its snapshots."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clusters import until
from test_cli_train import FLAGS
from train_world import fleet

from danlu.fleet import text
from danlu.store import checkpoint
from danlu.train import owner

pytestmark = pytest.mark.system


@contextmanager
def mounted(place: Path, mib: int) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo ./danlu test --system")
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def words(home: Path, *more: str) -> list[str]:
    text.dump(fleet(0.25, 0.25, 0.25), home / "fleet.yaml")
    (home / "text").mkdir()
    for path in Path(owner.__file__).parent.glob("*.py"):
        (home / "text" / path.name).write_text(path.read_text())
    return [sys.executable, "-m", "danlu.cli", "train", *FLAGS, "--data.text", f"[{home / 'text'}]", "--fleet.path",
            str(home / "fleet.yaml"), "--train.steps", "100000", "--out", str(home / "run"), *more]  # fmt: skip


def processes_of(run: Path) -> bool:
    """Whether any process was started for a run."""
    commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    return any(str(run).encode() in each for each in commands)


def test_a_disk_that_fills_up_ends_a_run_with_its_own_error_and_no_half_file(tmp_path):
    with mounted(tmp_path / "run" / "checkpoints", 1) as place:
        done = subprocess.run(words(tmp_path, "--model.hidden", "64", "--model.layers", "4"), capture_output=True,
                              text=True, check=False, timeout=100)  # fmt: skip
        assert done.returncode == 4 and "DL-MEM-002" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "rank" in done.stderr and "on host local" in done.stderr
        assert not list(place.rglob(".*.part")) and not processes_of(tmp_path / "run")


def test_a_disk_that_turns_read_only_ends_a_run_and_its_snapshots_stay(tmp_path):
    with mounted(tmp_path / "run" / "checkpoints", 64) as place:
        with subprocess.Popen(words(tmp_path), stderr=subprocess.PIPE, text=True) as process:
            until(lambda: len(checkpoint.steps(place)) == 2)
            command = ["mount", "-o", "remount,ro", str(place)]
            until(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0)
            said = process.communicate(timeout=100)[1]
        assert process.returncode == 3 and "DL-ENV-003" in said and "Read-only" in said and "Traceback" not in said, (
            said
        )
        assert checkpoint.latest(place) is not None and not processes_of(tmp_path / "run")
