"""Yuan 2.0 against its formulae in float64, its own file layout, and its filter's state in every kind of memory."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu import families, tensorfile
from danlu.kernels import q4
from danlu.model import load
from danlu.model.export import export
from danlu.model.net import Causal, Decoder, Meta, init
from danlu.model.quantize import Recipe, quantize, small
from danlu.model.quantized import matrices
from danlu.nouns import ModelSpec
from danlu.serve.kv import Paged, Piece

torch.set_num_threads(1)

SPEC = ModelSpec("yuan", 2, 48, 4, 4, 12, 64, 91, 64, norm_eps=1e-5, recipe=("lfa", "mlp"))


def random(spec: ModelSpec, seed: int = 0, **options) -> Decoder:
    """A decoder in which no weight is at its start, so that none can be left out unseen."""
    decoder = Decoder(spec, **options)
    init(decoder, seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return decoder


def published(spec: ModelSpec, files: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Logits (S, V) of one sequence by the published formulae in float64, from tensors as the family's files have them.

    The filter is two causal conv2d; q and k come from one projection laid out [q, k] per head; up goes through silu.
    """
    w = {name: tensor.double() for name, tensor in files.items()}
    heads, size, count = spec.heads, spec.head_dim, len(ids)

    def norm(x, weight, eps):
        return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    def turned(x):  # (S, H, K)
        angle = torch.arange(count)[:, None] / spec.rope_theta ** (torch.arange(0, size, 2).double() / size)
        cos, sin = (torch.cat((part, part), -1)[:, None] for part in (angle.cos(), angle.sin()))
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat((-high, low), -1) * sin

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(spec.layers):
        at = f"model.layers.{layer}"
        gate = f"{at}.self_attn.lf_gate"
        h = norm(x, w[f"{at}.input_layernorm.weight"], spec.norm_eps)
        image = h.T[None, :, :, None]
        for conv in ("conv1", "conv2"):
            image = F.conv2d(image, w[f"{gate}.{conv}.weight"], w[f"{gate}.{conv}.bias"], padding=(1, 0))[:, :, :count]
        z = norm(image[0, :, :, 0].T + h, w[f"{gate}.output_layernorm.weight"], 1e-6)
        both = torch.cat([w[f"{at}.self_attn.{name}_proj.weight"] for name in "qk"])
        q, k = (z @ both.T).view(count, heads, 2 * size).chunk(2, -1)
        v = (h @ w[f"{at}.self_attn.v_proj.weight"].T).view(count, heads, size)
        scores = torch.einsum("qhk,lhk->hql", turned(q), turned(k)) / size**0.5
        seen = torch.ones(count, count, dtype=torch.bool).tril()
        mixed = torch.einsum("hql,lhk->qhk", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)
        x = x + mixed.reshape(count, -1) @ w[f"{at}.self_attn.o_proj.weight"].T
        h = norm(x, w[f"{at}.post_attention_layernorm.weight"], spec.norm_eps)
        up, gated = (h @ w[f"{at}.mlp.{name}_proj.weight"].T for name in ("up", "gate"))
        x = x + (F.silu(up) * gated) @ w[f"{at}.mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"], spec.norm_eps) @ w["lm_head.weight"].T


@pytest.mark.parametrize("heads", [4, 3])  # of three heads, one has its q in q_proj and its k in k_proj
def test_logits_are_those_of_the_published_formulae(heads, tmp_path):
    spec = replace(SPEC, heads=heads, kv_heads=heads)
    decoder = random(spec).double()
    decoder.dtype = torch.float64
    export(decoder.state_dict(), spec, tmp_path / "m")
    entries = tensorfile.read_folder(tmp_path / "m")
    assert entries["model.layers.1.self_attn.lf_gate.conv1.weight"].shape == (24, 48, 2, 1)
    assert {name: entry.shape for name, entry in entries.items()} == families.stored_shapes(spec)
    ids, state = torch.randint(0, spec.vocab, (17,), generator=torch.Generator().manual_seed(2)), Causal(1, 17)
    expected = published(spec, {name: load.tensor(entry) for name, entry in entries.items()}, ids)
    with torch.no_grad():
        torch.testing.assert_close(decoder(ids, state, state.meta()), expected, rtol=0, atol=1e-5)  # angles are fp32
        again = load.load(tmp_path / "m", dtype=torch.float64)
        assert torch.equal(again(ids, state, state.meta()), decoder(ids, state, state.meta()))


