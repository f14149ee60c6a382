"""A model folder of every family, run from its own mapped weights, equals the decoder loaded from it."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_program import SPECS, cache, decoder, say, sequence, whole

from danlu.kernels import pages
from danlu.kernels.huge import ALIGN, parts, taken, together
from danlu.kernels.lower import lower
from danlu.kernels.runner import Runner
from danlu.model.export import export
from danlu.model.load import load
from danlu.model.mapped import mapped, moved
from danlu.model.quantize import Recipe, quantize

FAMILIES = ["llama3", "mixtral", "qwen2_moe", "qwen3", "yuan"]


@pytest.mark.parametrize("small", [False, "4", "8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family(family, small, tmp_path):
    made = decoder(replace(SPECS[family], hidden=64))
    export(dict(made.named_parameters()), made.spec, tmp_path / "model")
    folder = tmp_path / "model"
    if small:
        quantize(folder, folder := tmp_path / "small", recipe=Recipe(eight=("",) if small == "8" else ("head",)))
    loaded = load(folder).requires_grad_(False)
    run = Runner(lower(loaded.spec), mapped(folder, torch.float32), cache(loaded.spec), precision="fp32")
    tokens = sequence(50, 8)
    got = say(run, (tokens, [3, 1, 2, 0], 0, 50))
    want = whole(loaded, tokens)[-1:]
    assert float((got - want).norm() / want.norm()) < (1e-3 if small else 1e-5)


def test_weights_side_by_side_are_the_same(tmp_path):
    made = decoder(replace(SPECS["qwen3"], hidden=64))
    export(dict(made.named_parameters()), made.spec, tmp_path / "model")
    quantize(tmp_path / "model", tmp_path / "small")
    apart = mapped(tmp_path / "small", torch.float32)
    apart["again"] = apart["layers.0.attn.q.weight"]
    close = together(apart)
    assert close["again"] is close["layers.0.attn.q.weight"]
    begins = sorted((part.data_ptr(), taken(part)) for weight in {id(w): w for w in close.values()}.values()
                    for part in parts(weight))  # fmt: skip
    assert all(a + size == b for (a, size), (b, _) in pairwise(begins)) and begins[0][0] % ALIGN == 0
    for name, weight in apart.items():
        assert all(torch.equal(a, b) for a, b in zip(parts(weight), parts(close[name]), strict=True))
    runs = [Runner(lower(made.spec), weights, cache(made.spec)) for weights in (apart, close)]
    a, b = (say(run, (sequence(20, 1), [0, 1], 0, 20)) for run in runs)
    assert torch.equal(a, b)


@pytest.mark.parametrize("size", [0, 1, pages.PAGE - 1, pages.PAGE, 3 * pages.PAGE + 5])
def test_room_is_zeroed_and_begins_on_a_large_page(size):
    found = pages.room(size)
    assert len(found) == size and not found.any()
    assert size < pages.PAGE or found.data_ptr() % pages.PAGE == 0
    found.fill_(7)
    assert not pages.room(size).any()


def test_weights_of_a_folder_are_not_copied(tmp_path):
    made = decoder(SPECS["qwen3"])
    export({name: p.bfloat16() for name, p in made.named_parameters()}, made.spec, tmp_path / "model")
    before = {name: weight.data_ptr() for name, weight in mapped(tmp_path / "model", torch.bfloat16).items()}
    weights = mapped(tmp_path / "model", torch.float32)
    assert all(weight.dtype == torch.bfloat16 for name, weight in weights.items() if weight.dim() == 2)
    run = Runner(lower(made.spec), weights, cache(made.spec))
    held = {name: run.weights[name].data_ptr() for name in run.weights if run.weights[name].dim() == 2}
    assert held == {name: weights[name].data_ptr() for name in held} and len(held) < len(before)


def test_what_was_copied_leaves_the_file_behind(tmp_path):
    """The pages of the file are in this process's memory before, not after, and what stays can still be read."""
    made = decoder(replace(SPECS["qwen3"], hidden=64))
    export(dict(made.named_parameters()), made.spec, tmp_path / "model")
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("needs proc(5)")

    def in_memory() -> int:
        lines = iter(smaps.read_text().splitlines())
        return sum(int(next(each for each in lines if each.startswith("Rss:")).split()[1])
                   for line in lines if line.endswith(str(tmp_path / "model" / "model.safetensors")))  # fmt: skip

    apart = mapped(tmp_path / "model", torch.float32)
    want = {name: weight.clone() for name, weight in apart.items()}
    assert in_memory() > 0
    del apart
    gc.collect()
    close = moved(tmp_path / "model", torch.float32, stay=("embed.weight",))
    assert in_memory() == 0 and close.keys() == want.keys()
    assert all(torch.equal(close[name], want[name]) for name in want)
