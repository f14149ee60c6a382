"""AVX-512 and AMX kernels over a plain model of their instructions, so that CPUs without them test the arithmetic."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from danlu import native
from danlu.kernels import codebooks, linear, ops, q4

# The model reaches the kernels through their tables, whatever this CPU is.
CALL = """
#include <cstdlib>
#include "q4/files.h"
DANLU_API void call(int isa, const danlu_q4* w, const float* x, int64_t tokens, const float* bias, float* out,
                    int precision) {
    const danlu_q4_kernels* each[] = {&kQ4Avx512, &kQ4Avx512Bf16, &kQ4Amx};
    const danlu_q4_kernels& kernels = *each[isa];
    const auto least = static_cast<danlu_precision>(precision);
    void* ready = std::aligned_alloc(64, (kernels.ready_bytes(tokens, w->cols, least) + 63) / 64 * 64);
    void* scratch = std::aligned_alloc(64, (kernels.scratch_bytes(tokens, w->cols, least) + 63) / 64 * 64);
    kernels.prepare(x, w->cols, tokens, 0, tokens, w->cols, least, ready);
    const int64_t groups = q4_groups(w->rows);
    for (int64_t g = 0; g < groups; g++)
        kernels.multiply(w, ready, tokens, least, g, g + 1, bias, out, w->rows, scratch);
    std::free(ready);
    std::free(scratch);
}
"""
ISAS = ("avx512", "avx512bf16", "amx")
# What is allowed of the product of norms. The bf16 rung of a CPU without it is int16.
MOST = {"int8": 1e-2, "bf16": 2.5e-3, "int16": 2.5e-4, "fp32": 3e-7}


def product(model: ctypes.CDLL, isa: str, w: q4.Q4, x: torch.Tensor, bias: torch.Tensor | None, precision: str):
    """x @ w.T + bias by one of the tables."""
    out = torch.empty(len(x), w.shape[0])
    model.call(ISAS.index(isa), ctypes.byref(w.view), ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(len(x)),
               None if bias is None else ctypes.c_void_p(bias.data_ptr()), ctypes.c_void_p(out.data_ptr()),
               linear.PRECISIONS.index(precision))  # fmt: skip
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library with the model in place of the instructions."""
    compiler = native.compiler()
    if compiler is None or not native.runs("avx2"):
        pytest.skip("needs a compiler and AVX2, which the other precisions use")
    folder, csrc = tmp_path_factory.mktemp("model"), native.CHECKOUT / "csrc"
    (folder / "call.cpp").write_text(CALL)
    own = ("avx512", "avx512_bf16", "amx", "absmax", "fit")
    names = (*own, "avx2", "avx2_int8", "avx2_tile8", "avx2_int16", "avx2_fp32")
    sources = [folder / "call.cpp", *(csrc / "q4" / f"{name}.cpp" for name in names)]
    command = [
        compiler,
        "-O1",
        "-std=c++17",
        "-shared",
        "-fPIC",
        "-ffp-contract=off",
        "-DDANLU_MODEL_AVX512",
        f"-I{csrc}",
        *map(str, sources),
        "-o",
        str(folder / "model.so"),
    ]
    subprocess.run(command, check=True, timeout=300)
    return ctypes.CDLL(str(folder / "model.so"))


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(16, 64, 1), (37, 1100, 1), (20, 200, 7), (48, 640, 19),
                                                         (20, 130, 9), (16, 64, 16), (17, 200, 83)])  # fmt: skip
@pytest.mark.parametrize("name", ["nf4", "fitted"])
@pytest.mark.parametrize("isa", ISAS)
def test_the_model_of_the_instructions_equals_fp64(model, isa, name, rows, columns, tokens):
    make = torch.Generator().manual_seed(rows)
    w = codebooks.quantize(torch.randn(rows, columns, generator=make), name)
    x, bias = torch.randn(tokens, columns, generator=make), torch.randn(rows, generator=make)
    exact = x.double() @ q4.dequantize_torch(w).double().T + bias
    scale = x.norm(dim=1, keepdim=True) * q4.dequantize_torch(w).norm(dim=1)
    for precision, most in MOST.items():
        out = product(model, isa, w, x, bias, precision)
        assert ((out - exact).abs() <= 1.2 * most * (scale + exact.abs())).all(), precision


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_inputs_and_levels_do_not_overflow(model, isa, tokens):
    codes = torch.full((16, 256), 15, dtype=torch.uint8)
    codes[1::2] = 0
    levels = torch.tensor(codebooks.codebook("nf4").levels)
    ones = torch.full((1, 4, 16), 255, dtype=torch.uint8)
    w = q4.Q4(q4.interleave(codes), ones, torch.tensor([[[1 / 255, 0.0]]]), levels, (16, 256))
    x = torch.full((tokens, 256), 3.0)
    for precision in ("int8", "bf16"):
        out = product(model, isa, w, x, None, precision)
        torch.testing.assert_close(out, x @ q4.dequantize_torch(w).T, rtol=5e-3, atol=0)


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("isa", ISAS)
def test_an_input_that_is_not_finite_is_seen_and_no_other_suffers(model, isa, bad, tokens):
    w, x = codebooks.quantize(torch.randn(20, 130)), torch.randn(tokens + 1, 130)
    x[-1, 7] = bad
    for precision in ("int8", "bf16"):
        out = product(model, isa, w, x, None, precision)
        assert out[:-1].isfinite().all() and not out[-1].isfinite().any(), precision


def test_bf16_of_amx_and_of_avx512_are_one_rung(model):
    """One prepared input, the same products; only the order of the sums differs."""
    w, x = codebooks.quantize(torch.randn(40, 700)), torch.randn(33, 700)
    few, many, other = (product(model, isa, w, x, None, "bf16") for isa in ("avx512bf16", "amx", "avx512"))
    assert (few - many).norm() < 1e-6 * few.norm() and not torch.equal(few, other)


@pytest.mark.parametrize(("file", "instructions"), [
    ("avx512", ("vpdpbusd", "vpermb")), ("avx512_bf16", ("vdpbf16ps", "vpermw")),
    ("amx", ("ldtilecfg", "tileloadd", "tdpbsud", "tdpbf16ps", "tilestored", "tilerelease", "vpermb", "vpermw")),
])  # fmt: skip
def test_the_file_has_the_instructions_it_names(tmp_path: Path, file, instructions):
    """Without the model the compiler must be able to build it for a CPU that has them, and use them."""
    compiler = native.compiler()
    if compiler is None:
        pytest.skip("needs a compiler")
    out, source = tmp_path / file, native.CHECKOUT / "csrc" / "q4" / f"{file}.cpp"
    flags = ["-O3", "-std=c++17", f"-I{native.CHECKOUT / 'csrc'}"]
    subprocess.run([compiler, *flags, "-S", str(source), "-o", f"{out}.s"], check=True, timeout=300)
    subprocess.run([compiler, "-c", f"{out}.s", "-o", f"{out}.o"], check=True, timeout=300)  # the assembler knows them
    text = Path(f"{out}.s").read_text()
    assert not [each for each in instructions if each not in text]
    assert "look_up" not in text.replace("@PLT", ""), "one of the instructions became a call"


def test_a_cpu_without_the_instructions_is_told():
    if native.library() is None:
        pytest.skip("needs the library")
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if not native.runs("avx2"):
        pytest.skip("an x86 CPU")
    assert native.runs("avx512bf16") == ("avx512_bf16" in flags and "avx512_vnni" in flags)
    assert not native.runs("amx") or "amx_int8" in flags
    assert native.runs("amx") or ops.implementation("linear_q4", "amx") is None
