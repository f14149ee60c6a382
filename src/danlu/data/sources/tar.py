"""Members of a tar file, packed or not, in the order they stand; links, devices and folders are not read.

Python's tarfile takes a damaged or missing header for the end of the archive; only two blocks of zeros are one.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from tarfile import HeaderError

from danlu.data.sources import Item, Refused, Source, Torn, unpacked

NOTHING = ("empty header", "truncated header")  # of the end of the file
END_MARK = "end of file header"  # what tarfile says of a block of zeros; typeshed has no name for that error's class


class Archive(tarfile.TarFile):
    """An archive that goes on behind its end mark, where another may follow; `ended`: one has ended, none has begun."""

    ended = False


class Member(tarfile.TarInfo):
    """A header. Raises Torn where there should be one and is none."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Member:
        """See TarInfo."""
        assert isinstance(tarfile, Archive)
        try:
            found = super().fromtarfile(tarfile)
            tarfile.ended = False
            return found
        except HeaderError as error:
            if str(error) == END_MARK:
                tarfile.ended = True
                raise
            if tarfile.ended and str(error) in NOTHING:
                raise
            raise Torn(f"{error} at byte {tarfile.offset}, where a member or the end mark should be") from error
        except (ValueError, OverflowError) as error:  # a number of an extended header that is none
            raise Torn(f"{error} at byte {tarfile.offset}") from error


def items(source: Source) -> Iterator[Item | Refused]:
    """Each regular file, named SOURCE/MEMBER; a second of one name has its number after a tilde."""
    seen: set[str] = set()
    with (
        unpacked(source) as stream,
        Archive.open(fileobj=stream, mode="r|", errorlevel=1, tarinfo=Member, ignore_zeros=True) as archive,
    ):
        for number, member in enumerate(archive):
            opened = archive.extractfile(member) if member.isreg() else None
            if opened is None:
                continue
            name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            key = f"{source.key}/{name}" + (f"~{number}" if name in seen else "")
            seen.add(name)
            yield Item(key, opened)  # type: ignore[arg-type]  # an ExFileObject reads as a BinaryIO does
            archive.members.clear()  # type: ignore[attr-defined]  # else a tar of a million files is a million objects
