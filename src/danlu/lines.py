"""A YAML text read so that an error can name its line.

PyYAML's parser in Python reads what a person wrote: the one in C ends the process on a deep text where this one raises.
The one in C finds the lines of a text that was read (a plan of 12,000 lines in 0.14 s, not 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYaml(ValueError):
    """Why a text is not YAML, and on which line from 1 if that is known."""

    def __init__(self, why: str, line: int | None) -> None:
        super().__init__(why)
        self.line = line

    def at(self, where: str) -> str:
        """where:line"""
        return f"{where}:{self.line}" if self.line else where


class _Loader(yaml.SafeLoader):
    """YAML in which no key of a mapping stands twice: the one that loses would be lost in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises ConstructorError for a second key of the same name, and for a list or mapping as a key."""
        seen: set[str] = set()
        for name, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(name.value, str):
                raise yaml.constructor.ConstructorError(None, None, "a key is one word, not a list", name.start_mark)
            if name.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name.value!r} stands twice", name.start_mark)
            seen.add(name.value)
        return super().construct_mapping(node, deep)


def read(text: str) -> Any:
    """The tree of a YAML text. Raises NotYaml."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-99-99
        mark = getattr(error, "problem_mark", None)
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        raise NotYaml(why, mark.line + 1 if mark else None) from error


def place(text: str, where: str, keys: Sequence[int | str]) -> str:
    """where:line of the deepest of `keys` that the text has, of its start if it has none.

    text  YAML that `read` took, or JSON that json.loads took: it is no deeper than a stack
    """
    node = _composed(text)
    return f"{where}:{_line(node, keys) or (node.start_mark.line + 1 if node else 1)}"


def line_of(text: str, keys: Sequence[int | str]) -> int | None:
    """Line of the deepest of `keys` that such a text has, from 1; None if it has none."""
    return _line(_composed(text), keys)


def _composed(text: str) -> yaml.Node | None:
    for loader in (FAST, yaml.SafeLoader):  # the fast one refuses `{b:}`
        try:
            return yaml.compose(text, loader)
        except (yaml.YAMLError, RecursionError):  # a JSON text may hold what YAML has not: half a surrogate pair
            continue
    return None


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
