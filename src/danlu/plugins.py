"""Plug-ins are found by file name: adding `vendors/foo.py` adds the vendor "foo". Nothing registers itself."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from danlu.errors import UnknownPlugin


def names(package: str) -> tuple[str, ...]:
    """Names of the plug-ins in a package, sorted; nothing but the package itself is imported."""
    home = importlib.import_module(package)
    return tuple(sorted(found.name for found in pkgutil.iter_modules(home.__path__) if not found.name.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """Import plug-in `name` of `package`, for example load("danlu.families", "qwen3").

    Raises UnknownPlugin, naming the nearest ones, when no file has that name.
    """
    known = names(package)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3) or known
        kind = package.rsplit(".", 1)[-1]
        raise UnknownPlugin(
            f"{kind} has no {name!r}",
            why=f"it has: {', '.join(known)}",
            fix=f"use {' or '.join(near)}, or add {package.replace('.', '/')}/{name}.py",
        )
    return importlib.import_module(f"{package}.{name}")
