"""The weights of a folder where they lie, by our names: what the native engine reads, mapped and never copied."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from danlu import families, tensorfile
from danlu.kernels.huge import together
from danlu.kernels.interpret import Weight
from danlu.kernels.pages import give_back
from danlu.kernels.program import FREQUENCIES
from danlu.model import quantized
from danlu.model.load import check, joined, tensor
from danlu.model.rope import rope_frequencies
from danlu.model.shared import extras, part
from danlu.shares import Share


def mapped(folder: Path, dtype: torch.dtype, shares: Sequence[Share] = (), rank: int = 0) -> dict[str, Weight]:
    """Every weight of the model in `folder`, and its rotary frequencies; or one rank's part of them, by its share.

    A tensor stays in the file's own pages unless it is wider than `dtype`, which then is a copy of that type, or its
    columns are cut. Raises what load.load and model.shared.part raise.
    """
    return _found(folder, dtype, shares, rank)[0]


def moved(
    folder: Path, dtype: torch.dtype, shares: Sequence[Share] = (), rank: int = 0, stay: Collection[str] = ()
) -> dict[str, Weight]:
    """The same weights in large pages of this process's own, but those named in `stay`.

    What the copies were made from leaves its memory: of a file of 303 MB, 244 stayed beside 303 of copies.
    """
    weights, entries = _found(folder, dtype, shares, rank)
    kept = {name: weights.pop(name) for name in stay}
    close = together(weights)
    del weights
    tensorfile.let_go(entries.values())
    give_back()
    return {**close, **kept}


def _found(
    folder: Path, dtype: torch.dtype, shares: Sequence[Share], rank: int
) -> tuple[dict[str, Weight], Mapping[str, tensorfile.Entry]]:
    config = families.read(folder)
    spec, entries = families.spec(config), tensorfile.read_folder(folder)
    version, found = quantized.version_of(config, folder), dict[str, Weight]()
    pieces = families.pieces(spec)

    def take(ours: str, weight: Weight) -> None:
        mine = part(spec, ours, weight, shares[rank]) if shares else weight
        if isinstance(mine, torch.Tensor) and mine.itemsize > dtype.itemsize and mine.dim() > 1:
            mine = mine.to(dtype)
        if mine is not None:
            found[ours] = mine

    if version:
        check(spec, quantized.unpacked(spec, entries, version, folder), folder, quantized.shapes(spec))
        pieces = {ours: (families.Piece(name),) for ours, name in families.names(spec).items()}
        for ours in quantized.small(spec, entries, version):
            rows, columns = families.shapes(spec)[ours]
            name = pieces.pop(ours)[0].name
            whole = quantized.matrix(name, (rows, columns), entries, version, lambda each: tensor(entries[each]))
            take(ours, whole)
    else:
        check(spec, entries, folder)
    for ours, parts in pieces.items():
        take(ours, joined(parts, entries))
    more = extras(spec, found["embed.weight"], shares, rank) if shares else {}
    return {**found, **more, FREQUENCIES: rope_frequencies(spec)}, entries
