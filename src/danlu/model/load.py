"""From a Hugging Face folder to the decoder, or to any part of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from danlu import families, tensorfile
from danlu.errors import UnsupportedModel, WrongWeights
from danlu.kernels import q4
from danlu.model import quantized
from danlu.model.net import Decoder, Reduce
from danlu.nouns import ModelSpec
from danlu.shares import Share

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "U8": torch.uint8, "I8": torch.int8, "I32": torch.int32, "I64": torch.int64}  # fmt: skip
TAGS = {dtype: tag for tag, dtype in DTYPES.items()}
DERIVED = (".rotary_emb.inv_freq",)  # tensors that old files keep and that follow from config.json


def spec_of(folder: Path) -> ModelSpec:
    """The numbers of the model in a folder. Raises BadModel, UnsupportedModel, UnknownPlugin."""
    return families.spec(families.read(folder))


def load(
    folder: Path,
    start: int = 0,
    stop: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    share: Share | None = None,
    reduce: Reduce | None = None,
) -> Decoder:
    """Units [start, stop) of the model in `folder`, its weights turned to `dtype`; only their bytes are read.

    They are read and not mapped: a file that is cut meanwhile is BadTensorFile, not the end of the process.

    In a quantized folder the small matrices of the layers stay as they are, in the file's own pages.
    Raises what spec_of raises, BadTensorFile, WrongNf4, NewerFormat, and WrongWeights for tensors that are missing,
    left over or misshapen.
    """
    config = families.read(folder)
    spec, entries = families.spec(config), tensorfile.read_folder(folder)
    version = quantized.version_of(config, folder)
    if version:
        check(spec, quantized.unpacked(spec, entries, version, folder), folder, quantized.shapes(spec))
    else:
        check(spec, entries, folder)
    decoder = Decoder(spec, start, stop, dtype=dtype, device=device, share=share, reduce=reduce)
    pieces = families.pieces(spec)
    small: tuple[str, ...] = ()
    if version:
        quantized.place(decoder, entries, version, lambda name: tensor(entries[name]), device)
        pieces = {ours: (families.Piece(name),) for ours, name in families.names(spec).items()}
        small = quantized.small(spec, entries, version)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            source = "embed.weight" if spec.tied and name == "head.weight" else name
            if source in small:  # a table, which torch looks up and multiplies in its own dtype
                name_there, (rows, columns) = pieces[source][0].name, families.shapes(spec)[source]
                whole = q4.dequantize(quantized.matrix(name_there, (rows, columns), entries, version,
                                                       lambda each: tensor(entries[each])))  # fmt: skip
            else:
                whole = taken(pieces[source], entries)
            span = decoder.share.span(spec, name)
            parameter.copy_(whole if span is None else whole.narrow(span[0], span[1], span[2] - span[1]))
    return decoder


def parameters(folder: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The numbers of the model in a folder, and every parameter by our name, on the file's own bytes.

    Raises what load raises, and UnsupportedModel for a quantized folder, whose matrices are no tensors.
    """
    config = families.read(folder)
    spec, entries = families.spec(config), tensorfile.read_folder(folder)
    if quantized.version_of(config, folder):
        raise UnsupportedModel(
            "a quantized folder",
            where=str(folder),
            why="its matrices are kept in 4 bits",
            fix="name the folder that it was quantized from",
        )
    check(spec, entries, folder)
    return spec, {ours: joined(pieces, entries) for ours, pieces in families.pieces(spec).items()}


def joined(pieces: Sequence[families.Piece], entries: Mapping[str, tensorfile.Entry]) -> Tensor:
    """One of our parameters from the parts of a file's tensors; a single part is no copy."""
    parts = [part_of(tensor(entries[each.name]), each) for each in pieces]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def taken(pieces: Sequence[families.Piece], entries: Mapping[str, tensorfile.Entry]) -> Tensor:
    """The same, read into memory of its own, and of a stored tensor only the rows asked for. Raises BadTensorFile."""
    parts = []
    for each in pieces:
        first, *rest = each.index or ((0, entries[each.name].shape[0]),)
        rows, at = (first, (0, first[1] - first[0])) if isinstance(first, tuple) else ((first, first + 1), 0)
        stored = tensor(tensorfile.taken(entries[each.name], rows))
        parts.append(part_of(stored, families.Piece(each.name, (at, *rest))))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def part_of(stored: Tensor, piece: families.Piece) -> Tensor:
    """The part of a stored tensor that a piece names, a view of it."""
    return stored[tuple(slice(*at) if isinstance(at, tuple) else at for at in piece.index)]


def check(
    spec: ModelSpec, entries: Mapping[str, tensorfile.Entry], folder: Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:  # fmt: skip
    """Raise WrongWeights unless the tensors are exactly the model's, each of its shape and a float.

    shapes  by name in the files; None for those of the family's own files
    """
    shapes = families.stored_shapes(spec) if shapes is None else shapes
    missing = [name for name in shapes if name not in entries]
    if missing:
        raise WrongWeights(
            f"{len(missing)} of {len(shapes)} tensors are missing",
            where=str(folder),
            why=f"the first is {missing[0]}; the files hold {len(entries)} tensors",
            fix="fetch all weight files, or correct config.json (layers, tied embeddings, biases)",
        )
    for name, shape in shapes.items():
        entry = entries[name]
        if entry.shape != shape or entry.dtype not in ("F64", "F32", "F16", "BF16"):
            raise WrongWeights(
                f"{name} is {entry.dtype} {list(entry.shape)}",
                where=str(folder),
                why=f"config.json asks for floats {list(shape)}",
                fix="take config.json and weights from one revision of one model",
            )
    tied_copy = {"lm_head.weight"} if spec.tied else set()
    left = [n for n in entries if n not in set(shapes) | tied_copy and not n.endswith(DERIVED)]
    if left:
        raise WrongWeights(
            f"{len(left)} tensors belong to nothing",
            where=str(folder),
            why=f"{spec.family} with {spec.layers} layers has no {left[0]}",
            fix="correct config.json (layers, biases, model_type); danlu would ignore them silently",
        )


def tensor(entry: tensorfile.Entry) -> Tensor:
    """The entry as a torch tensor on the file's own bytes: read it, never write to it."""
    if 0 in entry.shape:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that the map is read-only; so we are told above
        return torch.frombuffer(entry.buffer, dtype=DTYPES[entry.dtype]).view(entry.shape)


def entry(tensor: Tensor) -> tensorfile.Entry:
    """The tensor as an entry to write; a copy only if it is not on the host or not contiguous."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensorfile.Entry(TAGS[tensor.dtype], tuple(tensor.shape), flat.view(torch.uint8).numpy())


def of_numpy(array: npt.NDArray[Any]) -> Tensor:
    """A tensor on the array's own memory; uint16 is bf16's raw bits, as checkpoints keep it."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
