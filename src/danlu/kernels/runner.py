"""Runs an op program: natively, a whole step in one call, and in torch where an operator has no native code."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from danlu.events import fallback
from danlu.kernels import interpret, ops, q4
from danlu.kernels.interpret import Scene, Weight
from danlu.kernels.linear import PRECISIONS, Precision
from danlu.kernels.native_program import (
    NativeCache,
    NativeProgram,
    NativeSteps,
    NativeStop,
    buffers_of,
    ops_of,
    weights_of,
)
from danlu.kernels.program import VERSION, Program
from danlu.kernels.ranks import Ranks
from danlu.kernels.step import Cache, Places, Step

ALIGN = 16  # floats: every buffer begins on a cache line of its own
PATIENCE_NS = 50_000_000  # of one wait for the other ranks before Python is asked whether to go on


class Runner:
    """Owns the buffers of a program and the tables that C reads; one step at a time, from one thread.

    isa        "auto" for the best native engine of this CPU, else "torch": the reference, operator by operator
    precision  least precision of products with 4-bit weights (kernels/linear.py)
    """

    def __init__(
        self, program: Program, weights: Mapping[str, Weight], cache: Cache, isa: str = "auto",
        precision: Precision = "int8", ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        """weights  by our name, on the CPU; matrices are used where they lie, vectors are copied as float32.

        ranks    the processes that share the model, where the program is one rank's
        """
        self.program, self.cache, self._precision, self._ranks = program, cache, precision, ranks
        self.weights = {name: _held(weights[name]) for name in program.weights}
        native = isa != "torch"
        self._run, self._scratch_bytes = (
            ops.find(name) if native else None for name in ("engine_run", "engine_scratch")
        )
        self._ops, self._table = ops_of(program), weights_of(list(self.weights.values()))
        self._kv = NativeCache(cache)
        self._stop = NativeStop()
        self._struct = NativeProgram(ctypes.addressof(self._ops), ctypes.addressof(self._table), None, self._kv.struct,
                                     count=len(program.ops), version=VERSION, precision=PRECISIONS.index(precision),
                                     ranks=None if ranks is None else ranks.handle, patience_ns=PATIENCE_NS,
                                     stop=ctypes.addressof(self._stop))  # fmt: skip
        self._rows = self._wanted = self._threads = 0
        self.seconds = torch.zeros(len(program.ops), dtype=torch.float64)

    @property
    def native(self) -> bool:
        """True when there is a native engine here."""
        return self._run is not None

    @property
    def nbytes(self) -> int:
        """Bytes of buffers and scratch."""
        return self._arena.nbytes + self._scratch.nbytes if self._rows else 0

    def measure(self, on: bool) -> None:
        """From now on add the seconds of every native operator to `seconds`, or no longer."""
        self._struct.seconds = self.seconds.data_ptr() if on else None

    def meet(self, ranks: Ranks) -> None:
        """From now on share steps with these processes; the shares stay as they are."""
        self._ranks, self._struct.ranks = ranks, ranks.handle

    def run(self, step: Step) -> Tensor:
        """Logits (R, V) of one step, float32; a view that the next step overwrites. Of a shared model on rank 0 only.

        Raises what Ranks.missed raises.
        """
        self._make_room(len(step.tokens), len(step.wanted))
        scene: Scene | None = None
        at, count = 0, len(self.program.ops)
        arrays = NativeSteps(step, self.cache.page)
        while at < count:
            if self._run is not None:
                at = self._native(arrays, at)
            if at < count:
                scene = scene or self._scene(step)
                self._torch(scene, at)
                at += 1
        return self._cut(step)[self.program.logits]

    def _native(self, arrays: NativeSteps, at: int) -> int:
        """Run from operator `at` on; the first that has no native code, or their number."""
        assert self._run is not None
        since = 0.0
        while True:
            found = self._run(ctypes.byref(self._struct), ctypes.byref(arrays.struct), at, self._threads)
            if found < 0:
                raise RuntimeError("the native engine refused a program (version or scratch)")
            if not self._stop.status:
                return found
            assert self._ranks is not None
            now = time.monotonic()
            since = since if since and found == at else now - PATIENCE_NS / 1e9
            self._ranks.missed(self._stop.status, self._stop.rank, now - since)
            at = found

    def _torch(self, scene: Scene, at: int) -> None:
        op = self.program.ops[at]
        if self._run is not None:
            fallback(f"engine.{op.code.name.lower()}", f"the native engine has no {op.code.name} of this kind "
                     f"({', '.join(op.weights) or 'no weights'}); torch runs it")  # fmt: skip
        interpret.OPERATORS[op.code](scene, op)

    def _scene(self, step: Step) -> Scene:
        places = Places.of(step, self.cache.page)
        return Scene(step, places, self._cut(step), self.weights, self.cache, self._precision, self._ranks)

    def _cut(self, step: Step) -> list[Tensor]:
        """Every buffer, as many rows of it as this step has."""
        counts = (len(step.tokens), len(step.wanted))
        return [
            whole[: counts[b.wanted] * b.times] for whole, b in zip(self._buffers, self.program.buffers, strict=True)
        ]

    def _make_room(self, rows: int, wanted: int) -> None:
        """Buffers and scratch for so many rows; made once, and again only when a step is larger than any before."""
        threads = torch.get_num_threads()
        if rows <= self._rows and wanted <= self._wanted and threads == self._threads:
            return
        self._rows, self._wanted, self._threads = max(rows, self._rows), max(wanted, self._wanted), threads
        counts = (self._rows, self._wanted)
        sizes = [-(-counts[b.wanted] * b.times * b.columns // ALIGN) * ALIGN for b in self.program.buffers]
        self._arena = torch.empty(sum(sizes) + ALIGN)
        skip = -self._arena.data_ptr() // 4 % ALIGN
        parts = torch.split(self._arena[skip : skip + sum(sizes)], sizes)
        self._buffers = [part[: counts[b.wanted] * b.times * b.columns].view(-1, b.columns)
                         for part, b in zip(parts, self.program.buffers, strict=True)]  # fmt: skip
        self._views = buffers_of(self._buffers, self.program)
        self._struct.buffers = ctypes.addressof(self._views)
        if self._scratch_bytes is not None:
            size = self._scratch_bytes(ctypes.byref(self._struct), ctypes.c_int64(self._rows), threads)
            self._scratch = torch.empty(size + 64, dtype=torch.uint8)
            self._struct.scratch, self._struct.scratch_bytes = self._scratch.data_ptr() + 63 & ~63, size
        else:
            self._scratch = torch.empty(0)


def _held(weight: Weight) -> Weight:
    """The weight as the native engine can read it: matrices where they lie if possible, vectors in float32."""
    if isinstance(weight, q4.Q4):
        return weight
    weight = weight.detach()
    if weight.dim() == 1 or weight.dtype == torch.float64:
        weight = weight.float()
    weight = weight.contiguous()
    return weight if weight.data_ptr() % weight.element_size() == 0 else weight.clone()
