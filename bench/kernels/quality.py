"""What formats cost, ours and llama.cpp's, on a model trained here; and the speed of ours at Q4_K_M's quality.

llama.cpp's files are written by `danlu convert`'s writer, made small by llama-quantize and read back by the reader of
`danlu convert`: our own scorer sees the same tokens for every format, random windows of text held out, others in every
run. Ours are scored in the native engine with its 8-bit inputs, as they decode; llama.cpp's by exact products, which
its own 8-bit inputs are not.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu import families, gguf
from danlu.cli import bench
from danlu.cli.output import Progress, table
from danlu.model import gguf as gguf_model
from danlu.model import load
from danlu.model.export import export
from danlu.model.net import Decoder
from danlu.model.quantize import Recipe, quantize
from danlu.model.score import apart
from danlu.nouns import ModelSpec

TRAINED, NATIVE, PEER, IMATRIX, MODELS = (
    bench.load(name)
    for name in (
        "parts/trained_model", "parts/native_decoder", "peers/llama_bench", "peers/imatrix", "parts/random_model"
    )
)  # fmt: skip
HEAD = ("head", "embed")
RECIPES = {
    "nf4": Recipe("nf4", False, HEAD),
    "nf4, search": Recipe("nf4", True, HEAD),
    "fitted, search": Recipe("fitted", True, HEAD),
    "fitted, search, v 8 bits": Recipe("fitted", True, (*HEAD, "attn.v")),
    "fitted, search, v k 8 bits": Recipe("fitted", True, (*HEAD, "attn.v", "attn.k")),
    "fitted, search, v k o 8 bits": Recipe("fitted", True, (*HEAD, "attn.v", "attn.k", "attn.o")),
    "fitted, search, v k down 8 bits": Recipe("fitted", True, (*HEAD, "attn.v", "attn.k", "mlp.down")),
    "int8": Recipe("fitted", True, ("",)),
}
WEIGHED = "Q4_K_M, imatrix"  # by what the matrices multiply; ours know nothing of it
THEIRS = ("Q4_0", "IQ4_NL", "Q4_K_M", WEIGHED)
BATCH, BATCHES = 8, 16  # held-out sequences scored at once, and how often
DECODED = 24  # tokens of a timing


@dataclass(frozen=True, slots=True)
class Cost:
    """What a format takes, in bits of a weight over the whole file, and what it costs on the held-out text."""

    bits: float
    ppl_before: float
    ppl: float
    kl: float
    kl_error: float  # standard error of the mean


def measure(rounds: int) -> dict[str, Any]:
    """Keys: ppl_bf16, ppl_nf4, kl_nf4, kl.NAME; with the peers built kl_q4km, kl_q4km_imatrix, recipe_q4km,
    decode_vs_q4km_equal_kl.
    """
    found = _scored()
    _show(found)
    keys: dict[str, Any] = {f"kl.{name}": cost.kl for name, cost in found.items()}
    keys |= {"ppl_bf16": found["nf4"].ppl_before, "ppl_nf4": found["nf4"].ppl, "kl_nf4": found["nf4"].kl}
    if "Q4_K_M" in found:
        keys |= {"kl_q4km": found["Q4_K_M"].kl, "kl_q4km_imatrix": found[WEIGHED].kl}
        spec, most = MODELS.SHAPES["llama-1.1b"], found["Q4_K_M"].kl
        name = min((name for name in RECIPES if found[name].kl <= most), key=lambda name: _read(spec, RECIPES[name]))
        keys |= {"recipe_q4km": name, "decode_vs_q4km_equal_kl": _speed(RECIPES[name], rounds)}
        print(f"\n{name}: of ours whose KL is no worse than Q4_K_M's the one of which decode reads least, "
              f"{_read(spec, RECIPES[name]) / 1e6:.0f} MB a token of the 1.1B shape; "
              f"decode: {keys['decode_vs_q4km_equal_kl']:.2f} x llama.cpp's Q4_K_M")  # fmt: skip
    return keys


def _scored() -> dict[str, Cost]:
    """What every format costs on text that no other run has seen."""
    folder, tokens = TRAINED.trained()
    seed = int.from_bytes(os.urandom(4), "little")
    seen, unseen = tokens[: len(tokens) // 4], tokens[len(tokens) // 4 :]
    text = TRAINED.windows(unseen, BATCH * BATCHES, seed)
    whole, line, found = load.load(folder), Progress("score"), dict[str, Cost]()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products are small: two threads on a busy machine took eight times as long as one
    try:
        with tempfile.TemporaryDirectory() as place:
            calibration = TRAINED.windows(seen, BATCH * BATCHES, seed)[:, :-1]
            IMATRIX.write(Path(place) / "imatrix", whole, calibration.reshape(BATCHES, BATCH, -1))
            for name in (*RECIPES, *(THEIRS if (PEER.BUILD / "llama-quantize").exists() else ())):
                line.show(name, force=True)
                make = _ours if name in RECIPES else _theirs
                small, bits = make(Path(place), folder, name)
                found[name] = _cost(bits, whole, small, text)
    finally:
        torch.set_num_threads(threads)
    line.done(f"{len(found)} formats, {text.shape[0] * (text.shape[1] - 1):,} tokens, seed {seed}")
    return found


def _ours(place: Path, folder: Path, name: str) -> tuple[Any, float]:
    """A recipe's model as the engine decodes it, and its bits of a weight."""
    report = quantize(folder, place / name, recipe=RECIPES[name])
    return NATIVE.NativeDecoder(place / name, BATCH, TRAINED.SEQ), report.file_bits_per_weight


