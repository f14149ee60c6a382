"""The weights of a folder where they lie, by our names: what the native engine reads, mapped and never copied."""

from __future__ import annotations

from pathlib import Path

import torch

from danlu import families, tensorfile
from danlu.kernels.interpret import Weight
from danlu.kernels.program import FREQUENCIES
from danlu.model import quantized
from danlu.model.load import check, joined, tensor
from danlu.model.rope import rope_frequencies


def mapped(folder: Path, dtype: torch.dtype) -> dict[str, Weight]:
    """Every weight of the model in `folder`, and its rotary frequencies.

    A tensor stays in the file's own pages unless it is wider than `dtype`, which then is a copy of that type.
    Raises what load.load raises.
    """
    config = families.read(folder)
    spec, entries = families.spec(config), tensorfile.read_folder(folder)
    version, found = quantized.version_of(config, folder), dict[str, Weight]()
    pieces = families.pieces(spec)
    if version:
        check(spec, quantized.unpacked(spec, entries, version, folder), folder, quantized.shapes(spec))
        pieces = {ours: (families.Piece(name),) for ours, name in families.names(spec).items()}
        for ours in quantized.small(spec, entries, version):
            rows, columns = families.shapes(spec)[ours]
            name = pieces.pop(ours)[0].name
            found[ours] = quantized.matrix(name, (rows, columns), entries, version, lambda each: tensor(entries[each]))
    else:
        check(spec, entries, folder)
    for ours, parts in pieces.items():
        whole = joined(parts, entries)
        found[ours] = whole.to(dtype) if whole.itemsize > dtype.itemsize and whole.dim() > 1 else whole
    return {**found, FREQUENCIES: rope_frequencies(spec)}
