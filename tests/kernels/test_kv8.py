"""Keys and values in 8 bits: native beside torch, and beside the same in 32 bits."""

from __future__ import annotations

import pytest
import test_program as programs
import torch
from hypothesis import given
from hypothesis import strategies as st

from danlu.kernels import kv8
from danlu.kernels.lower import lower
from danlu.kernels.runner import Runner
from danlu.kernels.step import Cache
from danlu.serve.kv import Paged, page_bytes
from danlu.serve.pages import PAGE


def runner(made, isa="auto") -> Runner:
    cache: Cache = Paged(made.spec, 24, dtype=torch.int8).cache
    return Runner(lower(made.spec), programs.weights(made), cache, isa)


@pytest.mark.parametrize("name", ["llama2", "llama-bias", "qwen3", "mistral", "yuan", "wide"])
def test_native_and_torch_write_and_read_the_same_numbers(name):
    made = programs.decoder(programs.SPECS[name])
    tokens = programs.sequence(90, 1)
    steps = ((tokens, [5, 4, 3, 2, 1, 0], 0, 80), (tokens, [5, 4, 3, 2, 1, 0], 80, 90))
    native, reference = runner(made), runner(made, "torch")
    for step in steps:
        got, want = programs.say(native, step), programs.say(reference, step)
        torch.testing.assert_close(got, want, atol=5e-2, rtol=1e-2)  # a number on the edge of two may fall either way
    mine, theirs = (kv8.unpack(run.cache.layers[0][0][16:96]) for run in (native, reference))
    assert float((mine - theirs).abs().max()) <= 1.01 * float(theirs.abs().max()) / 127
    exact = programs.whole(made, tokens)[[-1]]
    assert float((programs.say(native, steps[1]) - exact).norm() / exact.norm()) < 0.02


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
def test_no_number_is_further_off_than_half_a_unit(numbers):
    x = torch.tensor(numbers)[None, None]
    found = kv8.unpack(kv8.pack(x))
    half = float(x.abs().max()) / 127 * 1.01 / 2
    assert float((found - x).abs().max()) <= half + 1e-38
    assert torch.equal(kv8.unpack(kv8.pack(torch.zeros(2, 3, 8))), torch.zeros(2, 3, 8))


def test_what_is_no_number_stays_none():
    made = programs.decoder(programs.SPECS["llama2"])
    made.get_parameter("layers.1.attn.k.weight").data.fill_(float("inf"))
    assert programs.say(runner(made), ([1, 2, 3], [0], 0, 3)).isnan().all()
    assert kv8.unpack(kv8.pack(torch.tensor([[[1.0, float("nan")]]]))).isnan().all()


def test_memory_is_a_quarter_of_32_bits_and_half_of_16():
    spec = programs.SPECS["wide"]
    eight, half, full = (page_bytes(spec, dtype) for dtype in (torch.int8, torch.bfloat16, torch.float32))
    assert eight / full < 0.26 and eight / half < 0.52
    kv = Paged(spec, 3, dtype=torch.int8)
    assert sum(each.nbytes for pair in kv.cache.layers for each in pair) == 3 * eight and PAGE == 16
