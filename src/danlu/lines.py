"""The line of a YAML or JSON text that says a value, so that an error can name it."""

from __future__ import annotations

from collections.abc import Sequence

import yaml


def place(text: str, where: str, keys: Sequence[int | str]) -> str:
    """where:line of the deepest of `keys` that the text has; JSON is YAML enough."""
    node = yaml.compose(text)
    line = node.start_mark.line if node else 0
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
        elif isinstance(node, yaml.MappingNode) and (
            pair := next((p for p in node.value if p[0].value == str(key)), None)
        ):
            line, node = pair[0].start_mark.line, pair[1]
            continue
        else:
            break
        line = node.start_mark.line
    return f"{where}:{line + 1}"
