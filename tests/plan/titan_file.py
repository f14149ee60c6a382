"""What a torchtitan configuration that was emitted sets, read without torchtitan."""

from __future__ import annotations

import ast
from typing import Any


def settings(text: str) -> dict[str, Any]:
    """By name behind `config.`, the value that the file's function sets; the source where it is no literal."""
    tree = ast.parse(text)
    (plan,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    imported = {each.name for node in tree.body if isinstance(node, ast.ImportFrom) for each in node.names}
    called = {node.id for node in ast.walk(plan) if isinstance(node, ast.Name)} - {"config"}
    assert called <= imported, called - imported
    found = {}
    for node in plan.body[1:-1]:
        assert isinstance(node, ast.Assign)
        name, value = ast.unparse(node.targets[0]).removeprefix("config."), ast.unparse(node.value)
        try:
            found[name] = ast.literal_eval(value)
        except ValueError:
            found[name] = value
    return found
