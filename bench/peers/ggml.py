"""llama.cpp's own product of one 4-bit matrix through ggml's C API, with the weights in its repacked layout.

The library is built once by `danlu bench kernels --peers` into .peers/llama.cpp.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BUILD = Path(__file__).parents[2] / ".peers" / "llama.cpp" / "build" / "bin"
TYPES = {"q4_0": 2, "q4_k": 12, "iq4_nl": 20}
F32 = 0
P = ctypes.c_void_p


class Params(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", P), ("no_alloc", ctypes.c_bool))


def library() -> Any:
    """ggml and its CPU backend, or None when they were not built."""
    if not (BUILD / "libggml-cpu.so").exists():
        return None
    base = ctypes.CDLL(str(BUILD / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(BUILD / "libggml-cpu.so"), mode=ctypes.RTLD_GLOBAL)
    return base, cpu


def call(function: Any, *args: Any, gives: Any = P) -> Any:
    """Call a C function, integers as 64 bits."""
    function.restype = gives
    return function(*(ctypes.c_int64(each) if isinstance(each, int) else each for each in args))


class Product:
    """out (R, N) = x (R, K) @ W.T with W (N, K) given as the bytes of a type of ggml's; R is fixed."""

    def __init__(self, packed: Tensor, kind: str, shape: tuple[int, int], rows: int, threads: int) -> None:
        found = library()
        assert found is not None, "ggml is not built"
        base, cpu = found
        self._base, (n, k) = base, shape
        base.ggml_init.argtypes = (Params,)
        weights, others = (call(base.ggml_init, Params(1 << 20, None, True)) for _ in range(2))
        w = call(base.ggml_new_tensor_2d, P(weights), ctypes.c_int(TYPES[kind]), k, n)
        self._x = call(base.ggml_new_tensor_2d, P(others), ctypes.c_int(F32), k, rows)
        self._out = call(base.ggml_mul_mat, P(others), P(w), P(self._x))
        self._graph = call(base.ggml_new_graph, P(others))
        call(base.ggml_build_forward_expand, P(self._graph), P(self._out), gives=None)
        self._backend = call(cpu.ggml_backend_cpu_init)
        call(cpu.ggml_backend_cpu_set_n_threads, P(self._backend), ctypes.c_int(threads), gives=None)
        self.layout = self._place(base, cpu, weights)
        call(base.ggml_backend_alloc_ctx_tensors, P(others), P(self._backend))
        call(base.ggml_backend_tensor_set, P(w), P(packed.data_ptr()), 0, packed.numel(), gives=None)
        self._shape = rows, n

    def _place(self, base: Any, cpu: Any, context: int) -> str:
        """Put the weights into the CPU's repacking buffer; returns the name of the buffer type that took them."""
        registry = call(cpu.ggml_backend_cpu_reg)
        device = call(base.ggml_backend_reg_dev_get, P(registry), 0)
        address = call(base.ggml_backend_reg_get_proc_address, P(registry), b"ggml_backend_dev_get_extra_bufts")
        kinds = ctypes.CFUNCTYPE(ctypes.POINTER(P), P)(address)(device)
        i = 0
        while kinds[i]:
            name = call(base.ggml_backend_buft_name, P(kinds[i]), gives=ctypes.c_char_p).decode()
            if "REPACK" in name and call(base.ggml_backend_alloc_ctx_tensors_from_buft, P(context), P(kinds[i])):
                return str(name)
            i += 1
        raise AssertionError("this ggml has no repacking buffer")

    def put(self, x_RK: Tensor) -> None:
        """Set the input."""
        x_RK = x_RK.float().contiguous()
        call(self._base.ggml_backend_tensor_set, P(self._x), P(x_RK.data_ptr()), 0, x_RK.nbytes, gives=None)

    def __call__(self) -> None:
        """Multiply once."""
        status = call(self._base.ggml_backend_graph_compute, P(self._backend), P(self._graph), gives=ctypes.c_int)
        assert status == 0, f"ggml ended with {status}"

    def out(self) -> Tensor:
        """The product, (R, N)."""
        out = torch.empty(self._shape)
        call(self._base.ggml_backend_tensor_get, P(self._out), P(out.data_ptr()), 0, out.nbytes, gives=None)
        return out


def quantize(weight: Tensor, kind: str) -> Tensor:
    """A matrix in a type of ggml's, as the bytes of a GGUF file; one thread, as llama-quantize uses per chunk."""
    found = library()
    assert found is not None
    base, (n, k) = found[0], weight.shape
    weight = weight.float().contiguous()
    size = call(base.ggml_row_size, ctypes.c_int(TYPES[kind]), k, gives=ctypes.c_size_t)
    packed = torch.empty(n * size, dtype=torch.uint8)
    call(
        base.ggml_quantize_chunk,
        ctypes.c_int(TYPES[kind]),
        P(weight.data_ptr()),
        P(packed.data_ptr()),
        0,
        n,
        k,
        None,
        gives=ctypes.c_size_t,
    )
    return packed
