"""A small Llama trained here, in about a minute, on this checkout's own text, for random weights have no quality.

Its widths hold whole blocks of 256, so that every number format of llama.cpp fits it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from danlu.cli.output import Progress
from danlu.data import bpe
from danlu.model.export import export
from danlu.model.net import Decoder, init
from danlu.model.state import Causal
from danlu.nouns import ModelSpec

SPEC = ModelSpec("llama", 6, 256, 4, 2, 64, 768, 1024, 512)
SEQ, BATCH, STEPS, LR = 128, 8, 200, 3e-3
SCORED = 48  # held-out sequences: 6 144 tokens


def texts() -> list[str]:
    """The documents: every page and source of this checkout, in a fixed order."""
    root = Path(__file__).parents[2]
    paths = sorted(path for pattern in ("*.md", "docs/*.md", "src/**/*.py", "csrc/**/*.cpp", "tests/**/*.py")
                   for path in root.glob(pattern))  # fmt: skip
    return [path.read_text(encoding="utf-8") for path in paths]


def train(folder: Path) -> list[npt.NDArray[np.int64]]:
    """Write the model to `folder` in bf16; returns held-out sequences, (1, SEQ + 1) each."""
    documents = texts()
    tokenizer = bpe.train(documents, SPEC.vocab)
    ids = np.concatenate([np.asarray(each.ids, dtype=np.int64) for each in tokenizer.encode_batch(documents)])
    windows = torch.from_numpy(ids[: len(ids) // SEQ * SEQ]).unfold(0, SEQ + 1, SEQ)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    held, seen = windows[order[:SCORED]], windows[order[SCORED:]]
    decoder, state, line = Decoder(SPEC), Causal(BATCH, SEQ), Progress("train")
    init(decoder, 0)
    adam = torch.optim.AdamW(decoder.parameters(), LR, weight_decay=0.1)
    falls = torch.optim.lr_scheduler.OneCycleLR(adam, LR, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        rows = seen[torch.arange(step * BATCH, (step + 1) * BATCH) % len(seen)]
        with torch.inference_mode(False), torch.enable_grad():
            loss = F.cross_entropy(decoder(rows[:, :-1].flatten(), state, state.meta()), rows[:, 1:].flatten())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        adam.step()
        falls.step()
        adam.zero_grad()
        line.show(f"step {step + 1} of {STEPS}, loss {float(loss.detach()):.3f}")
    line.done(f"{SPEC.params / 1e6:.1f} M parameters, loss {float(loss.detach()):.3f}")
    export({name: each.detach().bfloat16() for name, each in decoder.named_parameters()}, SPEC, folder)
    return [row[None].numpy() for row in held]
