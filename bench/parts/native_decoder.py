"""A folder in the native engine, called as a decoder is: its logits of whole sequences, in the precision of decode."""

from __future__ import annotations

from pathlib import Path

import torch

from danlu.kernels.linear import Precision
from danlu.kernels.lower import lower
from danlu.kernels.runner import Runner
from danlu.kernels.step import Cache, Piece, Step
from danlu.model.load import spec_of
from danlu.model.mapped import mapped
from danlu.model.state import Causal, Meta
from danlu.serve.kv import edge_widths

PAGE = 16


class NativeDecoder:
    """Logits of `batch` sequences of `seq` tokens, keys and values in bf16."""

    def __init__(self, folder: Path, batch: int, seq: int, precision: Precision = "int8") -> None:
        spec, self._each = spec_of(folder), -(-seq // PAGE)
        pages = batch * self._each
        shape = (pages * PAGE, spec.kv_heads, spec.head_dim)
        kv = [tuple(torch.zeros(shape, dtype=torch.bfloat16) for _ in range(2)) for _ in range(spec.layers)]
        edges = [[torch.zeros(pages, width, dtype=torch.bfloat16) for width in edge_widths(spec)]
                 for _ in range(spec.layers)]  # fmt: skip
        self._runner = Runner(lower(spec), mapped(folder, torch.float32), Cache(kv, PAGE, edges), precision=precision)

    def __call__(self, ids_T: torch.Tensor, state: Causal, meta: Meta) -> torch.Tensor:
        """Logits behind every token, (T, V)."""
        pieces = [Piece(range(i * self._each, (i + 1) * self._each), 0, state.seq) for i in range(state.batch)]
        return self._runner.run(Step(ids_T.tolist(), pieces, range(len(ids_T)))).clone()
