"""From weights to a Hugging Face folder that transformers loads."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from danlu import families, tensorfile, tokens
from danlu.errors import WrongWeights
from danlu.model.folder import replacing
from danlu.model.load import TAGS, entry, part_of
from danlu.nouns import ModelSpec


@dataclass(frozen=True, slots=True)
class Later:
    """A tensor that is made when its turn to be written comes, so that a model larger than memory passes through."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes it will take."""
        return math.prod(self.shape) * self.dtype.itemsize


SHARD_BYTES = 5 * 2**30  # Hugging Face's own habit: one file up to 5 GiB, then several with an index
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def export(
    tensors: Mapping[str, Tensor | Later],
    spec: ModelSpec,
    out: Path,
    tokenizer: Path | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[str], None] = lambda name: None,
) -> None:
    """Write `out` whole or not at all; one of that name that danlu wrote is replaced at the end.

    tensors      every parameter by our name; a tied model's "head.weight" may be among them and is dropped
    tokenizer    folder with tokenizer.json, or that file; its companions come along
    shard_bytes  largest weight file
    progress     is told each tensor's name as it is written
    Raises WrongWeights, UnsupportedModel, DiskFull, and BadValue if `out` is something else than a model folder.
    """
    kept = {name: tensors[name] for name in _checked(tensors, spec)}
    config = families.config(spec) | {"dtype": TORCH_NAMES[TAGS[next(iter(kept.values())).dtype]]}
    with replacing(out) as draft:
        if tokenizer is not None:
            config |= _tokenizer(tokenizer if tokenizer.is_dir() else tokenizer.parent, draft)
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _weights(kept, spec, draft, shard_bytes, progress)


def _checked(tensors: Mapping[str, Tensor | Later], spec: ModelSpec) -> list[str]:
    """Names of the parameters in order of the units, after comparing every shape with the spec."""
    shapes = families.shapes(spec)
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise WrongWeights(
                f"{name} is {'missing' if found is None else list(found)}",
                why=f"the model asks for {list(shape)}; {len(tensors)} tensors are given",
                fix="export a checkpoint together with the plan it was trained by",
            )
    return list(shapes)


def _weights(
    tensors: Mapping[str, Tensor | Later],
    spec: ModelSpec,
    folder: Path,
    shard_bytes: int,
    progress: Callable[[str], None],
) -> None:
    shards: list[dict[str, Tensor | Later]] = [{}]
    room = shard_bytes
    for name, tensor in _as_stored(tensors, spec):
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        layout = {key: (TAGS[value.dtype], tuple(value.shape)) for key, value in shard.items()}
        with tensorfile.Writer(folder / name, layout, {"format": "pt"}) as out:
            for key, value in shard.items():
                progress(key)
                out.put(key, entry(value.read() if isinstance(value, Later) else value).buffer)
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _as_stored(tensors: Mapping[str, Tensor | Later], spec: ModelSpec) -> Iterator[tuple[str, Tensor | Later]]:
    """The tensors of the family's files, by name, each as soon as all of ours that it is made of have come."""
    shapes, pieces, open_ = families.stored_shapes(spec), families.pieces(spec), dict[str, tuple[Tensor, int]]()
    for ours, tensor in tensors.items():
        at = 0
        for piece in pieces[ours]:
            if not piece.index:
                yield piece.name, tensor
                continue
            now = tensor.read() if isinstance(tensor, Later) else tensor
            whole, left = open_.get(piece.name) or (now.new_empty(shapes[piece.name]), 0)
            part = part_of(whole, piece)
            part.copy_(now[at : at + len(part)])
            at, left = at + len(part), (left or whole.numel()) - part.numel()
            open_[piece.name] = whole, left
            if not left:
                yield piece.name, open_.pop(piece.name)[0]


def _tokenizer(folder: Path, out: Path) -> dict[str, object]:
    """Copy the tokenizer's files; returns what config.json must say about it."""
    for name in tokens.FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / name)
    eos = list(tokens.eos_of(folder))
    said: dict[str, object] = {"eos_token_id": eos[0] if len(eos) == 1 else eos} if eos else {}
    if said and not (out / "generation_config.json").exists():
        (out / "generation_config.json").write_text(json.dumps(said) + "\n", encoding="utf-8")
    return said
