"""Pages of a WARC file: what servers answered, unchunked and unpacked by the package warcio."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from danlu.data.sources import Item, Refused, Source, unpacked

KINDS = ("response", "resource", "conversion")


def items(source: Source) -> Iterator[Item | Refused]:
    """Each page, named SOURCE/NUMBER ADDRESS: one address may stand there many times."""
    archives = importlib.import_module("warcio.archiveiterator")
    broken = importlib.import_module("warcio.exceptions").ArchiveLoadFailed
    with unpacked(source) as stream:
        try:
            for number, record in enumerate(archives.ArchiveIterator(stream)):
                if record.rec_type in KINDS:
                    address = record.rec_headers.get_header("WARC-Target-URI") or ""
                    headers = record.http_headers or record.rec_headers
                    meta = {"url": address, "type": headers.get_header("Content-Type") or ""}
                    yield Item(f"{source.key}/{number:06d} {address}", record.content_stream(), meta)
        except broken as error:
            raise EOFError(str(error)) from error
