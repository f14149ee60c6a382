"""Print the versions of danlu, Python and the libraries that matter, one a line.

example:
  danlu version
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from pathlib import Path

PACKAGES = ("torch", "numpy", "tokenizers", "pydantic", "fastapi")


def arguments(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write them as one flat JSON object")


def versions() -> dict[str, str]:
    """Name -> version; "not installed" where a package is missing."""
    from danlu import __version__

    found = {"danlu": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def run(args: argparse.Namespace) -> int:
    """Print one `name version` line each."""
    from danlu.cli.output import write_json

    found = versions()
    for name, version in found.items():
        print(f"{name:<12} {version}")
    write_json(args.json, found)
    return 0
