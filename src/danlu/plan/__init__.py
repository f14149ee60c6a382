"""Pure planning: what a split costs in time and memory, in which order it runs, and which split is best.

Here: one pipeline over cards that have names, as `danlu train` runs it. In `ranks`: stages, sequences and experts that
several cards share. In `groups`: fleets too large to name their cards. In `proof`: how far such a plan can be from the
best. In `stated`: runs of any framework, as publications and logs state them.

As a library: `plan.search(...)` and `plan.simulate(...)`, which library.py describes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.plan.library import search, simulate

__all__ = ["search", "simulate"]


def __getattr__(name: str) -> Any:
    """The two functions when they are asked for: whoever imports one part of the room does not load all of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from danlu.plan import library

    return getattr(library, name)
