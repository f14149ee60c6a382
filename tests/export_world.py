"""What a child process of the export tests runs; light at import, for a child starts for every test."""

from __future__ import annotations

import resource
from pathlib import Path

import torch
from provoke import provoke

from danlu.families import shapes
from danlu.model.export import export
from danlu.nouns import ModelSpec

SPEC = ModelSpec("qwen2", 2, 128, 4, 2, 32, 256, 4096, 64, qkv_bias=True)


def export_zeros(out: Path) -> None:
    """A model of 5 MB."""
    export({name: torch.zeros(shape) for name, shape in shapes(SPEC).items()}, SPEC, out)


def export_for_ever(out: Path) -> None:
    while True:
        export_zeros(out)


def export_in_a_limit(out: Path) -> None:
    """Where a file may not grow beyond a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    with provoke("DL-MEM-002"):
        export_zeros(out)
