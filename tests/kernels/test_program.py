"""One op program, three ways: the native engine, its operators in torch, and the decoder's own modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu import events
from danlu.kernels import nf4, q4
from danlu.kernels.linear import PRECISIONS
from danlu.kernels.lower import NotLowered, lower
from danlu.kernels.program import FREQUENCIES
from danlu.kernels.runner import Runner
from danlu.kernels.step import Cache, Piece, Step
from danlu.model.net import Causal, Decoder, init
from danlu.model.rope import rope_frequencies
from danlu.nouns import ModelSpec, RopeScaling
from danlu.serve.kv import edge_widths

PAGE = 16
BASE = ModelSpec("llama", layers=2, hidden=48, heads=6, kv_heads=2, head_dim=8, ffn=80, vocab=97, positions=512)
SPECS = {
    "llama2": replace(BASE, kv_heads=6),
    "llama3": replace(BASE, rope_theta=5e5, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16)),
    "llama-bias": replace(BASE, qkv_bias=True, out_bias=True, head_dim=10),
    "odd": replace(BASE, hidden=35, ffn=77, head_dim=6, tied=True, kv_heads=1),
    "qwen2": replace(BASE, family="qwen2", qkv_bias=True, tied=True),
    "qwen3": replace(BASE, family="qwen3", qk_norm=True, head_dim=20),
    "mistral": replace(BASE, family="mistral", window=23),
    "mixtral": replace(BASE, family="mixtral", recipe=("attn", "moe"), experts=5, experts_used=2, ffn=32),
    "qwen2_moe": replace(
        BASE,
        family="qwen2_moe",
        recipe=("attn", "moe"),
        experts=9,
        experts_used=4,
        ffn=24,
        shared_ffn=56,
        norm_topk=False,
        qkv_bias=True,
    ),
    "yuan": replace(BASE, family="yuan", recipe=("lfa", "mlp"), kv_heads=6),
    "wide": replace(BASE, heads=6, kv_heads=1, head_dim=64, window=100),
}


def decoder(spec: ModelSpec) -> Decoder:
    made = Decoder(spec)
    init(made, 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # every vector away from its start, so that nothing can be left out unseen
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
            else:
                parameter.mul_(2.0)
    return made.requires_grad_(False)


def weights(made: Decoder) -> dict[str, torch.Tensor]:
    return {**dict(made.named_parameters()), FREQUENCIES: rope_frequencies(made.spec)}


def cache(spec: ModelSpec, pages: int = 24, dtype: torch.dtype = torch.float32) -> Cache:
    shape = (pages * PAGE, spec.kv_heads, spec.head_dim)
    stale = torch.full(shape, float("nan"), dtype=dtype)  # whoever reads a slot that nobody wrote shows it
    edges = [[torch.full((pages, width), float("nan"), dtype=dtype) for width in edge_widths(spec)]
             for _ in range(spec.layers)]  # fmt: skip
    return Cache([(stale.clone(), stale.clone()) for _ in range(spec.layers)], PAGE, edges)


def runner(made: Decoder, isa: str = "auto", dtype: torch.dtype = torch.float32) -> Runner:
    return Runner(lower(made.spec), weights(made), cache(made.spec, dtype=dtype), isa)


def whole(made: Decoder, tokens: list[int]) -> torch.Tensor:
    """Logits behind every token, by the decoder's modules."""
    state = Causal(1, len(tokens))
    return made(torch.tensor(tokens), state, state.meta())


def sequence(count: int, seed: int) -> list[int]:
    return torch.randint(0, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def say(run: Runner, *parts: tuple[list[int], list[int], int, int]) -> torch.Tensor:
    """Logits behind the last token of every (tokens, pages, start, stop)."""
    tokens = [token for each, _, start, stop in parts for token in each[start:stop]]
    ends = torch.tensor([stop - start for _, _, start, stop in parts]).cumsum(0) - 1
    pieces = [Piece(pages, start, stop) for _, pages, start, stop in parts]
    return run.run(Step(tokens, pieces, ends.tolist())).clone()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ["auto", "torch"])
