"""Quantized folders with bytes of their weights changed or cut off, run by the native engine."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from test_program import SPECS, cache, decoder, say, sequence

from danlu.errors import DanluError
from danlu.kernels.lower import lower
from danlu.kernels.runner import Runner
from danlu.model.export import export
from danlu.model.load import spec_of
from danlu.model.mapped import mapped
from danlu.model.quantize import Recipe, quantize

TRIES = 60  # of every family


def run_all(home: Path) -> str:
    """How many folders were refused by an error of the catalogue, and how many ran to the end."""
    counts = [0, 0]
    for family in ("qwen3", "qwen2_moe", "yuan"):
        made = decoder(replace(SPECS[family], hidden=64))
        export(dict(made.named_parameters()), made.spec, home / "model")
        quantize(home / "model", home / "small", recipe=Recipe(eight=("embed", "attn.v", "head")))
        path = home / "small" / "model.safetensors"
        whole, rng = path.read_bytes(), random.Random(family)
        for attempt in range(TRIES):
            path.write_bytes(damage(whole, rng, head=attempt % 2 == 0))
            counts[runs(home / "small")] += 1
    return f"{counts[0]} {counts[1]}"


def damage(whole: bytes, rng: random.Random, head: bool) -> bytes:
    """The file with some bytes changed, in its header or anywhere, and now and then its end cut off."""
    found = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        found[rng.randrange(3000 if head else len(found))] = rng.randrange(256)
    return bytes(found[: rng.randrange(len(found)) if rng.random() < 0.1 else len(found)])


def runs(folder: Path) -> bool:
    """Whether the engine could run the folder's weights; False when an error of the catalogue refused them."""
    try:
        weights = mapped(folder, torch.float32)
    except DanluError as error:
        assert error.code.startswith("DL-DATA"), error
        return False
    spec = spec_of(folder)
    say(Runner(lower(spec), weights, cache(spec)), (sequence(9, 8), [3, 1, 2, 0], 0, 9))
    return True
