"""Which implementation of an operator runs here.

An operator OP for an instruction set ISA is the function `danlu_OP_ISA` of the native library: adding
csrc/train/avx512.cpp adds its operators for that instruction set, with no change here. Where none is found the
operator's torch code runs.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

from danlu import native

BEST_FIRST = ("avx512", "avx2")
# "ref" is plain C++ for any CPU: fast enough for unpacking, which is bound by memory, far too slow for products.
OPERATORS = {
    "linear_q4": ("amx", "avx512bf16", *BEST_FIRST),
    "dequantize_q4": ("ref",),
    **{name: (*BEST_FIRST, "ref") for name in ("norm", "norm_back", "gate", "gate_back", "turn")},
    "quantize_q4": ("avx2", "ref"),
    "engine_run": BEST_FIRST,
    "engine_scratch": BEST_FIRST,
}
Native = Callable[..., int]


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs for one operator: `isa` is an instruction set or "torch", and `why` says how it came to that."""

    operator: str
    isa: str
    why: str


def implementation(operator: str, isa: str) -> Native | None:
    """The native function of that operator for that instruction set; None when the library or this CPU lacks it."""
    if not native.runs(isa):
        return None
    function = getattr(native.library(), f"danlu_{operator}_{isa}", None)
    if function is not None:
        function.restype = ctypes.c_int64 if operator == "engine_scratch" else ctypes.c_int
    return function


@functools.cache
def find(operator: str) -> Native | None:
    """The best native function of an operator on this CPU, or None: the caller then runs its torch code."""
    for isa in OPERATORS[operator]:
        if function := implementation(operator, isa):
            return function
    return None


def describe() -> tuple[Choice, ...]:
    """What runs for every operator and why; `danlu doctor` prints it."""
    return tuple(_choice(operator) for operator in OPERATORS)


def _choice(operator: str) -> Choice:
    if native.library() is None:
        return Choice(operator, "torch", "there is no native library: python -m danlu.native says why")
    skipped: list[str] = []
    for isa in OPERATORS[operator]:
        if implementation(operator, isa):
            return Choice(operator, isa, ", ".join(skipped) or "the best there is")
        skipped.append(f"{isa}: " + ("no kernel" if native.runs(isa) else "not on this CPU"))
    return Choice(operator, "torch", ", ".join(skipped))


def check(status: int, operator: str) -> None:
    """Raise what a native status means: MemoryError, or a bug of ours (sizes are checked before the call)."""
    if status == 2:
        raise MemoryError(f"{operator}: no memory for its input in fixed point")
    if status:
        raise RuntimeError(f"{operator} refused its sizes (status {status})")
