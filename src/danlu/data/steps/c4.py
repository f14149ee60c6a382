"""Lines that are no sentences go, then pages of fewer than five sentences, by the rules of C4 (see rules.py)."""

from typing import Any

from danlu.data.document import Step
from danlu.data.rules import c4_options, step_of

step = step_of("c4")


def configured(options: Any) -> Step:
    """`c4: {ended_lines: false}`: as FineWeb uses it, lines need no end. Raises BadValue."""
    return step_of("c4", c4_options(options))
