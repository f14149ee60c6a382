"""GGUF files, versions 2 and 3: typed metadata and named tensors in llama.cpp's own number formats.

Read by mapping, nothing is copied; written whole or not at all. The format is the one that ggml's documents define
(docs/formats.md, "GGUF"). The header is a stranger's word: every count, length and offset is held against the file's
size before anything is built from it. No torch here; danlu.ggml turns blocks into numbers.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from danlu import ggml
from danlu.errors import BadGguf

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGN = 32  # bytes, unless the metadata says otherwise
MOST_DIMS = 4
DEEPEST = 4  # arrays of arrays
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its number format ("F16", "Q4_K", ...), shape with the longest stride first, and bytes."""

    kind: str
    shape: tuple[int, ...]
    buffer: Any

    def floats(self, first: int = 0, stop: int | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Rows [first, stop) of the tensor seen as a matrix (rows, shape[-1]), as float32."""
        columns = self.shape[-1]
        width = ggml.row_bytes(self.kind, columns)
        stop = math.prod(self.shape[:-1]) if stop is None else stop
        return ggml.floats(self.kind, self.buffer[first * width : stop * width]).reshape(stop - first, columns)


@dataclass(frozen=True, slots=True)
class File:
    """A whole file: metadata by key, tensors by name, both in the file's order."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read(path: Path) -> File:
    """Metadata and tensors of one file. Raises BadGguf."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise _bad(path, "is too short for a header", f"it has {size} bytes, a header takes 24")
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise _bad(path, "cannot be read", error.strerror or str(error)) from error
    return loads(view, path)


def loads(view: memoryview, path: Path = Path("memory")) -> File:
    """The same of a file's bytes; `path` is only named in errors. Raises BadGguf."""
    walk = _Walk(view, path)
    if bytes(walk.take(4)) != MAGIC:
        raise _bad(path, "is no GGUF file", f"it begins with {bytes(view[:4])!r}, not with {MAGIC!r}")
    version = walk.scalar("<I")
    if version not in VERSIONS:
        swapped = ", written on a big-endian machine" if int(version).to_bytes(4, "little")[:2] == b"\0\0" else ""
        raise _bad(path, f"has version {version}{swapped}", f"this danlu reads {' and '.join(map(str, VERSIONS))}")
    tensors, pairs = walk.count(24, "tensors"), walk.count(12, "metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = walk.text()
        if key in metadata:
            raise _bad(path, "contradicts itself", f"the metadata has {key!r} twice")
        metadata[key] = walk.value(walk.scalar("<I"))
    described = [walk.description() for _ in range(tensors)]
    align = metadata.get("general.alignment", ALIGN)
    if not isinstance(align, int) or not 0 < align <= 1 << 20 or align % 8:
        raise _bad(path, f"has an alignment of {align!r}", "it must be a multiple of 8")
    return File(metadata, _tensors(path, view, described, -(-walk.at // align) * align, align))


Description = tuple[str, tuple[int, ...], int, int]  # name, shape, format's number, offset


def _tensors(
    path: Path, view: memoryview, described: Iterable[Description], start: int, align: int
) -> dict[str, Tensor]:
    """The tensors, every span checked: known format, whole blocks, inside the file, none over another."""
    found: dict[str, Tensor] = {}
    spans = []
    for name, shape, number, offset in described:
        if name in found:
            raise _bad(path, "contradicts itself", f"tensor {name!r} is there twice")
        kind = ggml.KINDS.get(number)
        if kind is None:
            known = ", ".join(ggml.KINDS.values())
            raise _bad(path, f"keeps {name} in number format {number}", f"this danlu reads {known}")
        if shape[-1] % ggml.BLOCKS[kind].weights:
            raise _bad(path, f"cuts a block of {name}", f"{shape[-1]} columns in blocks of {ggml.BLOCKS[kind].weights}")
        size = ggml.row_bytes(kind, shape[-1]) * math.prod(shape[:-1])
        if offset % align:
            raise _bad(path, f"places {name} askew", f"byte {offset:,} is no multiple of {align}")
        if start + offset + size > len(view):
            raise _bad(path, "is truncated", f"{name} ends at byte {start + offset + size:,} of {len(view):,}")
        spans.append((offset, offset + size, name))
        found[name] = Tensor(kind, shape, view[start + offset : start + offset + size])
    spans.sort()
    for (_, end, before), (begin, _, name) in zip(spans, spans[1:], strict=False):
        if begin < end:
            raise _bad(path, "contradicts itself", f"{name} begins at byte {begin:,}, {before} ends at {end:,}")
    return found


class _Walk:
    """A place in a file's bytes that never steps past their end."""

    def __init__(self, view: memoryview, path: Path) -> None:
        self.view, self.path, self.at = view, path, 0

    def take(self, size: int) -> memoryview:
        if size > len(self.view) - self.at:
            raise _bad(self.path, "is truncated", f"byte {self.at:,} promises {size:,} more, "
                                                  f"{len(self.view) - self.at:,} are left")  # fmt: skip
        self.at += size
        return self.view[self.at - size : self.at]

    def scalar(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, least: int, what: str) -> int:
        """A number of things that take at least `least` bytes each."""
        number = int(self.scalar("<Q"))
        if number * least > len(self.view) - self.at:
            raise _bad(self.path, "is truncated or no GGUF file",
                       f"it promises {number:,} {what}, {len(self.view) - self.at:,} bytes are left")  # fmt: skip
        return number

    def text(self) -> str:
        raw = bytes(self.take(self.scalar("<Q")))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise _bad(self.path, "has a name that is no UTF-8", f"{error}, at byte {self.at - len(raw):,}") from error

    def value(self, kind: int, depth: int = 0) -> Any:
        """A metadata value; arrays of numbers come as numpy arrays, of texts as lists."""
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY or depth == DEEPEST:
            raise _bad(self.path, f"has a value of kind {kind}", f"at byte {self.at:,}; kinds go from 0 to 12")
        inner = self.scalar("<I")
        if inner in SCALARS:
            dtype = np.dtype(SCALARS[inner])
            return np.frombuffer(self.take(self.count(dtype.itemsize, "numbers") * dtype.itemsize), dtype)
        return [self.value(inner, depth + 1) for _ in range(self.count(8, "values"))]

    def description(self) -> Description:
        """Name, shape, number format and offset of one tensor; the file gives the shortest stride first."""
        name, dims = self.text(), self.scalar("<I")
        if not 1 <= dims <= MOST_DIMS:
            raise _bad(self.path, f"says that {name} has {dims} axes", f"1 to {MOST_DIMS} are possible")
        shape = tuple(int(self.scalar("<Q")) for _ in range(dims))[::-1]
        if not all(0 < n < 1 << 40 for n in shape):
            raise _bad(self.path, f"says that {name} has the shape {list(shape)}", "every axis needs 1 or more")
        return name, shape, int(self.scalar("<I")), int(self.scalar("<Q"))


def _bad(path: Path, what: str, why: str) -> BadGguf:
    return BadGguf(f"{path.name} {what}", where=str(path), why=why,
                   fix=f"fetch {path.name} again, or in a format that danlu reads")  # fmt: skip


def header(metadata: Mapping[str, Any], layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, list[int]]:
    """The bytes before the data of a version 3 file, and where in the file every tensor begins.

    metadata  bool, int, float, str, or a list of one of these; an int becomes u32, or u64 or i64 where it must
    layout    format and shape of every tensor, in the order of the data
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(layout), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _valued(value)]
    at, offsets = 0, []
    for name, (kind, shape) in layout.items():
        number = next(number for number, each in ggml.KINDS.items() if each == kind)
        parts += [_text(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], number, at)]
        offsets.append(at)
        at += -(-ggml.row_bytes(kind, shape[-1]) * math.prod(shape[:-1]) // ALIGN) * ALIGN
    text = b"".join(parts)
    text += b"\0" * (-len(text) % ALIGN)
    return text, [len(text) + offset for offset in offsets]


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _valued(value: Any) -> bytes:
    """Kind and bytes of one metadata value."""
    if isinstance(value, list):
        kinds = {_kind(each) for each in value} or {TEXT}
        kind = max(kinds)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_raw(kind, each) for each in value)
    kind = _kind(value)
    return struct.pack("<I", kind) + _raw(kind, value)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, str):
        return TEXT
    if isinstance(value, float):
        return 6
    return 5 if -(1 << 31) <= value < 0 else 4 if 0 <= value < 1 << 32 else 10 if value >= 0 else 11


def _raw(kind: int, value: Any) -> bytes:
    return _text(value) if kind == TEXT else struct.pack(SCALARS[kind], value)
