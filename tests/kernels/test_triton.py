"""GPU kernels in Triton's interpreter: products beside fp64, attention beside torch's; skipped where Triton is not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from danlu.kernels import codebooks, nf4, q4
from danlu.kernels.cut import cut
from danlu.kernels.step import Piece
from danlu.nouns import ModelSpec
from danlu.serve.kv import Paged
from danlu.serve.pages import PAGE


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Callable[[str], ModuleType]]:
    """Opens a file with its kernels interpreted: Triton looks at the environment while kernels are made and run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pytest.importorskip("triton")
        yield lambda name: importlib.import_module(f"danlu.kernels.{name}")


@pytest.fixture(scope="module")
def gpu(interpreted: Callable[[str], ModuleType]) -> ModuleType:
    return interpreted("triton_q4")


@pytest.fixture(scope="module")
def pages(interpreted: Callable[[str], ModuleType]) -> ModuleType:
    return interpreted("triton_attend")


def matrix(kind: str, rows: int, columns: int) -> q4.Q4:
    """NF4 as bitsandbytes keeps it, 4 bits of linear absmax, or 8 bits."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    if kind == "mapped":
        return q4.of_nf4(nf4.quantize_nf4(weight))
    first = codebooks.quantize(weight)
    if kind == "linear":
        return first
    rest = codebooks.quantize(weight - q4.dequantize_torch(first))
    return q4.Q4(first.codes, first.absmax, first.scale, first.levels, first.shape, rest=rest)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (37, 200), (70, 1100)])
@pytest.mark.parametrize("kind", ["mapped", "linear", "8 bits"])
@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_the_gpu_product_equals_fp64(gpu, kind, rows, columns, tokens):
    w, make = matrix(kind, rows, columns), torch.Generator().manual_seed(tokens)
    x, bias = torch.randn(tokens, columns, generator=make), torch.randn(rows, generator=make)
    weight = q4.dequantize_torch(w).double()
    exact = x.double() @ weight.T + bias
    scale = x.norm(dim=1, keepdim=True) * weight.norm(dim=1)
    assert ((gpu.linear_triton(x, w, bias) - exact).abs() <= 1e-6 * (scale + exact.abs())).all()


@pytest.mark.parametrize("kind", ["mapped", "linear", "8 bits"])
@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_a_matrix_multiply_alone(gpu, kind, axis):
    w = cut(matrix(kind, 70, 2300), axis, (32, 320)[axis], (70, 2300)[axis])
    x = torch.randn(2, w.shape[1], generator=torch.Generator().manual_seed(0))
    exact = x.double() @ q4.dequantize_torch(w).double().T
    torch.testing.assert_close(gpu.linear_triton(x, w, None).double(), exact, rtol=1e-4, atol=1e-3)


def test_no_tokens_give_no_rows(gpu):
    assert gpu.linear_triton(torch.randn(0, 200), matrix("linear", 37, 200), None).shape == (0, 37)


def scene(heads: int, kv_heads: int, width: int, pieces: list[Piece]):
    """Pages full of numbers as earlier steps left them, the state of this step, and its queries, keys and values."""
    torch.manual_seed(heads)
    spec = ModelSpec("llama", 1, hidden=32, heads=heads, kv_heads=kv_heads, head_dim=width, ffn=8, vocab=8,
                     positions=4096)  # fmt: skip
    kv = Paged(spec, 1 + max(max(piece.pages) for piece in pieces), dtype=torch.float32)
    for each in kv.cache.layers[0]:
        each.normal_()
    unused = set(range(len(kv.cache.layers[0][0]) // PAGE)) - {page for piece in pieces for page in piece.pages}
    for page in unused:
        kv.cache.layers[0][0][page * PAGE : (page + 1) * PAGE] = float("nan")
    tokens = sum(piece.stop - piece.start for piece in pieces)
    return kv, torch.randn(tokens, heads, width), *(torch.randn(tokens, kv_heads, width) for _ in range(2))


def table(first: int, tokens: int) -> list[int]:
    """Pages of a sequence, in no order."""
    count = -(-tokens // PAGE)
    return [first + (7 * i) % count if count % 7 else first + i for i in range(count)]


DECODE = [Piece(table(2, 70), 69, 70), Piece(table(9, 1), 0, 1), Piece(table(12, 700), 650, 651)]
MIXED = [Piece(table(2, 70), 69, 70), Piece(table(9, 40), 0, 40), Piece(table(20, 200), 90, 171)]


@pytest.mark.parametrize("pieces", [DECODE, MIXED, DECODE[2:]])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 16), (6, 2, 24), (8, 1, 32)])
@pytest.mark.parametrize("window", [None, 5, 100])
def test_paged_attention_equals_torch(pages, pieces, heads, kv_heads, width, window):
    kv, q, k, v = scene(heads, kv_heads, width, pieces)
    want = kv.at(pieces).attend(0, q, k, v, None, scale=0.3, window=window)
    walk = pages.Walk.of(pieces, heads // kv_heads, PAGE, "cpu")
    got = pages.attend(q, *kv.cache.layers[0], walk, page=PAGE, scale=0.3, window=window)
    torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)


def test_long_sequences_are_cut_among_programs(pages, monkeypatch):
    """Parts without a visible key, and the last, that is not whole, count for nothing too much."""
    monkeypatch.setattr(pages, "LEAST_KEYS", 64)
    pieces = [Piece(table(0, 700), 699, 700), Piece(table(50, 90), 89, 90)]
    kv, q, k, v = scene(4, 2, 16, pieces)
    for window in (None, 30, 200):
        want = kv.at(pieces).attend(0, q, k, v, None, scale=0.3, window=window)
        walk = pages.Walk.of(pieces, 2, PAGE, "cpu")
        got = pages.attend(q, *kv.cache.layers[0], walk, page=PAGE, scale=0.3, window=window)
        torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)
