"""A model folder in 4 and 8 bits, written tensor by tensor; quantized.py reads it back.

The matrices of attention and MLP take 4 bits, those that a recipe names 8: a second 4-bit matrix of what the first one
left. The embedding and the head are where errors reach the logits undamped, so they take 8; norms, biases and routers
stay as they are.
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

import torch
from torch import Tensor

from danlu import families, tensorfile, tokens
from danlu.errors import BadValue, WeightsNotFinite
from danlu.kernels import codebooks, q4
from danlu.model import load
from danlu.model.folder import replacing
from danlu.model.quantized import MAPPED, PARTS, REST, VERSION, matrices, parts_of
from danlu.nouns import ModelSpec
from danlu.tensorfile import Entry

Progress = Callable[[str, int, int], None]  # tensor name, bytes read so far, bytes in all
BEST = "best"  # as a codebook: of all there are the one that leaves the least error, matrix by matrix
TABLES = ("embed.weight", "head.weight")
PANEL_FLOATS = 1 << 22  # weights compared at a time: 16 MiB


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is made small.

    codebook  name of kernels/codebooks.py, or BEST
    search    take the scale of every block that leaves the least error, instead of its largest weight
    eight     ends of our names, without ".weight", of matrices that take 8 bits ("mlp.down", "embed"); "" is every one
    """

    codebook: str = "nf4"
    search: bool = False
    eight: tuple[str, ...] = ("embed", "head")

    def bits(self, ours: str) -> int:
        """4 or 8, for one of the matrices."""
        return (
            8
            if f".{ours.removesuffix('.weight')}".endswith(tuple(f".{end}" if end else "" for end in self.eight))
            else 4
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What quantizing did.

    bits_per_weight        of the matrices of the layers, scales counted
    file_bits_per_weight   of all weights of the model
    sqnr_db                signal to quantization noise over the matrices of the layers
    codebooks              how many matrices each codebook took
    """

    bits_per_weight: float
    file_bits_per_weight: float
    bytes_before: int
    bytes_after: int
    sqnr_db: float
    codebooks: Mapping[str, int]


def quantize(folder: Path, out: Path, progress: Progress | None = None, *, recipe: Recipe | None = None) -> Report:
    """Write the model of `folder` to `out` by the recipe, whole or not at all; one danlu wrote is replaced.

    One matrix is in memory at a time, so the model may be larger than memory. Raises what load raises, WeightsNotFinite
    naming the tensor, UnknownPlugin for an unknown codebook, DiskFull, and BadValue when `folder` is quantized already,
    `out` is something else, or the recipe names a matrix that the model does not have.
    """
    config, recipe = families.read(folder), recipe or Recipe()
    if "danlu_quant" in config:
        raise BadValue(
            f"{folder} is quantized already",
            why=f"danlu_quant is {config['danlu_quant']!r}",
            fix="quantize the folder it was made from",
        )
    spec = families.spec(config)
    entries = tensorfile.read_folder(folder)
    load.check(spec, entries, folder)
    bits = _bits(spec, recipe)
    if recipe.codebook != BEST:
        codebooks.codebook(recipe.codebook)
    with replacing(out, folder) as draft:
        report = _weights(spec, entries, draft / "model.safetensors", progress, recipe, bits)
        for name in tokens.FILES:
            if (folder / name).exists():
                shutil.copyfile(folder / name, draft / name)
        text = json.dumps(config | {"danlu_quant": VERSION}, indent=2) + "\n"
        (draft / "config.json").write_text(text, encoding="utf-8")
    return report


def _bits(spec: ModelSpec, recipe: Recipe) -> dict[str, int]:
    """Our name -> 4 or 8, of every tensor that does not stay as it is."""
    shapes, layers = families.shapes(spec), matrices(spec)
    tables = [name for name in TABLES if name in shapes and recipe.bits(name) == 8]
    bits = {name: recipe.bits(name) for name in (*layers, *tables)}
    for end in recipe.eight:
        alone = Recipe(eight=(end,))
        if end not in ("embed", "head") and not any(alone.bits(name) == 8 for name in bits):
            ends = sorted(
                {name.removesuffix(".weight").split(".", 2)[-1] for name in layers if ".experts." not in name}
            )
            raise BadValue(f"no matrix is named {end!r}", why=f"there are: embed, head, {', '.join(ends)}",
                           fix="danlu quantize MODEL OUT --eight mlp.down,embed,head")  # fmt: skip
    # The engine sums experts up in one pass over 4-bit matrices, so theirs stay in 4.
    return {name: 4 if ".experts." in name else each for name, each in bits.items()}


def _weights(
    spec: ModelSpec, entries: Mapping[str, Entry], path: Path, progress: Progress | None, recipe: Recipe,
    bits: Mapping[str, int],
) -> Report:  # fmt: skip
    """Write every tensor of the model to one file, in order of the units."""
    theirs, shapes, layers = families.names(spec), families.shapes(spec), set(matrices(spec))
    pieces = families.pieces(spec)
    dtypes = {ours: entries[parts[0].name].dtype for ours, parts in pieces.items()}
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for ours, name in theirs.items():
        if ours in bits:
            planes = (name, name + REST)[: bits[ours] // 4]
            layout |= {p + end: said for p in planes for end, said in parts_of(*shapes[ours]).items()}
        else:
            layout[name] = (_kept_dtype(ours, dtypes[ours]), shapes[ours])
    before = sum(_size(dtypes[ours], shapes[ours]) for ours in theirs)
    read, packed, signal, noise, books = 0, 0, 0.0, 0.0, dict[str, int]()
    with tensorfile.Writer(path, layout, {"danlu_quant": str(VERSION)}) as out:
        for ours, name in theirs.items():
            weight = load.taken(pieces[ours], entries)
            if ours in bits:
                found, book = small(name, weight, recipe, bits[ours])
                put(out, name, found)
                books[book] = books.get(book, 0) + 1
                if ours in layers:
                    packed += found.nbytes
                    strength = _strength(weight, found)
                    signal, noise = signal + strength[0], noise + strength[1]
            else:
                out.put(name, load.entry(weight.to(load.DTYPES[layout[name][0]])).buffer)
            read += _size(dtypes[ours], shapes[ours])
            if progress:
                progress(name, read, before)
    after = sum(_size(*described) for described in layout.values())
    count = sum(math.prod(shapes[ours]) for ours in layers)
    sqnr_db = 10 * math.log10(signal / noise) if noise else math.inf
    return Report(packed * 8 / count, after * 8 / spec.params, before, after, sqnr_db, books)


def put(out: tensorfile.Writer, name: str, matrix: q4.Q4) -> None:
    """Write the parts of a small matrix, its rest too."""
    for field, end in (PARTS | (MAPPED if matrix.map is not None else {})).items():
        out.put(name + end, load.entry(getattr(matrix, field)).buffer)
    if matrix.rest is not None:
        put(out, name + REST, matrix.rest)


def small(name: str, weight: Tensor, recipe: Recipe, bits: int) -> tuple[q4.Q4, str]:
    """Quantize one matrix, and which codebook it took. Raises WeightsNotFinite naming it."""
    names = sorted(codebooks.CODEBOOKS) if recipe.codebook == BEST else [recipe.codebook]
    tries = codebooks.TRIES if recipe.search else ()
    try:
        if bits == 8:
            first = codebooks.quantize(weight, "fitted", codebooks.TRIES)
            left = weight.float() - q4.dequantize(first)
            return dataclasses.replace(first, rest=codebooks.quantize(left, "fitted", codebooks.TRIES)), "8 bits"
        found = [(codebooks.quantize(weight, each, tries), each) for each in names]
    except WeightsNotFinite as error:
        raise WeightsNotFinite(error.what, where=name, why=error.why, fix=error.fix) from error
    return min(found, key=lambda pair: _strength(weight, pair[0])[1]) if len(found) > 1 else found[0]


def _strength(weight_NK: Tensor, w: q4.Q4) -> tuple[float, float]:
    """Energy of a matrix, and of what quantizing it changed; both panel by panel."""
    signal = noise = 0.0
    step = max(1, PANEL_FLOATS // w.shape[1])
    for n in range(0, w.shape[0], step):
        panel = weight_NK[n : n + step].float()
        signal += float(panel.square().sum(dtype=torch.float64))
        noise += float((panel - q4.dequantize(w, n, n + len(panel))).square().sum(dtype=torch.float64))
    return signal, noise


def _kept_dtype(ours: str, dtype: str) -> str:
    """dtype of a tensor that is not quantized: 16 bits are enough for the two large tables."""
    return "BF16" if ours in TABLES and dtype in ("F32", "F64") else dtype


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return tensorfile.WIDTH[dtype] * math.prod(shape)


def as_keys(report: Report) -> dict[str, Any]:
    """The report as flat JSON keys."""
    figures = dataclasses.asdict(report)
    books = figures.pop("codebooks")
    return {f"quant.{k}": v for k, v in figures.items()} | {f"quant.codebook.{k}": v for k, v in books.items()}
