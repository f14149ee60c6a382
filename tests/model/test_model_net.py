"""The decoder: any cut of its units, any split of its axes, is the same model."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.families import shapes
from danlu.model.net import Causal, Decoder, Meta, init
from danlu.nouns import ModelSpec, RopeScaling

torch.set_num_threads(1)

SPEC = ModelSpec("llama", layers=3, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab=61, positions=64)
TIED = ModelSpec("qwen2", 2, 24, 3, 1, 12, 40, 53, 64, tied=True, qkv_bias=True, qk_norm=True, window=5,
                 rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32))  # fmt: skip


def whole_gradients(spec: ModelSpec, seed: int = 3) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    decoder, state = Decoder(spec), Causal(2, 9)
    init(decoder, seed)
    ids = torch.randint(0, spec.vocab, (18,), generator=torch.Generator().manual_seed(seed))
    logits = decoder(ids, state, state.meta())
    torch.nn.functional.cross_entropy(logits, ids.roll(-1)).backward()
    return ids, {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}, logits.detach()


def test_parameter_names_and_shapes_are_the_families():
    for spec in (SPEC, TIED):
        decoder = Decoder(spec, device="meta")
        assert {name: tuple(p.shape) for name, p in decoder.named_parameters()} == shapes(spec)
        assert sum(p.numel() for p in decoder.parameters()) == spec.params


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([SPEC, TIED]), st.data())
def test_gradients_of_a_pipeline_cut_anywhere_equal_the_whole(spec, data):
    count = len(spec.units)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=3))), count]
    ids, expected, logits = whole_gradients(spec)
    stages = [Decoder(spec, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    state = Causal(2, 9)
    x, ends = ids, []
    for stage in stages:
        init(stage, 3)
        entry = x.detach().requires_grad_() if x.is_floating_point() else x
        x = stage(entry, state, state.meta())
        ends.append((entry, x))
    torch.testing.assert_close(x.detach(), logits, rtol=1e-5, atol=1e-6)
    grad = None
    for entry, out in reversed(ends):
        if grad is None:
            torch.nn.functional.cross_entropy(out, ids.roll(-1)).backward()
        else:
            out.backward(grad)
        grad = entry.grad
    found: dict[str, torch.Tensor] = {}
    for stage in stages:
        for name, p in stage.named_parameters():
            name = "embed.weight" if spec.tied and name == "head.weight" else name
            assert p.grad is not None, name
            found[name] = found.get(name, 0) + p.grad
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        assert torch.linalg.norm(found[name] - g) <= 1e-5 * torch.linalg.norm(g) + 1e-9, name


def test_only_wanted_rows_reach_the_head():
    decoder, state = Decoder(SPEC), Causal(2, 4)
    init(decoder, 0)
    ids, rows = torch.arange(8), torch.tensor([3, 7])
    full = decoder(ids, state, state.meta())
    torch.testing.assert_close(decoder(ids, state, state.meta(rows)), full[rows])


def test_a_token_never_sees_past_its_window_or_the_future():
    spec = ModelSpec("mistral", 1, 16, 2, 2, 8, 16, 31, 64, window=3)
    decoder, state = Decoder(spec), Causal(1, 8)
    init(decoder, 1)
    ids = torch.arange(8)
    before = decoder(ids, state, state.meta())
    changed = ids.clone()
    changed[2] = 30
    moved = (decoder(changed, state, state.meta()) - before).abs().amax(-1) > 0
    assert moved.tolist() == [False, False, True, True, True, False, False, False]


def test_positions_are_relative():
    decoder, state = Decoder(SPEC), Causal(1, 6)
    init(decoder, 1)
    ids = torch.arange(6)
    near, far = decoder(ids, state, Meta(torch.arange(6))), decoder(ids, state, Meta(torch.arange(6) + 40))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)
