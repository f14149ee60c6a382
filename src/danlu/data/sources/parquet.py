"""Rows of a Parquet file; their text is the first of the columns TEXT that there is, or the only one of strings.

A column of bytes, or one with a dictionary, is as good as one of strings; what is no UTF-8 in it costs its row alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from danlu.data.sources import Item, Refused, Source
from danlu.data.sources.jsonl import TEXT

ROWS = 256  # held at a time


def items(source: Source) -> Iterator[Item | Refused]:
    """Each row, named SOURCE/NUMBER from 0."""
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(source.path) as file:
            schema = file.schema_arrow
            texts = {each.name: str(each.type) for each in schema if _is_text(arrow, each.type)}
            strings = [each for each, kind in texts.items() if each != "url" and "binary" not in kind]
            column = next((name for name in TEXT if name in texts), strings[0] if len(strings) == 1 else None)
            if column is None:
                known = ", ".join(f"{each.name} ({each.type})" for each in schema)
                yield Refused(source.key, "no_text", f"no column of strings is named {', '.join(TEXT)}: it has {known}")
                return
            number = 0
            for batch in file.iter_batches(ROWS, columns=[column, "url"] if "url" in texts else [column]):
                texts_of, urls = _bytes(arrow, batch, column), _bytes(arrow, batch, "url")
                for text, url in zip(texts_of, urls, strict=True):
                    key, number = f"{source.key}/{number}", number + 1
                    meta = {} if url is None else {"url": url.decode("utf-8", "replace")}
                    none = Refused(key, "no_text", "the row has none")
                    yield none if text is None else Item(key, BytesIO(text), meta)
    except (arrow.ArrowException, UnicodeDecodeError) as error:  # the latter: of a column's name
        raise EOFError(str(error)) from error


def _is_text(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def _bytes(arrow: Any, batch: Any, name: str) -> list[bytes | None]:
    """Values of a column as they are in the file, without a look at their encoding; None for each where it has none."""
    if name not in batch.schema.names:
        return [None] * batch.num_rows
    column = batch.column(batch.schema.names.index(name))
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    found: list[bytes | None] = column.cast(arrow.large_binary()).to_pylist()
    return found
