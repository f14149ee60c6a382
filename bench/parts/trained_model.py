"""A small Llama trained here on the Python library's own sources, for random weights have no quality.

Its widths hold whole blocks of 256, so that every number format of llama.cpp fits it. Training takes minutes, so the
model stays in .peers under a name made of all that it follows from; the text that judges it is of files it never saw.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
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

SPEC = ModelSpec("llama", 8, 256, 4, 2, 64, 768, 1024, 512)
SEQ, BATCH, STEPS, LR = 128, 4, 1000, 3e-3
HELD = 10  # of so many files one is held out
KEPT = Path(__file__).parents[2] / ".peers"


def trained() -> tuple[Path, npt.NDArray[np.int64]]:
    """The folder of the model in bf16, and the tokens that were held out; trained first where it is not kept yet."""
    said = f"{SPEC} {SEQ} {BATCH} {STEPS} {LR} {HELD} {sys.version} {torch.__version__}"
    home = KEPT / f"trained-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    if not (home / "model").exists():
        home.mkdir(parents=True, exist_ok=True)
        seen, held = tokens()
        np.save(home / "held.npy", held)
        with torch.inference_mode(False), torch.enable_grad():
            decoder = learnt(torch.from_numpy(seen))
        export({name: p.detach().bfloat16() for name, p in decoder.named_parameters()}, SPEC, home / "model")
    return home / "model", np.load(home / "held.npy")


def tokens() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The library's modules as tokens, one after the other: those to learn from, those held out."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    seen = [text for i, text in enumerate(texts) if i % HELD]
    tokenizer = bpe.train(seen, SPEC.vocab)
    each = [np.concatenate([np.asarray(found.ids, dtype=np.int64) for found in tokenizer.encode_batch(part)])
            for part in (seen, texts[::HELD])]  # fmt: skip
    return each[0], each[1]


def learnt(ids: torch.Tensor) -> Decoder:
    """The decoder after STEPS steps of AdamW on random windows of these tokens."""
    decoder, state, line = Decoder(SPEC), Causal(BATCH, SEQ), Progress("train")
    init(decoder, 0)
    adam = torch.optim.AdamW(decoder.parameters(), LR, weight_decay=0.1, fused=True)
    falls = torch.optim.lr_scheduler.OneCycleLR(adam, LR, total_steps=STEPS, pct_start=0.1)
    places, mean = torch.Generator().manual_seed(0), 0.0
    for step in range(STEPS):
        begins = torch.randint(len(ids) - SEQ, (BATCH, 1), generator=places)
        rows = ids[begins + torch.arange(SEQ + 1)]
        loss = F.cross_entropy(decoder(rows[:, :-1].flatten(), state, state.meta()), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        adam.step()
        falls.step()
        adam.zero_grad()
        mean += (float(loss.detach()) - mean) * max(0.02, 1 / (step + 1))
        line.show(f"step {step + 1} of {STEPS}, loss {mean:.3f}")
    line.done(f"{SPEC.params / 1e6:.1f} M parameters, {STEPS * BATCH * SEQ:,} tokens, loss {mean:.3f}")
    return decoder


def windows(held: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """That many sequences from random places of the held-out tokens, (count, SEQ + 1)."""
    begins = np.random.default_rng(seed).integers(0, len(held) - SEQ, (count, 1))
    return held[begins + np.arange(SEQ + 1)]
