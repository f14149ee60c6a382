"""From an exception that no room foresaw to an entry of the catalogue: the machine's or ours."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import re
import select
import sys
import tempfile
import traceback
from collections.abc import Sequence

from danlu.errors import BadPath, Bug, DanluError, DiskFull, DoesNotFit, MissingPackage

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EIO, errno.EFBIG,
}  # fmt: skip


def reader_left(error: Exception) -> bool:
    """True when the reader of our output has gone, as in `danlu ... | head`; what is left goes to /dev/null then."""
    if not isinstance(error, BrokenPipeError):
        return False
    watch = select.poll()
    for handle in (1, 2):
        watch.register(handle, 0)
    gone = [handle for handle, state in watch.poll(0) if state & select.POLLERR]
    for handle in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
    return bool(gone)


def entry_of(error: Exception, words: Sequence[str]) -> DanluError:
    """The entry of the catalogue that `error` is; a fault of ours leaves its traceback in a file and names it.

    words  the command line, kept beside the traceback
    """
    if isinstance(error, OSError) and error.errno in FULL:
        _drop_output()
        return DiskFull("no room to write", where=_path(error), why=str(error),
                        fix="df -h; free some space, then run the same command again")  # fmt: skip
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return BadPath("too many files are open", where=_path(error), why=error.strerror or str(error),
                       fix="ulimit -n 65536, then run it again; danlu store merge makes few packs of many")  # fmt: skip
    if isinstance(error, OSError) and error.errno in REFUSED and _path(error):
        return BadPath(f"cannot use {_path(error)}", why=error.strerror or str(error),
                       fix=f"ls -ld {_path(error)}; check the path, its owner and its mode")  # fmt: skip
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "danlu":
        name = error.name.partition(".")[0]
        return MissingPackage(f"the package {name} is not installed", why=str(error), fix=_install(name))
    if isinstance(error, MemoryError):
        return DoesNotFit(
            "this host's memory ran out",
            why=str(error) or "an allocation was refused",
            fix="danlu doctor shows what is free; close other programs or choose a smaller model",
        )
    return _bug(error, words)


def _bug(error: Exception, words: Sequence[str]) -> Bug:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}danlu{os.sep}" in f.filename]
    where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    text = f"danlu {' '.join(words)}\nPython {sys.version}\n\n" + "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="danlu-bug-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        fix = f"report it, with {path}: it holds the traceback"
    except OSError as why:  # nothing may be lost: then the terminal has it
        print(text, file=sys.stderr)
        fix = f"report it, with the traceback above ({why})"
    return Bug("danlu met a fault of its own", where=where, why=f"{type(error).__name__}: {error}", fix=fix)


def _path(error: OSError) -> str:
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


def _install(name: str) -> str:
    """The command that installs the extra which brings a package."""
    try:
        needs = importlib.metadata.requires("danlu") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout's src without an install
        needs = []
    for line in needs:
        extra = re.search(r"extra == [\"'](\w+)[\"']", line)
        if extra and re.match(rf"{re.escape(name)}\b", line):
            return f"pip install 'danlu[{extra[1]}]'"
    return f"pip install {name}"


def _drop_output() -> None:
    """When standard output itself is what is full, nothing more is tried to be written to it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
