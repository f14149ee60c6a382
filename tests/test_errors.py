"""The error catalogue: every entry has its own code, a family's exit code, and a test that provokes it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import danlu
from danlu import errors

FAMILIES = {"BadConfig": 2, "BadEnvironment": 3, "NoRoom": 4, "BadData": 5, "Broken": 70}


def entries() -> list[type[errors.DanluError]]:
    """Every leaf class of the catalogue; families themselves are never raised."""
    found: list[type[errors.DanluError]] = []
    todo = list(errors.DanluError.__subclasses__())
    while todo:
        each = todo.pop()
        todo += each.__subclasses__()
        if each.__name__ not in FAMILIES:
            found.append(each)
    return found


def provoked() -> set[str]:
    """Codes named in a `provoke("DL-...")` call of any test."""
    codes: set[str] = set()
    for path in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "provoke":
                codes |= {
                    arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                }
    return codes


def test_the_whole_catalogue_is_in_one_file():
    for found in pkgutil.walk_packages(danlu.__path__, "danlu."):
        if found.name.endswith("__main__"):
            continue
        importlib.import_module(found.name)
    assert {each.__module__ for each in entries()} == {"danlu.errors"}


def test_codes_are_unique_and_exit_codes_are_the_families():
    codes, names = [each.code for each in entries()], [each.__name__ for each in entries()]
    assert len(codes) == len(set(codes)) and len(names) == len(set(names))
    for each in entries():
        family = next(base for base in each.__mro__ if base.__name__ in FAMILIES)
        assert each.exit_code == FAMILIES[family.__name__], each


def test_every_entry_is_provoked_by_a_test():
    known = provoked()
    missing = {each.code: each.__name__ for each in entries() if each.code not in known}
    assert not missing, f"no test provokes {missing}"
