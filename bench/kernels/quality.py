"""What formats cost, ours and llama.cpp's, on a model trained here; and the speed of ours at Q4_K_M's quality.

llama.cpp's files are written by `danlu convert`'s writer, made small by llama-quantize and read back by the reader of
`danlu convert`: our own scorer sees the same tokens for every format.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from danlu import gguf
from danlu.cli import bench
from danlu.cli.output import table
from danlu.model import gguf as gguf_model
from danlu.model import load
from danlu.model.export import export
from danlu.model.net import Decoder
from danlu.model.quantize import Recipe, quantize
from danlu.model.score import Apart, apart

TRAINED, PEER, MODELS = (
    bench.load(name) for name in ("parts/trained_model", "peers/llama_bench", "parts/random_model")
)
HEAD = ("head", "embed")
RECIPES = {
    "nf4": Recipe("nf4", False, HEAD),
    "nf4, search": Recipe("nf4", True, HEAD),
    "fitted, search": Recipe("fitted", True, HEAD),
    "fitted, search, v 8 bits": Recipe("fitted", True, (*HEAD, "attn.v")),
    "fitted, search, v k 8 bits": Recipe("fitted", True, (*HEAD, "attn.v", "attn.k")),
    "fitted, search, v o 8 bits": Recipe("fitted", True, (*HEAD, "attn.v", "attn.o")),
    "fitted, search, v down 8 bits": Recipe("fitted", True, (*HEAD, "attn.v", "mlp.down")),
    "int8": Recipe("fitted", True, ("",)),
}
THEIRS = ("Q4_0", "IQ4_NL", "Q4_K_M")
DECODED = 24  # tokens of a timing


def measure(rounds: int) -> dict[str, Any]:
    """Keys: ppl_bf16, ppl_nf4, kl_nf4, kl.NAME; with the peers built kl_q4km, recipe_q4km, decode_vs_q4km_equal_kl."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        held = TRAINED.train(home / "bf16")
        found = {name: _ours(home, recipe, held) for name, recipe in RECIPES.items()}
        if (PEER.BUILD / "llama-quantize").exists():
            found |= {name: _theirs(home, name, held) for name in THEIRS}
    rows = [["bf16", "16.000", f"{found['nf4'][1].first:.4f}", "0"]]
    rows += [[name, f"{bits:.3f}", f"{seen.second:.4f}", f"{seen.kl:.6f}"] for name, (bits, seen) in found.items()]
    print(table([f"{TRAINED.SPEC.params / 1e6:.1f} M parameters", "bits, whole model", "perplexity", "KL, nats"], rows))
    keys: dict[str, Any] = {f"kl.{name}": seen.kl for name, (_, seen) in found.items()}
    keys |= {"ppl_bf16": found["nf4"][1].first, "ppl_nf4": found["nf4"][1].second, "kl_nf4": found["nf4"][1].kl}
    if "Q4_K_M" in found:
        most = found["Q4_K_M"][1].kl
        name = min((name for name in RECIPES if found[name][1].kl <= most), key=lambda name: found[name][0])
        keys |= {"kl_q4km": most, "recipe_q4km": name, "decode_vs_q4km_equal_kl": _speed(RECIPES[name], rounds)}
        print(f"\n{name} is the smallest of ours whose KL is no worse than Q4_K_M's; 1.1B shape, decode: "
              f"{keys['decode_vs_q4km_equal_kl']:.2f} x llama.cpp's Q4_K_M")  # fmt: skip
    return keys


def _ours(home: Path, recipe: Recipe, held: list[npt.NDArray[np.int64]]) -> tuple[float, Apart]:
    """Bits of a weight over the whole model, and how far it is from bf16."""
    report = quantize(home / "bf16", home / "small", recipe=recipe)
    return report.file_bits_per_weight, _apart(home, load.load(home / "small"), held)


def _theirs(home: Path, kind: str, held: list[npt.NDArray[np.int64]]) -> tuple[float, Apart]:
    whole, small = home / "whole.gguf", home / f"{kind}.gguf"
    if not whole.exists():
        spec, tensors = load.parameters(home / "bf16")
        gguf_model.write(tensors, spec, whole, "BF16", {"tokenizer.ggml.model": "none"})
    argv = [PEER.BUILD / "llama-quantize", whole, small, kind, "2"]
    subprocess.run([str(each) for each in argv], check=True, capture_output=True, timeout=120)
    file = gguf.read(small)
    spec = gguf_model.spec_of(file, str(small))
    export(gguf_model.sources(file, spec, torch.float32, str(small)), spec, home / "back")
    return small.stat().st_size * 8 / spec.params, _apart(home, load.load(home / "back"), held)


def _apart(home: Path, small: Decoder, held: list[npt.NDArray[np.int64]]) -> Apart:
    return apart(load.load(home / "bf16"), small, (np.concatenate(held[i : i + 8]) for i in range(0, len(held), 8)))


def _speed(recipe: Recipe, rounds: int) -> float:
    """Decode of the 1.1B shape by this recipe over llama.cpp's Q4_K_M of it, in turn; the median ratio."""
    spec, threads = MODELS.SHAPES["llama-1.1b"], torch.get_num_threads()
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        model, file = MODELS.Model(spec, tokens=DECODED, recipe=recipe), Path(place) / "q4_k_m.gguf"
        PEER.write(file, spec, PEER.q4_k_m(spec))
        pair: tuple[Callable[[], float], ...] = (
            lambda: DECODED / model.decode(DECODED), lambda: PEER.speed(file, threads, tokens=DECODED))  # fmt: skip
        seen = [[run() for run in pair] for _ in range(rounds + 1)][1:]
    rows = [[name, *(f"{each:.2f}" for each in (statistics.median(column), min(column), max(column)))]
            for name, column in zip(("ours", "llama.cpp Q4_K_M"), zip(*seen, strict=True), strict=True)]  # fmt: skip
    print(f"\n{table(['decode, 1.1B shape, tokens/s', 'median', 'least', 'most'], rows)}")
    return statistics.median(ours / theirs for ours, theirs in seen)