def test_a_quantized_folder_answers_like_its_dequantized_weights(tmp_path):
    decoder = random(SPEC)
    export(decoder.state_dict(), SPEC, tmp_path / "m")
    quantize(tmp_path / "m", tmp_path / "q")
    loaded, state, ids = load.load(tmp_path / "q"), Causal(1, 9), torch.arange(9)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name in matrices(SPEC):
                parameter.copy_(q4.dequantize(small(name, parameter, Recipe(), 4)[0]))
            elif name in ("embed.weight", "head.weight"):
                parameter.copy_(q4.dequantize(small(name, parameter, Recipe(), 8)[0]))
        expected = decoder(ids, state, state.meta())
        # The 4-bit kernels round what they multiply with; a wrong matrix would be off by the logits themselves.
        torch.testing.assert_close(loaded(ids, state, state.meta()), expected, rtol=0, atol=5e-3)
        assert expected.abs().max() > 0.5


def test_documents_packed_into_one_sequence_do_not_leak_through_the_filter():
    """With attention's positions begun anew the filter sees each document alone; its state starts from zero."""
    unit, state = random(SPEC, start=1, stop=2), Causal(1, 9)
    h = torch.randn(9, SPEC.hidden, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])
    for number, width in ((0, SPEC.hidden), (1, SPEC.hidden // 2)):
        found = state.before(0, number, h[:, :width], Meta(positions))
        expected = h[:, :width].roll(1, 0)
        expected[[0, 4]] = 0
        assert torch.equal(found, expected)
    seen = unit(h, state, Meta(positions))
    h[3] += 1.0  # the last token of the first document
    moved = (unit(h, state, Meta(positions)) - seen).abs().amax(-1)
    assert moved[:3].max() == 0 and moved[3] > 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(0, 999))
def test_any_chunking_over_pages_equals_one_pass(lengths, seed):
    """Prompts in pieces of any length, side by side, each token of each sequence once; also from a shared prefix."""
    decoder, paged, chance = random(SPEC), Paged(SPEC, 24, dtype=torch.float32), Random(seed)
    ids = [torch.randint(0, SPEC.vocab, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    pages = [list(range(8 * i, 8 * i + 8)) for i in range(len(ids))]
    if len(ids) > 1 and min(lengths[:2]) > 16:  # the second begins as the first does, on the first's own page
        ids[1][:16], pages[1][0] = ids[0][:16], pages[0][0]
    done, found = [0] * len(ids), [[] for _ in ids]
    if len(ids) > 1 and pages[1][0] == pages[0][0]:
        done[1] = 16
    with torch.no_grad():
        while any(at < n for at, n in zip(done, lengths, strict=True)):
            pieces, rows, order, shared = [], [], [], done[0] >= min(16, lengths[0])
            for i, n in enumerate(lengths):
                if i == 1 and not shared:
                    continue  # its prefix is not there yet
                count = chance.randint(0, n - done[i])
                if count:
                    pieces.append(Piece(pages[i], done[i], done[i] + count))
                    rows.append(ids[i][done[i] : done[i] + count])
                    order.append((i, count))
                    done[i] += count
            if pieces:
                positions = torch.cat([torch.arange(p.start, p.stop) for p in pieces])
                out = decoder(torch.cat(rows), paged.at(pieces), Meta(positions))
                for (i, _), part in zip(order, out.split([count for _, count in order]), strict=True):
                    found[i].append(part)
        for i, n in enumerate(lengths):
            state = Causal(1, n)
            whole = decoder(ids[i], state, state.meta())
            torch.testing.assert_close(torch.cat(found[i]), whole[n - sum(map(len, found[i])) :], rtol=1e-4, atol=1e-4)
