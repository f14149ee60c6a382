"""The GPU product in Triton's interpreter, beside fp64 on the same quantized weights; skipped where Triton is not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from danlu.kernels import codebooks, nf4, q4
from danlu.kernels.cut import cut


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """The file with its kernels interpreted: Triton looks at the environment while kernels are made and run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pytest.importorskip("triton")
        yield importlib.import_module("danlu.kernels.triton_q4")


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
