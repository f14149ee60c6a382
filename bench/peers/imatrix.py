"""llama.cpp's importance matrix: mean squares of what every matrix multiplies; llama-quantize weighs errors by them.

Written in the older of the two forms that its loader reads (common/imatrix-loader.cpp); made from our own decoder, for
llama-imatrix would need the model's tokenizer in GGUF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from danlu.model import gguf
from danlu.model.net import Causal, Decoder, Linear


def write(path: Path, decoder: Decoder, batches: Iterable[npt.NDArray[np.int64]]) -> None:
    """Run the decoder over tokens, int64 (batch, seq) each, and write what its layers' matrices saw."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, x: Tensor) -> None:
        seen.setdefault(name, []).append(x.detach().float().square().reshape(-1, x.shape[-1]).mean(0))

    hooks = [
        module.register_forward_pre_hook(lambda module, given, name=name: note(name, given[0]))
        for name, module in decoder.named_modules()
        if isinstance(module, Linear) and name.startswith("layers.")
    ]
    for batch in batches:
        state = Causal(*batch.shape)
        with torch.inference_mode():
            decoder(torch.from_numpy(batch).flatten(), state, state.meta())
    for hook in hooks:
        hook.remove()
    theirs = {ours: name for name, each in gguf.stored(decoder.spec).items() for ours in each.ours}
    with path.open("wb") as out:
        out.write(struct.pack("<i", len(seen)))
        for name, squares in seen.items():
            said, values = theirs[f"{name}.weight"].encode(), torch.stack(squares).mean(0)
            out.write(struct.pack(f"<i{len(said)}sii", len(said), said, 1, values.numel()) + values.numpy().tobytes())
