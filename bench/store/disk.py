"""A fresh ext4 for a bench's files, in an image: a disk that discards what is deleted takes longer to remove a million
files than everything measured here does, and an image is removed at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GIB = 1 << 30
SIZE = 16 * GIB  # sparse
# A million inodes and some. What mkfs would leave for later is done at once, since it is measured.
MAKE = ("mkfs.ext4", "-q", "-F", "-N", "1200000", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0")


@contextmanager
def fresh(home: Path) -> Iterator[tuple[Path, str]]:
    """A folder on a file system of its own, and what it is in words; `home` itself where this user may mount none."""
    image, folder = home / "disk.img", home / "disk"
    folder.mkdir()
    try:
        with image.open("wb") as file:
            os.truncate(file.fileno(), SIZE)
        _mount(image, folder)
    except (OSError, subprocess.CalledProcessError):
        image.unlink(missing_ok=True)
        yield folder, "the disk of this folder"
        return
    try:
        yield folder, f"a fresh ext4 of {SIZE // GIB} GiB in a file (loop device, direct)"
    finally:
        with suppress(OSError):
            subprocess.run(["umount", "--lazy", str(folder)], check=False)  # an end in between leaves files open
        image.unlink()


def _mount(image: Path, folder: Path) -> None:
    def run(*words: object) -> str:
        return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout.strip()

    run(*MAKE, image)
    loop = run("losetup", "--find", "--show", "--direct-io=on", image)
    try:
        run("mount", loop, folder)
    finally:
        run("losetup", "--detach", loop)  # takes effect when nothing is mounted from it
