"""Row operators and products of a training step as a probe times them: the native library's, torch's where it has none.

They are those of danlu/kernels/rows.py, called here by their C names, and of danlu/kernels/wide.py, since the fleet's
room imports no other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from danlu import native

Shape = tuple[int, ...]
Pass = tuple[tuple[Shape, ...], Callable[[Any], Any]]  # shapes of its operands; what to run on them


def passes(rows: int, columns: int, dtype: Any) -> dict[str, Pass]:
    """By operator (docs/formats.md), what it needs and how it is run, on tensors of (rows, columns) and that dtype.

    The library has them for fp32; other numbers are widened for it.
    """

    isa = next((each for each in ("avx2", "ref") if native.runs(each)), None)
    one, two = (rows, columns), (rows, 2 * columns)
    ways = _torch(columns) if isa is None or columns % 8 else _native(isa, rows, columns)
    if isa is not None and columns % 8 == 0:
        ways = {name: _rounded(way, dtype) for name, way in ways.items()}
    turned = (rows, _half(columns))
    needs = {"norm": (one, (columns,)), "norm_back": (one, one, (columns,)), "gate": (two,), "gate_back": (two, one),
             "rotate": (one, turned, turned)}  # fmt: skip
    return {name: (needs[name], way) for name, way in ways.items()}


def widening(dtype: Any) -> Callable[[Any], Any]:
    """What tensors of a dtype go through before a product or attention: `float` where this CPU lacks instructions."""
    import torch

    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype)
    asked = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None) if name else None
    return (lambda x: x) if name is None or (asked is not None and asked()) else (lambda x: x.float())


def sums(dtype: Any) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any, Any], Any]]:
    """a @ b, and c += a @ b, as a trainer computes them on tensors of that dtype."""
    import torch

    in_wide = widening(dtype)

    def mm(a: Any, b: Any) -> Any:
        return (in_wide(a) @ in_wide(b)).to(dtype)

    def add_mm_(c: Any, a: Any, b: Any) -> Any:
        kept = in_wide(c)
        return c.addmm_(a, b) if kept is c else c.copy_(torch.addmm(kept, in_wide(a), in_wide(b)))

    return mm, add_mm_


def _rounded(way: Callable[[Any], Any], dtype: Any) -> Callable[[Any], Any]:
    """An operator for fp32 on tensors of another dtype."""
    import torch

    if dtype == torch.float32:
        return way

    def narrow(made: Any) -> Any:
        return tuple(each.to(dtype) for each in made) if isinstance(made, tuple) else made.to(dtype)

    return lambda given: narrow(way([each.float() for each in given]))


def _native(isa: str, rows: int, columns: int) -> dict[str, Callable[[Any], Any]]:
    """The library's functions; rotation turns heads of 32, or of the whole row where that is shorter."""
    import torch

    scale, sums, half = torch.ones(rows), torch.zeros(columns), _half(columns)

    def call(name: str, tensors: tuple[Any, ...], *sizes: int, last: float | None = None) -> None:
        real = [ctypes.c_float(last)] if last is not None else []
        pointers = (ctypes.c_void_p(each.data_ptr()) for each in tensors)
        getattr(native.library(), f"danlu_{name}_{isa}")(*pointers, *(ctypes.c_int64(each) for each in sizes), *real)

    def norm(given: Any) -> Any:
        x, w = given
        made, rms = torch.empty_like(x), x.new_empty(rows)
        call("norm", (x, w, made, rms), rows, columns, last=1e-5)
        return made

    def norm_back(given: Any) -> Any:
        x, g, w = given
        made = torch.empty_like(x)
        call("norm_back", (x, w, scale, g, g, made, sums), rows, columns)
        return made, sums

    def gate(given: Any) -> Any:
        made = given[0].new_empty(rows, columns)
        call("gate", (given[0], made), rows, columns)
        return made

    def gate_back(given: Any) -> Any:
        ab, g = given
        made = torch.empty_like(ab), torch.empty_like(g)
        call("gate_back", (ab, g, *made), rows, columns)
        return made

    def rotate(given: Any) -> Any:
        x, cos, sin = given
        made = torch.empty_like(x)
        call("turn", (x, made, cos, sin), rows, columns // (2 * half), half, columns, columns, half, last=1.0)
        return made

    return {"norm": norm, "norm_back": norm_back, "gate": gate, "gate_back": gate_back, "rotate": rotate}


def _half(columns: int) -> int:
    """Half of a head of 32, or of the whole row where that is shorter."""
    return min(columns, 32) // 2


def _torch(columns: int) -> dict[str, Callable[[Any], Any]]:
    """What kernels/rows.py does without a library."""
    import torch
    import torch.nn.functional as F

    def norm(given: Any) -> Any:
        x, w = given
        scale = torch.rsqrt(x.float().square().mean(-1) + 1e-5)
        return (x.float() * scale[:, None]).to(x.dtype) * w

    def norm_back(given: Any) -> Any:
        x, g, w = given
        unit, scaled = x.float(), g.float() * w.float()
        sums = (g.float() * unit).sum(0).to(w.dtype)
        return g + (scaled - unit * (scaled * unit).mean(-1, keepdim=True)).to(x.dtype), sums

    def gate_back(given: Any) -> Any:
        (a, b), g = given[0].chunk(2, 1), given[1]
        s, silu = torch.sigmoid(a), F.silu(a)
        return torch.cat((g * b * (s + silu * (1 - s)), g * silu), 1), silu * b

    def gate(given: Any) -> Any:
        a, b = given[0].chunk(2, 1)
        return F.silu(a) * b

    def rotate(given: Any) -> Any:
        x, cos, sin = given[0].view(len(given[0]), -1, 2 * _half(columns)), given[1][:, None], given[2][:, None]
        left, right = x.chunk(2, -1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)

    return {
        "norm": norm,
        "norm_back": norm_back,
        "gate": gate,
        "gate_back": gate_back,
        "rotate": rotate,
    }


def eights(pool: Any, count: int) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """What 8-bit floats cost where they are emulated (danlu/model/fp8.py): by operator what to draw and what to run."""
    import torch

    kinds = {"": torch.float8_e4m3fn, "_back": torch.float8_e5m2}

    def ahead(kind: Any) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            low, high = torch.aminmax(x)
            by = torch.finfo(kind).max / torch.maximum(-low, high).float().clamp(min=1e-30)
            by = (by.view(torch.int32) & 0x7F800000).view(torch.float32)
            return (x * by.to(x.dtype)).to(kind)

        return run

    found = {}
    for mark, kind in kinds.items():
        found[f"round{mark}"] = (lambda: pool.take(count), ahead(kind))
        found[f"widen{mark}"] = (lambda kind=kind: pool.take(count).to(kind), lambda x8: x8.float())  # type: ignore[misc]
    by = torch.ones(())
    found["swap"] = (lambda: pool.take(count // 128, 128).to(kinds[""]).view(torch.uint8), lambda x: x.t().contiguous())
    found["scale"] = (lambda: pool.take(count).float(), lambda x: x.mul_(by * by).to(pool.dtype))
    return found
