"""Rows of a Parquet file; their text is the first of the columns TEXT that there is, or the only one of strings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from io import BytesIO

from danlu.data.sources import Item, Refused, Source
from danlu.data.sources.jsonl import TEXT

ROWS = 256  # held at a time


def items(source: Source) -> Iterator[Item | Refused]:
    """Each row, named SOURCE/NUMBER from 0."""
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(source.path) as file:
            schema = file.schema_arrow
            texts = [each.name for each in schema if str(each.type) in ("string", "large_string", "string_view")]
            column = next((name for name in TEXT if name in texts), texts[0] if len(texts) == 1 else None)
            if column is None:
                yield Refused(source.key, "no_text", f"no column of strings is named {', '.join(TEXT)}: {schema.names}")
                return
            number = 0
            for batch in file.iter_batches(ROWS, columns=[column]):
                for text in batch.column(0).to_pylist():
                    if text is not None:
                        yield Item(f"{source.key}/{number}", BytesIO(text.encode("utf-8", "replace")))
                    number += 1
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise EOFError(str(error)) from error
