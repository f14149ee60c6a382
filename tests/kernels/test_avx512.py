"""The AVX-512 kernel over a plain model of its instructions, so that CPUs without them test its arithmetic too."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from danlu import native
from danlu.kernels import codebooks, linear, q4

# The model reaches the kernel through its table, whatever this CPU is.
CALL = """
#include <cstdlib>
#include "q4/files.h"
DANLU_API void call(const danlu_q4* w, const float* x, int64_t tokens, const float* bias, float* out, int precision) {
    const auto least = static_cast<danlu_precision>(precision);
    void* ready = std::aligned_alloc(64, (kQ4Avx512.ready_bytes(tokens, w->cols, least) + 63) / 64 * 64);
    void* scratch = std::aligned_alloc(64, (kQ4Avx512.scratch_bytes(tokens, w->cols, least) + 63) / 64 * 64);
    kQ4Avx512.prepare(x, w->cols, tokens, 0, tokens, w->cols, least, ready);
    const int64_t groups = q4_groups(w->rows);
    for (int64_t g = 0; g < groups; g++)
        kQ4Avx512.multiply(w, ready, tokens, least, g, g + 1, bias, out, w->rows, scratch);
    std::free(ready);
    std::free(scratch);
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library with the model in place of the instructions."""
    compiler = native.compiler()
    if compiler is None or not native.runs("avx2"):
        pytest.skip("needs a compiler and AVX2, which the other precisions use")
    folder, csrc = tmp_path_factory.mktemp("model"), native.CHECKOUT / "csrc"
    (folder / "call.cpp").write_text(CALL)
    names = ("avx512", "avx2", "avx2_int8", "avx2_tile8", "avx2_int16", "avx2_fp32", "absmax", "fit")
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


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(16, 64, 1), (37, 1100, 1), (20, 200, 7), (48, 640, 19)])
@pytest.mark.parametrize("name", ["nf4", "fitted"])
def test_the_model_of_the_instructions_equals_fp64(model, name, rows, columns, tokens):
    make = torch.Generator().manual_seed(rows)
    w = codebooks.quantize(torch.randn(rows, columns, generator=make), name)
    x, bias = torch.randn(tokens, columns, generator=make), torch.randn(rows, generator=make)
    exact = x.double() @ q4.dequantize_torch(w).double().T + bias
    for precision, most in (("int8", 1e-2), ("int16", 2.5e-4), ("fp32", 3e-7)):
        out = torch.empty(tokens, rows)
        model.call(
            ctypes.byref(w.view),
            ctypes.c_void_p(x.data_ptr()),
            ctypes.c_int64(tokens),
            ctypes.c_void_p(bias.data_ptr()),
            ctypes.c_void_p(out.data_ptr()),
            linear.PRECISIONS.index(precision),
        )
        scale = x.norm(dim=1, keepdim=True) * q4.dequantize_torch(w).norm(dim=1)
        assert ((out - exact).abs() <= 1.2 * most * (scale + exact.abs())).all()


def test_the_largest_inputs_and_levels_do_not_overflow(model):
    codes = torch.full((16, 256), 15, dtype=torch.uint8)
    codes[1::2] = 0
    levels = torch.tensor(codebooks.codebook("nf4").levels)
    ones = torch.full((1, 4, 16), 255, dtype=torch.uint8)
    w = q4.Q4(q4.interleave(codes), ones, torch.tensor([[[1 / 255, 0.0]]]), levels, (16, 256))
    x, out = torch.full((1, 256), 3.0), torch.empty(1, 16)
    model.call(
        ctypes.byref(w.view),
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_int64(1),
        None,
        ctypes.c_void_p(out.data_ptr()),
        linear.PRECISIONS.index("int8"),
    )
    torch.testing.assert_close(out, x @ q4.dequantize_torch(w).T, rtol=5e-3, atol=0)


def test_the_file_has_the_instructions_it_names(tmp_path: Path):
    """Without the model the compiler must be able to build it for a CPU that has them, and use them."""
    compiler = native.compiler()
    if compiler is None:
        pytest.skip("needs a compiler")
    out = tmp_path / "avx512.s"
    source = native.CHECKOUT / "csrc" / "q4" / "avx512.cpp"
    subprocess.run(
        [compiler, "-O3", "-std=c++17", "-S", f"-I{native.CHECKOUT / 'csrc'}", str(source), "-o", str(out)],
        check=True,
        timeout=300,
    )
    text = out.read_text()
    assert "vpdpbusd" in text and "vpermb" in text
