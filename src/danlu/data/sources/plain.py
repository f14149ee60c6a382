"""A file that is one text, packed or not."""

from __future__ import annotations

from collections.abc import Iterator

from danlu.data.sources import Item, Refused, Source, unpacked


def items(source: Source) -> Iterator[Item | Refused]:
    """The file itself."""
    with unpacked(source) as stream:
        yield Item(source.key, stream)
