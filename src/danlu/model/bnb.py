"""Checkpoints of bitsandbytes' NF4 with double quantization, read and written bit for bit.

A matrix is `X.weight` (uint8, n / 2 x 1), `.absmax` (uint8), `.quant_map`, `.nested_absmax`, `.nested_quant_map` and
`.quant_state.bitsandbytes__nf4`, JSON as bytes: QuantState.as_dict(packed=True) of bitsandbytes. Its blocks run on from
row to row, so rows must be whole blocks of 64 to be the same here.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu import families, tensorfile, tokens
from danlu.errors import UnsupportedModel, WrongNf4
from danlu.kernels import nf4, q4
from danlu.model import load, quantized
from danlu.model.folder import replacing
from danlu.model.quantize import put
from danlu.nouns import ModelSpec
from danlu.tensorfile import Entry

STATE = ".quant_state.bitsandbytes__nf4"
PARTS = ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE)
STATE_BYTES = 256  # JSON and spaces: the size stands in a header written before the numbers are known
WORDS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def is_bnb(config: Mapping[str, Any]) -> bool:
    """Whether a folder's config says that bitsandbytes quantized it."""
    said = config.get("quantization_config")
    return isinstance(said, dict) and said.get("quant_method") == "bitsandbytes"


def read(folder: Path, out: Path, progress: Callable[[str], None] = lambda name: None) -> ModelSpec:
    """Write the quantized folder (docs/formats.md) of a checkpoint, the same values in the order of the kernels.

    Raises UnsupportedModel for what is no NF4 with double quantization in whole blocks, WrongNf4 for parts that are
    missing or misshapen, what loading a folder raises, and DiskFull.
    """
    config = families.read(folder)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    spec, entries = families.spec(plain), tensorfile.read_folder(folder)
    shapes, names = _plain_names(spec), {name for name in entries if name + STATE in entries}
    whole = {name: each for name, each in entries.items() if not _part_of_any(name, names)}
    whole |= {name: Entry("BF16", shapes[name], b"") for name in names if name in shapes}
    load.check(spec, whole, folder)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if name in names:
            parts = quantized.parts_of(shape[0], shape[1], mapped=True)
            layout |= {name + end: said for end, said in parts.items()}
        else:
            layout[name] = (entries[name].dtype, shape)
    with replacing(out, folder) as draft:
        with tensorfile.Writer(draft / "model.safetensors", layout, {"danlu_quant": str(quantized.VERSION)}) as file:
            for name, shape in shapes.items():
                progress(name)
                if name in names:
                    put(file, name, matrix(name, (shape[0], shape[1]), entries, folder))
                else:
                    file.put(name, entries[name].buffer)
        _beside(folder, draft, plain | {"danlu_quant": quantized.VERSION})
    return spec


