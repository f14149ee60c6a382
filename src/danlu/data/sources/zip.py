"""Members of a zip file. Each and all together may unpack to a bounded size: zip bombs overlap, nest or lie."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BufferedReader
from stat import S_ISLNK

from danlu.data.sources import MAX_EXPANSION, SPARE, Bounded, Item, Refused, Source


def items(source: Source) -> Iterator[Item | Refused]:
    """Each file, named SOURCE/MEMBER, and no link; an archive within is one binary member, not opened."""
    left, seen = source.size * MAX_EXPANSION + SPARE, set[str]()
    with _opened(source.path) as archive:
        for number, member in enumerate(archive.infolist()):
            if member.is_dir() or S_ISLNK(member.external_attr >> 16):
                continue
            key = f"{source.key}/{member.filename}" + (f"~{number}" if member.filename in seen else "")
            seen.add(member.filename)
            if member.flag_bits & 1:
                yield Refused(key, "unreadable", "it is encrypted")
                continue
            most = min(left, member.compress_size * MAX_EXPANSION + SPARE)
            if member.file_size > most:  # one that says so costs the members after it nothing
                yield Refused(key, "cut", f"{member.compress_size} bytes would unpack to {member.file_size}")
                continue
            try:
                opened = archive.open(member)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                yield Refused(key, "archive", f"the member is damaged or of an unknown kind: {error}")
                continue
            with opened:
                bounded = Bounded(opened, most)  # type: ignore[arg-type]
                yield Item(key, BufferedReader(bounded))
                left = max(0, left - bounded.done)


def _opened(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except NotImplementedError as error:  # a member of a version that there is not
        raise zipfile.BadZipFile(str(error)) from error
