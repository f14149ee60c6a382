"""NVIDIA cards (and AMD's, which torch also calls "cuda"). Never run by us: written to torch's documented interface."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from danlu.fleet.driver import Float8, Memory
from danlu.fleet.pace import Pacer
from danlu.nouns import Card


def present() -> str:
    """Empty when torch sees such a card."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    found = torch.accelerator.current_accelerator()
    if found is None or found.type != "cuda" or not torch.accelerator.is_available():
        return "torch sees no cuda accelerator"
    return ""


def cards() -> tuple[Card, ...]:
    """Each card with the rate of one large matmul in fp32, bf16 and, where it has that, fp8, and of copying memory."""
    import torch

    found = []
    for number in range(torch.accelerator.device_count()):
        where = f"cuda:{number}"
        flops = {name: _matmul_rate(where, kind) for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
        total = torch.cuda.mem_get_info(number)[1]
        card = Card(where, "cuda", torch.cuda.get_device_name(number), flops, int(total), _copy_rate(where))
        narrow = fp8(card)
        if isinstance(narrow, Float8):
            card = replace(card, flops={**flops, "fp8": _narrow_rate(where, narrow)})
        found.append(card)
    return tuple(found)


def _matmul_rate(where: str, dtype: Any, size: int = 8192, repeats: int = 10) -> float:
    import torch

    a = torch.ones(size, size, device=where, dtype=dtype)
    return 2.0 * size**3 / _seconds(lambda: a @ a, where, repeats)


def _narrow_rate(where: str, kinds: Float8, size: int = 8192, repeats: int = 10) -> float:
    import torch

    one = torch.ones((), device=where)
    a = torch.ones(size, size, device=where).to(getattr(torch, kinds.ahead))

    def run() -> object:
        return torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return 2.0 * size**3 / _seconds(run, where, repeats)


def _copy_rate(where: str, size: int = 2**28, repeats: int = 10) -> float:
    import torch

    a, b = torch.ones(size, device=where), torch.ones(size, device=where)
    return 2 * 4.0 * size / _seconds(lambda: a.copy_(b), where, repeats)


def _seconds(run: Callable[[], object], where: str, repeats: int) -> float:
    """Seconds of one run, after one to warm up."""
    import torch

    run()
    torch.accelerator.synchronize(where)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.accelerator.synchronize(where)
    return (time.perf_counter() - start) / repeats


def index(card: Card) -> int:
    """A card's name ends in its number on the host: "cuda:1", "host2/cuda:1"."""
    tail = card.name.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0


def device(card: Card) -> str:
    """ "cuda:N"."""
    return f"cuda:{index(card)}"


def pace(card: Card) -> Pacer:
    """A real card is as fast as it is."""
    return Pacer()


def memory(card: Card) -> Memory:
    """What the driver reports."""
    import torch

    free, total = torch.cuda.mem_get_info(index(card))
    return Memory(int(total), int(free))


def health(card: Card) -> str:
    """Runs one tiny sum on the card."""
    import torch

    try:
        total = torch.ones(2, device=device(card)).sum().item()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "" if total == 2 else f"{card.name} says 1 + 1 = {total:g}"


def native() -> str:
    """NCCL; torch calls AMD's RCCL so, too."""
    return "nccl"


def fp8(card: Card) -> Float8 | str:
    """NVIDIA: from compute capability 8.9 (Ada, Hopper). AMD: gfx94x in kinds of its own (fnuz), gfx95x and gfx12x."""
    import torch

    if torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(index(card))
        if (major, minor) >= (8, 9):
            return Float8()
        return f"its compute capability is {major}.{minor}; products of 8-bit floats begin with 8.9"
    chip = str(torch.cuda.get_device_properties(index(card)).gcnArchName).partition(":")[0]
    if chip.startswith("gfx94"):
        return Float8("float8_e4m3fnuz", "float8_e5m2fnuz")
    if chip.startswith(("gfx95", "gfx12")):
        return Float8()
    return f"it is a {chip}; products of 8-bit floats begin with gfx940"
