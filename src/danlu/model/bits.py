"""Which matrices take 8 bits: those kinds whose 4 bits cost the most divergence a byte, until a model is close enough.

Measured, not guessed from weights: by the error of its weights every matrix loses about the same. A kind is the
matrices of one name ("attn.v", "mlp.down") in all layers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from danlu.errors import BadValue
from danlu.model.load import load
from danlu.model.net import Decoder
from danlu.model.quantize import Recipe, quantize
from danlu.model.quantized import Q4Linear
from danlu.model.score import apart

Told = Callable[[str, float], None]  # what is in 8 bits now, and the divergence in nats a token


def choose(
    folder: Path, room: Path, recipe: Recipe, most: float, batches: Sequence[npt.NDArray[np.int64]],
    told: Told | None = None,
) -> Recipe:  # fmt: skip
    """The recipe with so many kinds in 8 bits that the small model diverges by `most` nats a token at most.

    room     a folder for the model in 4 and in 8 bits; whatever was there is deleted, and so are they
    batches  int64 (batch, seq + 1) each: the tokens that judge; KL(model of `folder` || small) is what is measured
    Raises BadValue if 8 bits everywhere diverge by more, and what quantize raises.
    Cost: every kind is scored once alone and once more as it is taken; three models are in memory, two of them small.
    """
    shutil.rmtree(room, ignore_errors=True)  # of a process that was killed
    try:
        quantize(folder, room / "4", recipe=recipe)
        quantize(folder, room / "8", recipe=replace(recipe, eight=("",)))
        whole, small, wide = load(folder), load(room / "4"), load(room / "8")

        def divergence(name: str) -> float:
            found = apart(whole, small, batches).kl
            if told:
                told(name, found)
            return found

        start = now = divergence("4 bits")
        kinds, gains = _kinds(small, wide), dict[str, float]()
        for kind, names in kinds.items() if start > most else ():
            size = _swap(small, wide, names)
            gains[kind] = (start - divergence(kind)) / size
            _swap(small, wide, names)
        taken: list[str] = []
        for kind in sorted(gains, key=lambda kind: -gains[kind]):
            if now <= most:
                break
            _swap(small, wide, kinds[kind])
            taken.append(kind)
            now = divergence(", ".join(taken))
    finally:
        shutil.rmtree(room, ignore_errors=True)
    if now > most:
        raise BadValue(f"a divergence of {most:g} nats a token cannot be held",
                       why=f"with {', '.join(taken) or 'nothing more'} in 8 bits it is {now:.3g}",
                       fix="allow more, or keep the model in 16 bits: danlu serve MODEL")  # fmt: skip
    return replace(recipe, eight=(*recipe.eight, *taken))


def _kinds(small: Decoder, wide: Decoder) -> dict[str, list[str]]:
    """The modules of each kind that are in 8 bits in one decoder and in 4 in the other, by the kind's name."""
    found: dict[str, list[str]] = {}
    for name, module in small.named_modules():
        other = wide.get_submodule(name)
        if not isinstance(module, Q4Linear) or not isinstance(other, Q4Linear):
            continue
        if other.weight.rest is not None and module.weight.rest is None:
            found.setdefault(name.split(".", 2)[-1], []).append(name)
    return found


def _swap(small: Decoder, wide: Decoder, names: Sequence[str]) -> int:
    """Exchange modules of two decoders; returns the bytes by which they differ."""
    size = 0
    for name in names:
        home, leaf = name.rsplit(".", 1)
        a, b = small.get_submodule(home), wide.get_submodule(home)
        ours, theirs = a.get_submodule(leaf), b.get_submodule(leaf)
        assert isinstance(ours, Q4Linear) and isinstance(theirs, Q4Linear)
        setattr(a, leaf, theirs)
        setattr(b, leaf, ours)
        size += abs(theirs.weight.nbytes - ours.weight.nbytes)
    return size