@pytest.mark.parametrize("name", SPECS)
def test_every_family_in_chunks_and_side_by_side(name, isa, threads):
    made = decoder(SPECS[name])
    run = runner(made, isa)
    a, b = sequence(150, 1), sequence(40, 2)
    pages_a, pages_b = list(range(20, 10, -1)), [3, 0, 7]
    want_a, want_b = whole(made, a), whole(made, b)
    torch.set_num_threads(threads)
    try:
        got = [say(run, (a, pages_a, 0, 140)), say(run, (b, pages_b, 0, 30), (a, pages_a, 140, 141)),
               say(run, (a, pages_a, 141, 142), (b, pages_b, 30, 31)), say(run, (b, pages_b, 31, 33))]  # fmt: skip
    finally:
        torch.set_num_threads(1)
    want = [want_a[[139]], torch.stack((want_b[29], want_a[140])), torch.stack((want_a[141], want_b[30])), want_b[[32]]]
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_model_and_any_cut_of_its_prompt(data):
    draw = data.draw
    group, kv = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    spec = ModelSpec(
        "llama", draw(st.integers(1, 2)), draw(st.integers(1, 70)), kv * group, kv, 2 * draw(st.integers(1, 40)),
        draw(st.integers(1, 70)), 97, 512, tied=draw(st.booleans()), qk_norm=draw(st.booleans()),
        window=draw(st.none() | st.integers(1, 90)), qkv_bias=draw(st.booleans()), out_bias=draw(st.booleans()),
    )  # fmt: skip
    made, tokens = decoder(spec), sequence(draw(st.integers(1, 100)), draw(st.integers(0, 99)))
    pages = draw(st.permutations(range(7)))
    native = runner(made)
    cuts = sorted({0, len(tokens), *draw(st.lists(st.integers(0, len(tokens)), max_size=3))})
    for start, stop in zip(cuts, cuts[1:], strict=False):
        got = say(native, (tokens, pages, start, stop))
    torch.testing.assert_close(got, whole(made, tokens)[-1:], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_width_weights_and_pages(dtype):
    made = decoder(SPECS["qwen3"]).to(dtype)
    tokens, pages = sequence(60, 4), [1, 2, 3, 4]
    exact = whole(made.float(), tokens)[[-1]]
    half = {name: weight.to(dtype) if weight.dim() == 2 else weight for name, weight in weights(made).items()}
    native, torch_too = (
        Runner(lower(made.spec), half, cache(made.spec, dtype=dtype), isa) for isa in ("auto", "torch")
    )
    got, reference = say(native, (tokens, pages, 0, 60)), say(torch_too, (tokens, pages, 0, 60))
    torch.testing.assert_close(got, reference, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(got, exact, atol=5e-2, rtol=5e-2)


FOUR_BITS = [*(("qwen3", precision) for precision in PRECISIONS), ("qwen2_moe", "fp32"), ("yuan", "int16")]


@pytest.mark.parametrize(("family", "precision"), FOUR_BITS)
def test_4_bit_weights_beside_their_own_values(family, precision):
    made = decoder(replace(SPECS[family], hidden=150, ffn=333))
    small = {name: q4.of_nf4(nf4.quantize_nf4(weight)) if weight.dim() == 2 and "router" not in name else weight
             for name, weight in weights(made).items()}  # fmt: skip
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if isinstance(small[name], q4.Q4):
                parameter.copy_(q4.dequantize(small[name]))
    run = Runner(lower(made.spec), small, cache(made.spec), precision=precision)
    a, b = sequence(70, 1), sequence(40, 2)
    want = torch.stack((whole(made, a)[65], whole(made, b)[30]))
    torch.set_num_threads(2)
    say(run, (a, [0, 1, 2, 3, 4], 0, 65), (b, [9, 8, 7], 0, 30))
    got = say(run, (a, [0, 1, 2, 3, 4], 65, 66), (b, [9, 8, 7], 30, 31))
    torch.set_num_threads(1)
    error = float((got - want).norm() / want.norm())
    assert not any(name.startswith("engine.") for name in events.fallbacks)
    assert error < {"fp32": 1e-5, "int16": 1e-3, "bf16": 1e-2, "int8": 1e-1}[precision], error


def test_a_token_is_the_same_in_any_company():
    made = decoder(SPECS["llama3"])
    a, b, c = (sequence(20, seed) for seed in (1, 2, 3))
    alone = say(runner(made), (a, [0, 1], 0, 20))
    crowd = say(runner(made), (b, [2, 3], 0, 20), (a, [0, 1], 0, 20), (c, [5, 4], 0, 20))
    assert torch.equal(alone[0], crowd[1])


def test_weights_that_are_no_numbers_give_logits_that_are_none():
    made = decoder(SPECS["llama2"])
    made.get_parameter("layers.1.attn.k.weight").data.fill_(float("nan"))
    assert say(runner(made), ([1, 2, 3], [0], 0, 3)).isnan().all()


def test_a_sublayer_without_operators_is_named():
    with pytest.raises(NotLowered, match="'wavelet'"):
        lower(replace(BASE, recipe=("attn", "wavelet")))
