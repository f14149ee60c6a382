"""A model folder in 4 bits, written tensor by tensor; quantized.py reads it back.

The matrices of attention and MLP become NF4 with double quantization. The embedding is a table that is looked up, not
multiplied, and the head is where errors reach the logits undamped, so both keep 16 bits; norms and biases stay as they
are.
The format is "quantized folder" of docs/formats.md.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu import families, tensorfile, tokens
from danlu.errors import BadValue, WeightsNotFinite
from danlu.kernels import codebooks, nf4
from danlu.model import load
from danlu.model.folder import replacing
from danlu.model.quantized import PARTS, VERSION, matrices, parts_of
from danlu.nouns import ModelSpec
from danlu.tensorfile import Entry

Progress = Callable[[str, int, int], None]  # tensor name, bytes read so far, bytes in all


@dataclass(frozen=True, slots=True)
class Report:
    """What quantizing did.

    bits_per_weight        of the quantized matrices, scales counted
    file_bits_per_weight   of all weights of the model
    sqnr_db                signal to quantization noise over the quantized matrices
    """

    bits_per_weight: float
    file_bits_per_weight: float
    bytes_before: int
    bytes_after: int
    sqnr_db: float


def quantize(folder: Path, out: Path, progress: Progress | None = None, *, search: bool = False) -> Report:
    """Write the model of `folder` to `out` in 4 bits, whole or not at all; an older model folder there is replaced.

    search  take the scale of every block that leaves the least error, instead of its largest weight
    One matrix is in memory at a time, so the model may be larger than memory. Raises what load raises, WeightsNotFinite
    naming the tensor, DiskFull, and BadValue when `folder` is quantized already or `out` is something else.
    """
    config = families.read(folder)
    if "danlu_quant" in config:
        raise BadValue(
            f"{folder} is quantized already",
            why=f"danlu_quant is {config['danlu_quant']!r}",
            fix="quantize the folder it was made from",
        )
    spec = families.spec(config)
    entries = tensorfile.read_folder(folder)
    load.check(spec, entries, folder)
    with replacing(out) as draft:
        report = _weights(spec, entries, draft / "model.safetensors", progress, search)
        for name in tokens.FILES:
            if (folder / name).exists():
                shutil.copyfile(folder / name, draft / name)
        text = json.dumps(config | {"danlu_quant": VERSION}, indent=2) + "\n"
        (draft / "config.json").write_text(text, encoding="utf-8")
    return report


def _weights(
    spec: ModelSpec, entries: Mapping[str, Entry], path: Path, progress: Progress | None, search: bool
) -> Report:
    """Write every tensor of the model to one file, in order of the units."""
    theirs, shapes, small = families.names(spec), families.shapes(spec), set(matrices(spec))
    pieces = families.pieces(spec)
    dtypes = {ours: entries[parts[0].name].dtype for ours, parts in pieces.items()}
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for ours, name in theirs.items():
        if ours in small:
            parts = parts_of(*shapes[ours])
            layout |= {name + PARTS[field]: described for field, described in parts.items()}
        else:
            layout[name] = (_kept_dtype(ours, dtypes[ours]), shapes[ours])
    before = sum(_size(dtypes[ours], shapes[ours]) for ours in theirs)
    read, packed, signal, noise = 0, 0, 0.0, 0.0
    with tensorfile.Writer(path, layout, {"danlu_quant": str(VERSION)}) as out:
        for ours, name in theirs.items():
            weight = load.joined(pieces[ours], entries)
            if ours in small:
                matrix = _quantize(name, weight, search)
                for field, end in PARTS.items():
                    out.put(name + end, load.entry(getattr(matrix, field)).buffer)
                packed += matrix.nbytes
                strength = nf4.strength(weight, matrix)
                signal, noise = signal + strength[0], noise + strength[1]
            else:
                out.put(name, load.entry(weight.to(load.DTYPES[layout[name][0]])).buffer)
            read += _size(dtypes[ours], shapes[ours])
            if progress:
                progress(name, read, before)
    after = sum(_size(*described) for described in layout.values())
    count = sum(math.prod(shapes[ours]) for ours in small)
    sqnr_db = 10 * math.log10(signal / noise) if noise else math.inf
    return Report(packed * 8 / count, after * 8 / spec.params, before, after, sqnr_db)


def _quantize(name: str, weight: Tensor, search: bool) -> nf4.Nf4:
    """Quantize one matrix; an error names it."""
    try:
        return nf4.quantize_nf4(weight, codebooks.nf4_scales(weight) if search else None)
    except WeightsNotFinite as error:
        raise WeightsNotFinite(error.what, where=name, why=error.why, fix=error.fix) from error


def _kept_dtype(ours: str, dtype: str) -> str:
    """dtype of a tensor that is not quantized: 16 bits are enough for the two large tables."""
    return "BF16" if ours in ("embed.weight", "head.weight") and dtype in ("F32", "F64") else dtype


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return tensorfile.WIDTH[dtype] * math.prod(shape)


def as_keys(report: Report) -> dict[str, Any]:
    """The report as flat JSON keys."""
    return {f"quant.{key}": value for key, value in dataclasses.asdict(report).items()}