def _theirs(place: Path, folder: Path, kind: str) -> tuple[Decoder, float]:
    """What llama-quantize makes of the model, unpacked to fp32, and its bits of a weight."""
    whole, small, type_name = place / "whole.gguf", place / "small.gguf", kind.split(",")[0]
    if not whole.exists():
        spec, tensors = load.parameters(folder)
        gguf_model.write(tensors, spec, whole, "BF16", {"tokenizer.ggml.model": "none"})
    weighed = ["--imatrix", place / "imatrix"] if kind == WEIGHED else []
    argv = [PEER.BUILD / "llama-quantize", *weighed, whole, small, type_name, "2"]
    subprocess.run([str(each) for each in argv], check=True, capture_output=True, timeout=120)
    file = gguf.read(small)
    spec = gguf_model.spec_of(file, str(small))
    export(gguf_model.sources(file, spec, torch.float32, str(small)), spec, place / "back")
    return load.load(place / "back"), small.stat().st_size * 8 / spec.params


def _cost(bits: float, whole: Decoder, small: Any, text: Any) -> Cost:
    """What a model made small costs beside the whole one, batch by batch."""
    seen = [apart(whole, small, [text[i : i + BATCH]]) for i in range(0, len(text), BATCH)]
    kl = [each.kl for each in seen]
    ppl = [
        math.exp(statistics.mean(map(math.log, each)))
        for each in zip(*((s.first, s.second) for s in seen), strict=True)
    ]
    return Cost(bits, ppl[0], ppl[1], statistics.mean(kl), statistics.stdev(kl) / math.sqrt(len(kl)))


def _show(found: dict[str, Cost]) -> None:
    before = next(iter(found.values())).ppl_before
    rows = [["bf16", "16.000", f"{before:.4f}", "0", ""]]
    rows += [[name, f"{c.bits:.3f}", f"{c.ppl:.4f}", f"{c.kl:.6f}", f"{c.kl_error:.6f}"] for name, c in found.items()]
    title = f"{TRAINED.SPEC.params / 1e6:.1f} M parameters"
    print(table([title, "bits, whole model", "perplexity", "KL, nats", "+-"], rows))


def _read(spec: ModelSpec, recipe: Recipe) -> float:
    """Bytes of matrices that a token of decode reads: all but the embedding, of which it takes one row."""
    sizes = {name: math.prod(shape) for name, shape in families.shapes(spec).items() if len(shape) == 2}
    return sum(size * recipe.bits(name) * 4.13 / 32 for name, size in sizes.items() if name != "embed.weight")


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
