"""One JSON object a line; its text is the first of the members TEXT that is a string."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO

from danlu.data.sources import Item, Refused, Source, unpacked

TEXT = ("text", "content", "raw_content")
LONGEST = 64 << 20  # bytes of a line; a longer one is refused without being held


def items(source: Source) -> Iterator[Item | Refused]:
    """Each line, named SOURCE/NUMBER from 0."""
    with unpacked(source) as stream:
        number = 0
        while line := stream.readline(LONGEST):
            key, number = f"{source.key}/{number}", number + 1
            if len(line) == LONGEST and not line.endswith(b"\n"):
                while (more := stream.readline(LONGEST)) and not more.endswith(b"\n"):
                    pass
                yield Refused(key, "too_long", f"the line has over {LONGEST} bytes")
            elif line.strip():
                yield _item(key, line)


def _item(key: str, line: bytes) -> Item | Refused:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Refused(key, "no_json", f"the line is no JSON: {error}")
    text = next((row[name] for name in TEXT if isinstance(row.get(name), str)), None) if isinstance(row, dict) else None
    if text is None:
        return Refused(key, "no_text", f"the object has no text in any of: {', '.join(TEXT)}")
    meta = {"url": row["url"]} if isinstance(row.get("url"), str) else {}
    return Item(key, BytesIO(text.encode("utf-8", "replace")), meta)
