"""The line of a YAML or JSON text that says a value, so that an error can name it."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a plan of 12,000 lines takes 0.14 s, else 3


def place(text: str, where: str, keys: Sequence[int | str]) -> str:
    """where:line of the deepest of `keys` that the text has, of its start if it has none; JSON is YAML enough."""
    node = yaml.compose(text, LOADER)
    return f"{where}:{_line(node, keys) or (node.start_mark.line + 1 if node else 1)}"


def line_of(text: str, keys: Sequence[int | str]) -> int | None:
    """Line of the deepest of `keys` that the text has, from 1; None if it has none."""
    return _line(yaml.compose(text, LOADER), keys)


def _line(node: yaml.Node | None, keys: Sequence[int | str]) -> int | None:
    line = None
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode) and (
            pair := next((p for p in node.value if p[0].value == str(key)), None)
        ):
            line, node = pair[0].start_mark.line + 1, pair[1]
        else:
            break
    return line
