"""A model of random 4-bit weights in the native engine, in any shape that fits memory, and how fast memory is read."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from danlu import families, native
from danlu.kernels import nf4, pages, q4
from danlu.kernels.huge import together
from danlu.kernels.interpret import Weight
from danlu.kernels.linear import Precision
from danlu.kernels.lower import lower
from danlu.kernels.program import FREQUENCIES
from danlu.kernels.ranks import Ranks
from danlu.kernels.runner import Runner
from danlu.kernels.step import Cache, Piece, Step
from danlu.model.quantize import Recipe
from danlu.model.rope import rope_frequencies
from danlu.model.shared import cache_widths, own
from danlu.nouns import ModelSpec
from danlu.serve.kv import edge_widths
from danlu.shares import Share

PAGE = 16
# Yuan2.0-102B: layers, width and heads are published; ffn is what makes the sum 102 billion parameters.
SHAPES: Mapping[str, ModelSpec] = {
    "llama-1.1b": ModelSpec("llama", 22, 2048, 32, 4, 64, 5632, 32_000, 2048),
    "yuan-102b": ModelSpec("yuan", 84, 8192, 64, 64, 128, 32_256, 135_040, 4096, recipe=("lfa", "mlp")),
    "qwen3-30b-a3b": ModelSpec("qwen3_moe", 48, 2048, 32, 4, 128, 768, 151_936, 4096, qk_norm=True,
                               recipe=("attn", "moe"), experts=128, experts_used=8),
}  # fmt: skip
ALL_FOUR = Recipe(eight=())
DISTINCT = {"yuan-102b": 4, "qwen3-30b-a3b": 8}  # layers that lie in memory; the others are the same again


def random_bytes(count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """That many random bytes, eight at a time: three times as fast as one by one."""
    words = torch.randint(-(2**63), 2**63 - 1, (-(-count // 8),), generator=generator)
    return words.view(torch.uint8)[:count]


def random_q4(rows: int, columns: int, generator: torch.Generator) -> q4.Q4:
    """A 4-bit matrix of random codes whose weights have about the deviation 1 / sqrt(columns)."""
    parts = q4.parts_of(rows, columns)
    codes, absmax = (random_bytes(torch.Size(parts[name][1]).numel(), generator).view(parts[name][1])
                     for name in ("codes", "absmax"))  # fmt: skip
    scale = torch.tensor([1 / 256, 1.0]).expand(parts["scale"][1]).contiguous() * columns**-0.5
    return q4.Q4(codes, absmax, scale, nf4.LEVELS, (rows, columns))


def random_weights(spec: ModelSpec, distinct: int, recipe: Recipe = ALL_FOUR) -> dict[str, Weight]:
    """Every matrix of a model in the bits of a recipe but a router's; layer i has the tensors of layer i % distinct."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Weight] = {FREQUENCIES: rope_frequencies(spec)}
    for name, shape in families.shapes(spec).items():
        parts = name.split(".")
        if parts[0] == "layers" and int(parts[1]) >= distinct:
            made[name] = made[".".join(["layers", str(int(parts[1]) % distinct), *parts[2:]])]
        elif len(shape) == 1:
            made[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        elif "router" in name:
            made[name] = torch.randn(shape, generator=generator) * 0.02
        else:
            made[name] = random_q4(*shape, generator)
            if recipe.bits(name) == 8:
                made[name] = replace(made[name], rest=random_q4(*shape, generator))
    return made


class Model:
    """A model of random weights with room for some sequences."""

    def __init__(self, spec: ModelSpec, distinct: int | None = None, *, tokens: int, sequences: int = 1,
                 precision: Precision = "int8", recipe: Recipe = ALL_FOUR, shares: Sequence[Share] = (),
                 ranks: Ranks | None = None, gathered: bool = True) -> None:  # fmt: skip
        """shares, ranks  of all processes that share the model, and this one among them

        gathered  weights are copied into one place of huge pages, which takes them twice for a moment
        """
        self.spec, self._each = spec, -(-tokens // PAGE)
        count, weights = sequences * self._each, random_weights(spec, distinct or spec.layers, recipe)
        heads, widths, share = spec.kv_heads, edge_widths(spec), None
        if ranks is not None:
            share = shares[ranks.rank]
            heads, widths = cache_widths(spec, share)
            weights = own(spec, weights, shares, ranks.rank)
        kv = [tuple(torch.zeros(count * PAGE, heads, spec.head_dim, dtype=torch.bfloat16) for _ in range(2))
              for _ in range(spec.layers)]  # fmt: skip
        edges = [[torch.zeros(count, width, dtype=torch.bfloat16) for width in widths] for _ in range(spec.layers)]
        self.weights = together(weights) if gathered else weights
        del weights
        pages.give_back()  # as a model that is loaded from a folder does
        self.runner = Runner(lower(spec, share), self.weights, Cache(kv, PAGE, edges), precision=precision,
                             ranks=ranks)  # fmt: skip
        self.step = self.runner.run

    @property
    def token_bytes(self) -> int:
        """Bytes of weights one token reads, every layer counted, experts as many as it uses."""
        total = 0.0
        for name in self.runner.program.weights:
            if name != "embed.weight" or self.spec.tied:
                share = self.spec.experts_used / self.spec.experts if ".experts." in name else 1.0
                total += share * self.weights[name].nbytes
        return int(total)

    def prefill(self, tokens: int) -> float:
        """Seconds of one prompt of so many tokens."""
        ids = [i % self.spec.vocab for i in range(tokens)]
        began = time.perf_counter()
        self.step(Step(ids, [Piece(range(self._each), 0, tokens)], [tokens - 1]))
        return time.perf_counter() - began

    def decode(self, tokens: int, sequences: int = 1) -> float:
        """Seconds of so many steps of `sequences` tokens each from an empty context, greedily."""
        ids = list(range(sequences))
        pages = [range(i * self._each, (i + 1) * self._each) for i in range(sequences)]
        began = time.perf_counter()
        for i in range(tokens):
            pieces = [Piece(each, i, i + 1) for each in pages]
            ids = self.step(Step(ids, pieces, range(sequences))).argmax(-1).tolist()
        return time.perf_counter() - began


WAYS = ((1, 0), (1, 4096), (4, 0), (4, 2048))  # of reading: places at once, bytes asked for ahead


def read_rate(far: torch.Tensor, way: int) -> float:
    """Bytes/s of reading `far` once, in one of the WAYS (csrc/core/read.cpp)."""
    library, total = native.library(), ctypes.c_uint64()
    assert library is not None
    streams, ahead = (ctypes.c_int64(each) for each in WAYS[way])
    began = time.perf_counter()
    library.danlu_read(ctypes.c_void_p(far.data_ptr()), ctypes.c_int64(far.nbytes), streams, ahead,
                       torch.get_num_threads(), ctypes.byref(total))  # fmt: skip
    return far.nbytes / (time.perf_counter() - began)