def matrix(name: str, shape: tuple[int, int], entries: Mapping[str, Entry], where: Path) -> q4.Q4:
    """One matrix of a checkpoint. Raises UnsupportedModel, WrongNf4."""
    try:
        said = json.loads(bytes(entries[name + STATE].buffer))
        kind = (said["quant_type"], said["blocksize"], said.get("nested_blocksize"), tuple(said["shape"]))
        offset = torch.tensor(float(said.get("nested_offset", 0.0)))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WrongNf4(f"the quant_state of {name} is unreadable", where=str(where),
                       why=f"{type(error).__name__}: {error}", fix="fetch the checkpoint again") from error  # fmt: skip
    if kind != ("nf4", nf4.BLOCK, nf4.ABSMAX_BLOCK, shape) or shape[1] % nf4.BLOCK:
        raise UnsupportedModel(
            f"{name} is {kind[0]} of {list(kind[3])} in blocks of {kind[1]} and {kind[2]}", where=str(where),
            why=f"danlu reads nf4 with double quantization, blocks of 64 and 256, here {list(shape)} in whole blocks",
            fix="quantize with bnb_4bit_quant_type='nf4' and bnb_4bit_use_double_quant=True, "
            "or the original folder by danlu quantize")  # fmt: skip
    rows, blocks = shape[0], shape[1] // nf4.BLOCK
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "": ("U8", (rows * blocks * 32, 1)), ".absmax": ("U8", (rows * blocks,)), ".quant_map": ("F32", (16,)),
        ".nested_absmax": ("F32", (-(-rows * blocks // nf4.ABSMAX_BLOCK),)), ".nested_quant_map": ("F32", (256,)),
    }  # fmt: skip
    parts: dict[str, Tensor] = {}
    for end, (dtype, size) in wanted.items():
        found = entries.get(name + end)
        if found is None or (found.dtype, found.shape) != (dtype, size):
            text = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
            raise WrongNf4(f"{name}{end} {text}", where=str(where), why=f"it must be {dtype} {list(size)}",
                           fix="fetch the checkpoint again")  # fmt: skip
        parts[end] = load.tensor(found)
    if not all(part.isfinite().all() for part in (*parts.values(), offset)) or parts[".quant_map"].abs().max() > 1:
        raise WrongNf4(f"a scale or level of {name} is no number within its range", where=str(where),
                       why="the file was damaged", fix="fetch the checkpoint again")  # fmt: skip
    same = nf4.Nf4(parts[""].view(rows, -1), parts[".absmax"].view(rows, -1), parts[".nested_absmax"], offset, shape)
    return dataclasses.replace(q4.of_nf4(same), levels=parts[".quant_map"], map=parts[".nested_quant_map"])


def write(folder: Path, out: Path, progress: Callable[[str], None] = lambda name: None) -> ModelSpec:
    """Write the checkpoint that bitsandbytes would make of a folder's floats, or of the matrices a folder has from it.

    Raises UnsupportedModel for matrices in another codebook, of broken blocks, or of a family that stores several of
    ours in one; what loading a folder raises; DiskFull.
    """
    config = families.read(folder)
    version = quantized.version_of(config, folder)
    spec, entries = families.spec(config), tensorfile.read_folder(folder)
    if version:
        load.check(spec, quantized.unpacked(spec, entries, version, folder), folder, quantized.shapes(spec))
    else:
        load.check(spec, entries, folder)
    shapes, theirs = _plain_names(spec), families.names(spec)
    wanted = {theirs[ours] for ours in quantized.matrices(spec)}
    small = {theirs[ours] for ours in quantized.small(spec, entries, version)} if version else set()
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layout |= _layout(name, shape) if name in wanted else {name: (_dtype(entries, name, name in small), shape)}
    with replacing(out, folder) as draft:
        with tensorfile.Writer(draft / "model.safetensors", layout, {"format": "pt"}) as file:
            for name, shape in shapes.items():
                progress(name)
                held = _held(name, shape, entries, version) if name in small else load.tensor(entries[name])
                if name in wanted:
                    for end, part in zip(PARTS, _parts(name, held), strict=True):
                        file.put(name + end, load.entry(part).buffer)
                else:
                    floats = q4.dequantize(held) if isinstance(held, q4.Q4) else held
                    file.put(name, load.entry(floats.to(load.DTYPES[layout[name][0]])).buffer)
        plain = {key: value for key, value in config.items() if key != "danlu_quant"}
        _beside(folder, draft, plain | {"quantization_config": {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
        }})  # fmt: skip
    return spec


def _held(name: str, shape: tuple[int, ...], entries: Mapping[str, Entry], version: int) -> q4.Q4:
    return quantized.matrix(name, (shape[0], shape[1]), entries, version, lambda each: load.tensor(entries[each]))


def _parts(name: str, held: Tensor | q4.Q4) -> tuple[Tensor, ...]:
    """The tensors of one matrix, in the order of PARTS."""
    shape = (held.shape[0], held.shape[1])
    if shape[1] % nf4.BLOCK:
        raise UnsupportedModel(f"{name} has rows of {shape[1]}", why="bitsandbytes' blocks of 64 would cross its rows",
                               fix="keep the danlu folder: danlu quantize MODEL OUT")  # fmt: skip
    try:
        w = q4.to_nf4(held) if isinstance(held, q4.Q4) else nf4.quantize_nf4(held)
    except WrongNf4 as error:
        raise UnsupportedModel(f"{name} is not in bitsandbytes' NF4", why="its codebook or its scales are others",
                               fix="convert the folder of floats that it was made from") from error  # fmt: skip
    dtype = "float32" if isinstance(held, q4.Q4) else WORDS[held.dtype]
    said = {"quant_type": "nf4", "blocksize": nf4.BLOCK, "dtype": dtype, "shape": list(shape),
            "nested_blocksize": nf4.ABSMAX_BLOCK, "nested_dtype": "float32",
            "nested_offset": float(w.offset)}  # fmt: skip
    text = json.dumps(said).encode().ljust(STATE_BYTES)
    return (w.packed.view(-1, 1), w.absmax.flatten(), nf4.LEVELS, w.scale, nf4.ABSMAX_LEVELS,
            torch.frombuffer(bytearray(text), dtype=torch.uint8))  # fmt: skip


def _layout(name: str, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    count = shape[0] * shape[1]
    sizes: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("U8", (count // 2, 1)), ("U8", (count // 64,)), ("F32", (16,)), ("F32", (-(-count // 64 // 256),)),
        ("F32", (256,)), ("U8", (STATE_BYTES,)))  # fmt: skip
    return {name + end: said for end, said in zip(PARTS, sizes, strict=True)}


def _dtype(entries: Mapping[str, Entry], name: str, small: bool) -> str:
    return "BF16" if small else entries[name].dtype


def _plain_names(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes by the family's names. Raises UnsupportedModel where one of its tensors is several of ours."""
    if any(piece.index for pieces in families.pieces(spec).values() for piece in pieces):
        raise UnsupportedModel(f"{spec.family} as a checkpoint of bitsandbytes",
                               why="its files keep several of the decoder's matrices in one tensor",
                               fix="use the folder of floats")  # fmt: skip
    return families.stored_shapes(spec)


def _part_of_any(name: str, names: set[str]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in names for end in PARTS if end) or name in names


def _beside(folder: Path, draft: Path, config: Mapping[str, Any]) -> None:
    """The files that are not weights."""
    for name in tokens.FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, draft / name)
    (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
