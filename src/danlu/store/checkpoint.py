"""Snapshots of a training run: one shard file per rank, and a manifest that is written last.

A snapshot exists once its manifest does; a killed writer leaves at most a folder without one. Tensors are found by
their global name in whichever shard holds them, so a run resumes on another number of cards.
The layout is `checkpoint` in docs/formats.md. Numpy has no bf16: a uint16 array goes in and comes out as its raw bits.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from danlu import atomic
from danlu.errors import DamagedSnapshot, NewerFormat, NoSuchTensor
from danlu.events import fallback

VERSION = 2  # 1 had no parts of tensors
KEEP = 2  # committed snapshots that stay; the one before the newest is there in case the newest is damaged
MANIFEST = "manifest.json"
_TAGS = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64", "int32": "I32",
         "int8": "I8", "uint8": "U8", "bool": "BOOL"}  # fmt: skip
_DTYPES = {tag: name for name, tag in _TAGS.items()}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: `offset` and `size` in bytes of the shard file, and the CRC-32 of those bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's file of a snapshot; plain JSON through `asdict` and `shard_of`, so that it can cross a socket."""

    file: str
    size: int
    tensors: Mapping[str, Entry]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A committed snapshot; `meta` is what the run keeps beside its tensors (loader state, seed, ...)."""

    step: int
    meta: Mapping[str, Any]
    shards: tuple[Shard, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors, whole or in parts."""
        return frozenset(part_of(name).name for shard in self.shards for name in shard.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors; parts are as long together as they reach."""
        found: dict[str, tuple[int, ...]] = {}
        for shard in self.shards:
            for name, entry in shard.tensors.items():
                part, shape = part_of(name), list(entry.shape)
                if part.axis is not None:
                    shape[part.axis] = max(part.stop, found.get(part.name, entry.shape)[part.axis])
                found[part.name] = tuple(shape)
        return found


class Part(NamedTuple):
    """What an entry's name says: "NAME" is a tensor, "NAME@axis:start:stop" a part of one, a mark (".m") follows.

    axis  None for a whole tensor
    """

    name: str
    axis: int | None = None
    start: int = 0
    stop: int = 0


def part_of(name: str) -> Part:
    """The parts of an entry's name. A name that only looks like a part's is its own."""
    base, at, rest = name.partition("@")
    place, dot, mark = rest.partition(".")
    numbers = place.split(":")
    if not at or len(numbers) != 3 or not all(each.isdecimal() for each in numbers):
        return Part(name)
    axis, start, stop = map(int, numbers)
    return Part(base + dot + mark, axis, start, stop)


def shard_of(record: Mapping[str, Any]) -> Shard:
    """The Shard that `asdict` turned into JSON."""
    tensors = {name: Entry(**{**entry, "shape": tuple(entry["shape"])}) for name, entry in record["tensors"].items()}
    return Shard(record["file"], record["size"], tensors, record["meta"])


def folder_of(folder: Path, step: int) -> Path:
    """Where the snapshot of a step lies."""
    return folder / f"step-{step:09d}"


def save_shard(folder: Path, step: int, rank: int, tensors: Mapping[str, Array],
               meta: Mapping[str, Any] | None = None) -> Shard:  # fmt: skip
    """Write one rank's tensors; durable on return, but a snapshot only after `commit` of all shards.

    tensors  by global parameter name; "<name>.m" and "<name>.v" are the optimizer's
    Returns what `commit` needs to know. Raises DiskFull, leaving earlier snapshots as they are.
    """
    place = folder_of(folder, step)
    (place / MANIFEST).unlink(missing_ok=True)  # an older snapshot of this step ends where its rewriting begins
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    header = _header(arrays)
    entries: dict[str, Entry] = {}
    path = place / f"rank-{rank:05d}.safetensors"
    with atomic.replacing(path) as file:
        file.write(header)
        offset = len(header)
        for name, array in arrays.items():
            raw = array.reshape(-1).view(np.uint8).data
            file.write(raw)
            entries[name] = Entry(_TAGS[str(array.dtype)], array.shape, offset, array.nbytes, zlib.crc32(raw))
            offset += array.nbytes
    return Shard(path.name, offset, entries, dict(meta or {}))


def commit(folder: Path, step: int, shards: Iterable[Shard], meta: Mapping[str, Any] | None = None) -> None:
    """Make the saved shards a snapshot, then drop all but the newest KEEP.

    Steps after this one go too: they belong to a run that was rewound. Raises DiskFull.
    """
    place = folder_of(folder, step)
    kept = tuple(shards)
    body = {"step": step, "meta": dict(meta or {}), "shards": [asdict(shard) for shard in kept]}
    text = json.dumps(body, ensure_ascii=False)
    whole = {"checkpoint": VERSION, "crc32": zlib.crc32(text.encode()), "body": text}
    atomic.write(place / MANIFEST, json.dumps(whole).encode())
    known = {MANIFEST, *(shard.file for shard in kept)}
    for stray in place.iterdir():
        if stray.name not in known:
            stray.unlink()
    _prune(folder, step)


def steps(folder: Path) -> tuple[int, ...]:
    """Steps that were committed, in order; their bytes are not looked at."""
    found = (place for place in folder.glob("step-*") if (place / MANIFEST).exists())
    return tuple(sorted(int(place.name.removeprefix("step-")) for place in found))


def latest(folder: Path) -> int | None:
    """Step of the newest snapshot whose every byte is as it was written; None if there is none.

    Says which newer ones it had to skip. Reads all of that snapshot. Raises NewerFormat.
    """
    for step in reversed(steps(folder)):
        try:
            snapshot = read(folder, step)
            for shard in snapshot.shards:
                _tensors(folder_of(folder, step), shard, shard.tensors)
        except DamagedSnapshot as error:
            fallback(f"checkpoint.{step}", f"the snapshot of step {step} is skipped: {error.what}, {error.why}")
            continue
        return step
    return None


def read(folder: Path, step: int) -> Snapshot:
    """The manifest of a snapshot. Raises DamagedSnapshot if it is missing or damaged, NewerFormat."""
    path = folder_of(folder, step) / MANIFEST
    try:
        whole = json.loads(path.read_bytes())
        if whole["checkpoint"] > VERSION:
            raise NewerFormat(
                f"{path.name} is a checkpoint of version {whole['checkpoint']}",
                where=str(path),
                why=f"this danlu reads versions up to {VERSION}",
                fix="update danlu: git pull",
            )
        if zlib.crc32(whole["body"].encode()) != whole["crc32"]:
            raise ValueError("its checksum differs")
        body = json.loads(whole["body"])
        return Snapshot(body["step"], body["meta"], tuple(shard_of(shard) for shard in body["shards"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"the manifest cannot be used: {error}") from error


def identity(folder: Path, step: int) -> str:
    """A few letters that tell a snapshot from all others: a checksum of its manifest's head; "none" without one."""
    try:
        with (folder_of(folder, step) / MANIFEST).open("rb") as file:
            return f"{zlib.crc32(file.read(64)):08x}"
    except OSError:
        return "none"


def load(folder: Path, step: int, names: Iterable[str] | None = None) -> dict[str, Array]:
    """Tensors by name, from whichever shards hold them; fresh, writable arrays, every byte checked.

    names  None for all of them
    Raises NoSuchTensor for a name that no shard has, DamagedSnapshot, NewerFormat.
    """
    snapshot = read(folder, step)
    wanted = set(snapshot.names if names is None else names)
    if missing := sorted(wanted - snapshot.names):
        raise NoSuchTensor(
            f"the snapshot of step {step} has no tensor {missing[0]!r}",
            where=str(folder),
            why=f"{len(missing)} of {len(wanted)} wanted ones are not among its {len(snapshot.names)}",
            fix="resume with the model section the run was started with, or start anew in another `out`",
        )
    found: dict[str, Array] = {}
    for shard in snapshot.shards:
        held = [name for name in shard.tensors if part_of(name).name in wanted]
        found |= _tensors(folder_of(folder, step), shard, held)
    return _joined(found, folder)


def _joined(found: dict[str, Array], folder: Path) -> dict[str, Array]:
    """Parts put together. Raises DamagedSnapshot when they leave a hole or overlap."""
    parts: dict[str, list[tuple[Part, Array]]] = {}
    for name in [name for name in found if part_of(name).axis is not None]:
        part = part_of(name)
        parts.setdefault(part.name, []).append((part, found.pop(name)))
    for name, held in parts.items():
        held.sort(key=lambda each: each[0].start)
        at = 0
        for part, array in held:
            assert part.axis is not None
            if part.start != at or array.ndim <= part.axis or array.shape[part.axis] != part.stop - part.start:
                raise _damaged(folder / MANIFEST, f"part {part.start}:{part.stop} of {name} follows {at}")
            at = part.stop
        found[name] = np.concatenate([array for _, array in held], axis=held[0][0].axis)
    return found


def clear(folder: Path) -> None:
    """Remove every snapshot, for a run that starts anew in the same folder."""
    for place in folder.glob("step-*"):
        _remove(place)


def _header(arrays: Mapping[str, Array]) -> bytes:
    """The safetensors header: its length as 8 bytes, then JSON, padded so that tensors start aligned to 8."""
    entries: dict[str, Any] = {}
    offset = 0
    for name, array in arrays.items():
        ends = [offset, offset + array.nbytes]
        entries[name] = {"dtype": _TAGS[str(array.dtype)], "shape": list(array.shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tensors(place: Path, shard: Shard, names: Iterable[str]) -> dict[str, Array]:
    path = place / shard.file
    found: dict[str, Array] = {}
    try:
        with path.open("rb") as file:
            for name in names:
                entry = shard.tensors[name]
                array = np.empty(entry.shape, _DTYPES[entry.dtype])
                raw = array.reshape(-1).view(np.uint8).data
                file.seek(entry.offset)
                got = file.readinto(raw)
                if got != entry.size:
                    raise _damaged(path, f"tensor {name!r} ends after {got} of {entry.size} bytes")
                if (crc := zlib.crc32(raw)) != entry.crc32:
                    raise _damaged(path, f"tensor {name!r} has checksum {crc:08x}, {entry.crc32:08x} was written")
                found[name] = array
    except OSError as error:
        raise _damaged(path, str(error)) from error
    return found


def _prune(folder: Path, step: int) -> None:
    keep = [each for each in steps(folder) if each <= step][-KEEP:]
    for place in folder.glob("step-*"):
        if int(place.name.removeprefix("step-")) not in keep:
            _remove(place)


def _remove(place: Path) -> None:
    """The manifest goes first: a remover that is killed leaves no snapshot with holes."""
    (place / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)


def _damaged(path: Path, why: str) -> DamagedSnapshot:
    return DamagedSnapshot(
        f"{path.parent.name}/{path.name} is damaged or incomplete",
        where=str(path),
        why=why,
        fix="resume from the snapshot before it: checkpoint.latest() skips this one",
    )
