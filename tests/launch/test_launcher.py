"""The launcher, in a folder of its own: it needs nothing but Python's standard library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """The files the launcher looks at before it installs anything."""
    for name in ("danlu", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    return tmp_path


def launch(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "UV_"))}
    return subprocess.run(
        [sys.executable, str(folder / "danlu"), *words],
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_install_that_cannot_go_on_says_why_and_leaves_no_mark(checkout):
    done = launch(checkout, "version", PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 3 and done.stderr.count("DL-ENV-002") == 1
    assert "try:" in done.stderr and "Traceback" not in done.stderr
    assert not (checkout / ".venv" / "danlu-installed").exists()


def test_what_is_downloaded_is_said_before_it_is(checkout):
    done = launch(checkout, "version", PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    said = done.stderr.split("DL-ENV-002")[0]
    assert "MB" in said and "torch" in said


def test_an_installed_checkout_starts_the_command_at_once(checkout):
    """With the mark in place the launcher only starts the venv's Python, with the words as they were given."""
    folder = checkout / ".venv" / "bin"
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    stamp = f"{sys.version_info[:2]}\n{checkout}\n{(checkout / 'pyproject.toml').read_text()}"
    (checkout / ".venv" / "danlu-installed").write_text("torch data report dev\n" + stamp)
    assert launch(checkout, "plan", "a b", "--json", "x").stdout == "-m danlu.cli plan a b --json x\n"
