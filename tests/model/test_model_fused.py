"""What a trainer runs equals the clear version: sub-layers, row operators native and in torch, halves or whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from danlu.kernels import ops, rows
from danlu.model.halves import Halves
from danlu.model.net import Causal, Decoder, init
from danlu.nouns import ModelSpec
from danlu.train.optim import AdamW

torch.set_num_threads(1)
SPEC = ModelSpec("llama", layers=2, hidden=48, heads=4, kv_heads=2, head_dim=16, ffn=40, vocab=61, positions=64)
KINDS = {"plain": SPEC, "head norms": replace(SPEC, qk_norm=True), "biases": replace(SPEC, qkv_bias=True),
         "moe": replace(SPEC, experts=7, experts_used=3, recipe=("attn", "moe")),
         "moe, few tokens": replace(SPEC, experts=40, experts_used=1, recipe=("attn", "moe"), norm_topk=False),
         "moe, shared": replace(SPEC, experts=7, experts_used=2, shared_ffn=56, recipe=("attn", "moe")),
         "window": replace(SPEC, window=5), "odd width": replace(SPEC, hidden=36, ffn=44)}  # fmt: skip


def gradients(spec, halves: Halves | None, dtype=torch.float32):
    decoder = Decoder(spec, 1, len(spec.units), dtype=dtype)
    init(decoder, 3)
    optimizer = AdamW(decoder, weight_decay=0.1)
    if halves is not None:
        decoder.halve(halves)
    state = Causal(2, 12)
    random = torch.Generator().manual_seed(5)
    x = torch.randn(24, spec.hidden, generator=random).to(dtype).requires_grad_()
    logits = decoder(x, state, state.meta())
    F.cross_entropy(logits.float(), torch.randint(0, spec.vocab, (24,), generator=random)).backward()
    for left in halves.take() if halves is not None else ():
        left.run()
    return logits.detach(), x.grad, {name: optimizer.grad_of(name).clone() for name in optimizer.slots}


def close(ours, theirs, tolerance):
    return float((ours.float() - theirs.float()).norm()) <= tolerance * float(theirs.float().norm())


@pytest.mark.parametrize("later", [False, True], ids=["whole", "halves"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trainer_s_decoder_has_the_gradients_of_the_clear_one(kind, later):
    halves = Halves()
    halves.later = later
    ours, theirs = gradients(KINDS[kind], halves), gradients(KINDS[kind], None)
    assert close(ours[0], theirs[0], 1e-6) and close(ours[1], theirs[1], 1e-5)
    assert ours[2].keys() == theirs[2].keys()
    for name, grad in theirs[2].items():
        assert close(ours[2][name], grad, 1e-5), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_backward_leaves_holds_no_graph(kind, dtype):
    """A graph that the weights' gradients became a part of would keep every micro-batch there ever was."""
    spec, halves = KINDS[kind], Halves()
    halves.later = True
    decoder = Decoder(spec, 1, len(spec.units), dtype=dtype)
    init(decoder, 3)
    AdamW(decoder, weight_decay=0.1)
    decoder.halve(halves)
    state = Causal(1, 12)
    decoder(torch.randn(12, spec.hidden).to(dtype).requires_grad_(), state, state.meta()).sum().backward()
    for left in halves.take():
        assert not any(operand.requires_grad for operand in (*left.x, *left.g)), tuple(left.weight.shape)
        left.run()
        assert left.weight.grad.grad_fn is None, tuple(left.weight.shape)


def test_an_embedding_adds_the_gradients_of_its_rows_where_they_are_kept():
    decoder = Decoder(SPEC, 0, 1)
    init(decoder, 3)
    optimizer, ids, g = AdamW(decoder, weight_decay=0.1), torch.tensor([3, 7, 3, 60]), torch.randn(4, SPEC.hidden)
    decoder.halve(Halves())
    state, kept = Causal(1, 4), optimizer.grad_of("embed.weight")
    for _ in range(2):
        decoder(ids, state, state.meta()).backward(g)
    table = decoder.embed.weight.detach().clone().requires_grad_()
    F.embedding(ids, table).backward(2 * g)
    assert close(kept, table.grad, 1e-6) and decoder.embed.weight.grad.data_ptr() == kept.data_ptr()


def test_another_dtype_runs_in_torch():
    ours, theirs = (gradients(SPEC, halves, torch.bfloat16) for halves in (Halves(), None))
    assert all(close(ours[2][name], grad, 0.05) for name, grad in theirs[2].items())


def test_halves_wait_until_they_are_run_and_only_once():
    halves = Halves()
    halves.later = True
    decoder = Decoder(SPEC, 1, 3)
    init(decoder, 3)
    optimizer = AdamW(decoder, weight_decay=0.1)
    decoder.halve(halves)
    state = Causal(2, 12)
    decoder(torch.randn(24, 48).requires_grad_(), state, state.meta()).sum().backward()
    assert not optimizer.grad_of("layers.0.mlp.down.weight").any()
    left = halves.take()
    assert len(left) == 4 and not halves.take(), "gate and up are one, and so are q, k and v"
    for each in left:
        each.run()
    assert optimizer.grad_of("layers.0.mlp.down.weight").any()


@pytest.mark.parametrize("columns", [8, 64, 520])
def test_native_row_operators_equal_torch(columns, monkeypatch):
    random = torch.Generator().manual_seed(columns)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    x, w, g, other, ab = draw(7, columns), draw(columns), draw(7, columns), draw(7, columns), 6 * draw(7, 2 * columns)
    ab[0, :4] = torch.tensor([-200.0, 200.0, 0.0, -87.5])
    heads, cos, sin = draw(7, 3, columns), draw(7, columns // 2), draw(7, columns // 2)

    def every():
        h, rstd = rows.norm(x, w, 1e-5)
        dw, turned, back = torch.ones(columns), torch.empty_like(heads), torch.empty_like(heads)
        dx = rows.norm_back(x, w, rstd, g, other, dw)
        rows.turn(heads, turned, cos, sin)
        rows.turn(turned, back, cos, sin, back=True)
        return h, rstd, dx, dw, rows.gate(ab), *rows.gate_back(ab, g), turned, back

    if ops.find("norm") is None:
        pytest.skip("no native library here")
    native = every()
    monkeypatch.setattr(rows, "native", lambda x, columns: False)
    for ours, theirs in zip(native, every(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
