"""From a Hugging Face folder to the decoder, or to any part of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from danlu import families, tensorfile
from danlu.errors import UnsupportedModel, WrongWeights
from danlu.model import quantized
from danlu.model.net import Decoder, Reduce
from danlu.model.shard import Share
from danlu.nouns import ModelSpec

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

    In a quantized folder the 4-bit matrices stay as they are, in the file's own pages.
    Raises what spec_of raises, BadTensorFile, WrongNf4, NewerFormat, and WrongWeights for tensors that are missing,
    left over or misshapen.
    """
    config = families.read(folder)
    spec, entries = families.spec(config), tensorfile.read_folder(folder)
    small = quantized.is_quantized(config, folder)
    check(spec, quantized.unpacked(spec, entries, folder) if small else entries, folder)
    decoder = Decoder(spec, start, stop, dtype=dtype, device=device, share=share, reduce=reduce)
    if small:
        quantized.place(decoder, lambda name: tensor(entries[name]), device)
    theirs = families.names(spec)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            source = "embed.weight" if spec.tied and name == "head.weight" else name
            whole, span = tensor(entries[theirs[source]]), decoder.share.span(spec, name)
            parameter.copy_(whole if span is None else whole.narrow(span[0], span[1], span[2] - span[1]))
    return decoder


def parameters(folder: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The numbers of the model in a folder, and every parameter by our name, on the file's own bytes.

    Raises what load raises, and UnsupportedModel for a quantized folder, whose matrices are no tensors.
    """
    config = families.read(folder)
    spec, entries = families.spec(config), tensorfile.read_folder(folder)
    if quantized.is_quantized(config, folder):
        raise UnsupportedModel(
            "a quantized folder",
            where=str(folder),
            why="its matrices are kept in 4 bits",
            fix="name the folder that it was quantized from",
        )
    check(spec, entries, folder)
    return spec, {ours: tensor(entries[name]) for ours, name in families.names(spec).items()}


def check(spec: ModelSpec, entries: Mapping[str, tensorfile.Entry], folder: Path) -> None:
    """Raise WrongWeights unless the tensors are exactly the model's, each of its shape and a float."""
    theirs, shapes = families.names(spec), families.shapes(spec)
    missing = [name for name in theirs.values() if name not in entries]
    if missing:
        raise WrongWeights(
            f"{len(missing)} of {len(theirs)} tensors are missing",
            where=str(folder),
            why=f"the first is {missing[0]}; the files hold {len(entries)} tensors",
            fix="fetch all weight files, or correct config.json (layers, tied embeddings, biases)",
        )
    for ours, name in theirs.items():
        entry = entries[name]
        if entry.shape != shapes[ours] or entry.dtype not in ("F64", "F32", "F16", "BF16"):
            raise WrongWeights(
                f"{name} is {entry.dtype} {list(entry.shape)}",
                where=str(folder),
                why=f"config.json asks for floats {list(shapes[ours])}",
                fix="take config.json and weights from one revision of one model",
            )
    tied_copy = {"lm_head.weight"} if spec.tied else set()
    left = [n for n in entries if n not in set(theirs.values()) | tied_copy and not n.endswith(DERIVED)]
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
