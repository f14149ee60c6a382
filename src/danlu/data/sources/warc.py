"""Pages of a WARC file: what servers answered, unchunked and unpacked by the package warcio.

warcio takes the end of a file for the end of its records; here each record is held against the length it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import Any, BinaryIO

from danlu.data.sources import MAX_EXPANSION, SPARE, Bounded, Item, Refused, Source, Torn, unpacked

KINDS = ("response", "resource", "conversion")
PIECE = 64 << 10  # bytes of a record that nobody asked for, read at once


class Page(Bounded):
    """The content of a record. Raises Torn where the archive ends before the record does, Bomb, and as Bounded does."""

    def __init__(self, record: Any) -> None:
        super().__init__(record.content_stream(), record.length * MAX_EXPANSION + SPARE)
        self._record = record

    def readinto(self, into: Any) -> int:
        """See RawIOBase."""
        count = super().readinto(into)
        if not count:
            _whole(self._record)
        return count


def items(source: Source) -> Iterator[Item | Refused]:
    """Each page, named SOURCE/NUMBER ADDRESS: one address may stand there many times."""
    iterator = importlib.import_module("warcio.archiveiterator").ArchiveIterator
    broken = importlib.import_module("warcio.exceptions").ArchiveLoadFailed
    with unpacked(source) as stream:
        archive = iterator(stream, no_record_parse=True)
        archive.INC_RECORD = ""  # its words on standard error; `errors` says the same
        errors = 0
        try:
            for number, record in enumerate(archive):
                if archive.err_count > errors:
                    errors = archive.err_count
                    yield Refused(source.key, "archive", f"record {number - 1} has another length than it names")
                if record.length is None:
                    raise Torn(f"record {number} names no length")
                if record.rec_type in KINDS:
                    yield _item(f"{source.key}/{number:06d}", record, archive.loader)
                else:
                    _whole(record)
        except broken as error:
            raise EOFError(str(error)) from error


def _item(key: str, record: Any, loader: Any) -> Item | Refused:
    address = record.rec_headers.get_header("WARC-Target-URI") or ""
    key = f"{key} {address}"
    try:
        record.http_headers = loader.load_http_headers(record.rec_type, address, record.raw_stream, record.length)
    except EOFError:
        return Refused(key, "archive", "the archive ends before the head of this page")
    return Item(key, _buffered(Page(record)), _meta(address, record.http_headers or record.rec_headers))


def _meta(address: str, headers: Any) -> Mapping[str, Any]:
    return {"url": address, "type": headers.get_header("Content-Type") or ""}


def _buffered(page: Page) -> BinaryIO:
    return BufferedReader(page, PIECE)


def _whole(record: Any) -> None:
    """Read what is left of a record. Raises Torn if that is less than its length says."""
    while record.raw_stream.read(PIECE):
        pass
    if record.raw_stream.limit > 0:
        raise Torn(f"a record ends {record.raw_stream.limit} bytes early")
