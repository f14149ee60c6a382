"""Run the tests of this checkout: all that need neither root nor Debian packages, or with --system those too.

They run in as many processes as there are cores, with --system one after the other: those share ports and clusters.
Words after the options go to pytest; -n 0 is one process.

example:
  ./danlu test
  ./danlu test -k pipeline
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """--system; the rest is pytest's."""
    parser.add_argument("--system", action="store_true", help="also the tests that need root or Debian packages")
    parser.set_defaults(passes_on=True)


def run(args: argparse.Namespace) -> int:
    """Run pytest in the checkout; its exit code is ours."""
    from danlu.errors import MissingPackage

    root = Path(__file__).parents[3]
    if not (root / "tests").is_dir():
        raise MissingPackage(
            "the tests are not here",
            why=f"{root} is no checkout of danlu: a wheel carries no tests",
            fix="git clone the repository, then ./danlu test",
        )
    if importlib.util.find_spec("pytest") is None:
        raise MissingPackage("the tests need pytest", why="it is not installed", fix="./danlu test installs it")
    argv = [sys.executable, "-m", "pytest", *args.overrides]
    if not args.system:
        argv[3:3] = spread(cores()) if importlib.util.find_spec("xdist") else []
        argv += ["-m", "not system"]
        print("not run: tests marked `system` (they need root or Debian packages): ./danlu test --system", flush=True)
    return subprocess.run(argv, cwd=root, check=False).returncode


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(cores: int) -> list[str]:
    """Words for pytest: a process a core, up to eight (each may hold a GB); who is done takes tests of the others."""
    return ["-n", str(min(cores, 8)), "--dist", "worksteal"] if cores > 1 else []
