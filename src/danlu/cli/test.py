"""Run the tests of this checkout: all that need neither root nor Debian packages, or with --system those too.

Words after the options go to pytest.

example:
  ./danlu test
  ./danlu test -k pipeline
"""

from __future__ import annotations

import argparse
import importlib.util
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
        argv += ["-m", "not system"]
        print("not run: tests marked `system` (they need root or Debian packages): ./danlu test --system", flush=True)
    return subprocess.run(argv, cwd=root, check=False).returncode
