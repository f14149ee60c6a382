"""One rank of a model that several processes share: its weights, its pages and its op program.

What it is told is JSON: docs/formats.md, "rank of a served model".
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from danlu.comm.shm import GiveUp, Segment, ShmGroup
from danlu.fleet.cores import nodes_near, prefer_memory_of
from danlu.kernels import ops
from danlu.kernels.linear import Precision
from danlu.kernels.lower import NotLowered, lower
from danlu.kernels.ranks import Ranks
from danlu.kernels.runner import Runner
from danlu.model.load import spec_of
from danlu.model.mapped import mapped, moved
from danlu.model.shared import grain
from danlu.serve.kv import Paged
from danlu.shares import Share, cut

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KV_DTYPES: Mapping[str, torch.dtype] = {**DTYPES, "int8": torch.int8}  # of keys and values


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank is to hold and where it runs; all ranks' are alike but for `rank` and `cores`.

    folder  of the model
    heads   query heads of every rank
    experts whole experts of every rank, empty where they share every expert's ffn
    kv      number format of keys and values, which lie in so many pages in every rank
    large   weights go to memory in large pages; else they stay in the file
    """

    rank: int
    folder: str
    heads: tuple[int, ...]
    experts: tuple[int, ...]
    cores: tuple[int, ...]
    dtype: str
    precision: Precision
    kv: str
    pages: int
    large: bool

    def dumps(self, segment: Segment) -> bytes:
        """As a message, with the segment that the ranks meet in."""
        return json.dumps({"part": 1, **dataclasses.asdict(self), "segment": segment.address}).encode()

    @staticmethod
    def loads(message: bytes) -> tuple[Part, Segment]:
        """The part, and this process's end of the segment. Raises OSError when that is gone."""
        said = json.loads(message)
        assert said.pop("part") == 1, "ranks of one server are of one version"
        address = said.pop("segment")
        lists = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
        part = Part(**said | lists)
        return part, Segment(len(part.heads), address)

    def group(self, segment: Segment, give_up: GiveUp) -> ShmGroup:
        """This rank's end of it; `give_up` says when a late rank is waited for no longer."""
        return ShmGroup(segment, range(len(self.heads)), self.rank, give_up=give_up)


def bind(cores: tuple[int, ...]) -> None:
    """Let this thread, and those it starts, run on these cores only, with memory near them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
        prefer_memory_of(nodes_near(cores))
    torch.set_num_threads(len(cores))


def shares_of(folder: Path, heads: tuple[int, ...], experts: tuple[int, ...]) -> tuple[Share, ...]:
    """How the model in a folder is cut. Raises BadShares, and what load.load raises for the folder."""
    return cut(spec_of(folder), heads, grain(folder), experts or None)


def open_rank(part: Part, ranks: Ranks) -> tuple[Runner, int]:
    """Load one rank; its runner and the bytes of its weights. Raises NotLowered and what load.load raises."""
    if ops.find("engine_run") is None:
        raise NotLowered("this machine has no native engine (danlu doctor says why)")
    folder = Path(part.folder)
    spec, shares, dtype = spec_of(folder), shares_of(folder, part.heads, part.experts), DTYPES[part.dtype]
    program = lower(spec, shares[part.rank])
    if part.large:
        weights = moved(folder, dtype, shares, part.rank, stay=("embed.weight",))
    else:
        weights = mapped(folder, dtype, shares, part.rank)
    kv = Paged(spec, part.pages, dtype=KV_DTYPES[part.kv], share=shares[part.rank])
    size = sum(weight.nbytes for name, weight in weights.items() if name != "embed.weight")
    return Runner(program, weights, kv.cache, precision=part.precision, ranks=ranks), size
