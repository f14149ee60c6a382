"""What a token file says of itself (docs/formats.md), and whether it still holds what was written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.stream import BLOCK, FIX, damaged
from danlu.errors import DamagedTokens, NewerFormat

VERSION = 3
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "held")
PIECE = 16 * BLOCK  # bytes read at a time


def sealed(values: dict[str, Any]) -> bytes:
    """The manifest's bytes: `values` and a checksum of them."""
    plain = json.loads(json.dumps(values))
    return json.dumps({"tokens": VERSION, "crc32": _checksum(plain), **plain}, indent=1).encode()


def manifest_of(folder: Path) -> dict[str, Any]:
    """What a token file says of itself. Raises DamagedTokens if it is missing, changed or incomplete, NewerFormat."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["tokens"] > VERSION:
            raise NewerFormat(
                f"{folder} is a token file of version {manifest['tokens']}",
                where=str(path),
                why=f"this danlu reads version {VERSION}",
                fix="update danlu: git pull",
            )
        written = manifest.pop("crc32", None)
        if (written is not None or manifest["tokens"] == VERSION) and written != _checksum(manifest):
            raise damaged(path, f"{MANIFEST} is damaged", "it has another checksum than when it was written")
        for split in manifest["splits"].values():
            _sizes(folder, split, np.dtype(manifest["dtype"]).itemsize)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedTokens("there is no whole token file", where=str(folder), why=str(error), fix=FIX) from error
    return manifest


def verify(folder: Path) -> list[str]:
    """What is damaged, one line each; empty for a whole token file. Reads everything. Raises as `manifest_of` does."""
    manifest = manifest_of(folder)
    found = []
    if TOKENIZER in manifest and digest_of(folder / TOKENIZER) != manifest[TOKENIZER]:
        found.append(f"{TOKENIZER}: it has another digest than when it was written")
    for split in manifest["splits"].values():
        for what in ("", "ends", "crc"):
            name = split.get(what or "file")
            if name is not None and digest_of(folder / name) != split[f"{what}_blake2b" if what else "blake2b"]:
                found.append(f"{name}: it has another digest than when it was written")
        if "crc" in split:
            found += _blocks(folder / split["file"], np.fromfile(folder / split["crc"], "<u4"))
    return found


def digest_of(path: Path) -> str:
    """Of a file's bytes, which need not fit in memory."""
    digest = blake2b(digest_size=16)
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def small(path: Path, written: str) -> bytes:
    """A file that fits in memory, as it was written. Raises DamagedTokens."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise damaged(path, f"{path.name} cannot be read", error.strerror or str(error)) from error
    if (digest := blake2b(data, digest_size=16).hexdigest()) != written:
        raise damaged(path, f"{path.name} is damaged", f"its digest is {digest}, {written} was written")
    return data


class Sums:
    """CRC-32 of every BLOCK bytes of what is given, piece after piece."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._last, self._filled = 0, 0

    def add(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        at, view = 0, memoryview(data)
        while at < len(data):
            part = view[at : at + BLOCK - self._filled]
            self._last, self._filled, at = zlib.crc32(part, self._last), self._filled + len(part), at + len(part)
            if self._filled == BLOCK:
                self._done.append(self._last)
                self._last = self._filled = 0

    def array(self) -> npt.NDArray[np.uint32]:
        """Of all blocks so far; the last may be short."""
        return np.array([*self._done, *([self._last] if self._filled else [])], "<u4")


def _checksum(values: dict[str, Any]) -> int:
    """Of all fields but `tokens` and `crc32`."""
    rest = {name: value for name, value in values.items() if name != "tokens"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _sizes(folder: Path, split: dict[str, Any], width: int) -> None:
    blocks = -(-split["tokens"] * width // BLOCK)
    wanted = {split["file"]: (split["tokens"] * width, f"{split['tokens']} tokens")}
    if "ends" in split:
        wanted[split["ends"]] = split["documents"] * 8, f"the ends of {split['documents']} documents"
    if "crc" in split:
        wanted[split["crc"]] = blocks * 4, f"checksums of {blocks} blocks"
    for name, (size, what) in wanted.items():
        if (own := (folder / name).stat().st_size) != size:
            raise DamagedTokens(f"{name} has the wrong size", where=str(folder), fix=FIX,
                                why=f"it has {own} bytes, {what} need {size}")  # fmt: skip


def _blocks(path: Path, written: npt.NDArray[np.uint32]) -> Iterator[str]:
    number = 0
    for piece in _pieces(path):
        for start in range(0, len(piece), BLOCK):
            if zlib.crc32(piece[start : start + BLOCK]) != written[number]:
                yield f"{path.name}: bytes {number * BLOCK} to {number * BLOCK + len(piece[start : start + BLOCK])}"
            number += 1


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
