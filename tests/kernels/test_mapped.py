"""A model folder of every family, run from its own mapped weights, equals the decoder loaded from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_program import SPECS, cache, decoder, say, sequence, whole

from danlu.kernels.lower import lower
from danlu.kernels.runner import Runner
from danlu.model.export import export
from danlu.model.load import load
from danlu.model.mapped import mapped
from danlu.model.quantize import quantize

FAMILIES = ["llama3", "mixtral", "qwen2_moe", "qwen3", "yuan"]


@pytest.mark.parametrize("small", [False, True], ids=["whole", "quantized"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family(family, small, tmp_path):
    made = decoder(replace(SPECS[family], hidden=64))
    export(dict(made.named_parameters()), made.spec, tmp_path / "model")
    folder = tmp_path / "model"
    if small:
        quantize(folder, folder := tmp_path / "small")
    loaded = load(folder).requires_grad_(False)
    run = Runner(lower(loaded.spec), mapped(folder, torch.float32), cache(loaded.spec), precision="fp32")
    tokens = sequence(50, 8)
    got = say(run, (tokens, [3, 1, 2, 0], 0, 50))
    want = whole(loaded, tokens)[-1:]
    assert float((got - want).norm() / want.norm()) < (1e-3 if small else 1e-5)


def test_weights_of_a_folder_are_not_copied(tmp_path):
    made = decoder(SPECS["qwen3"])
    export({name: p.bfloat16() for name, p in made.named_parameters()}, made.spec, tmp_path / "model")
    before = {name: weight.data_ptr() for name, weight in mapped(tmp_path / "model", torch.bfloat16).items()}
    weights = mapped(tmp_path / "model", torch.float32)
    assert all(weight.dtype == torch.bfloat16 for name, weight in weights.items() if weight.dim() == 2)
    run = Runner(lower(made.spec), weights, cache(made.spec))
    held = {name: run.weights[name].data_ptr() for name in run.weights if run.weights[name].dim() == 2}
    assert held == {name: weights[name].data_ptr() for name in held} and len(held) < len(before)
