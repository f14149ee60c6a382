"""Print the versions of danlu, Python and the libraries that matter, one a line.

example:
  danlu version
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

PACKAGES = ("torch", "numpy", "tokenizers", "pydantic", "fastapi")


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


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
    for name, version in versions().items():
        print(f"{name:<12} {version}")
    return 0
