"""Model folders and GGUF files with their bytes changed, their numbers turned to lies or their ends cut off.

What survives the loaders runs in the native engine, from copies that end where their memory does: whatever reads beyond
one is seen by a sanitizer. `python damaged.py FOLDER SECONDS SEED` goes on for so long.
"""

from __future__ import annotations

import random
import re
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from test_program import SPECS, cache, decoder, say, sequence

from danlu import gguf
from danlu.errors import DanluError
from danlu.kernels.interpret import Weight
from danlu.kernels.lower import lower
from danlu.kernels.runner import Runner
from danlu.model import gguf as gguf_model
from danlu.model.export import export
from danlu.model.load import load, parameters, spec_of
from danlu.model.mapped import mapped
from danlu.model.quantize import Recipe, quantize

LIES = (0, 1, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
Attempt = Callable[[random.Random], None]


def bytes_changed(whole: bytes, rng: random.Random, head: int) -> bytes:
    """Some bytes of the head or of anywhere are others, and now and then the end is gone."""
    found = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        found[rng.randrange(head if rng.random() < 0.5 else len(found))] = rng.randrange(256)
    return bytes(found[: rng.randrange(len(found)) if rng.random() < 0.2 else len(found)])


def number_changed(text: str, rng: random.Random) -> str:
    """One number of a JSON text is a lie, or another number of the same text."""
    places = list(re.finditer(r"(?<![\w\".])-?\d+(?:\.\d+)?", text))
    place = rng.choice(places)
    lie = str(rng.choice([*LIES, -1, -(2**63), 0.5, rng.choice(places).group()]))
    return text[: place.start()] + lie + text[place.end() :]


def header_changed(whole: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header is well formed and lies once or twice."""
    size = struct.unpack_from("<Q", whole)[0]
    text = whole[8 : 8 + size].decode()
    for _ in range(rng.randint(1, 2)):
        text = number_changed(text, rng)
    return struct.pack("<Q", len(text.encode())) + text.encode() + whole[8 + size :]


def field_changed(whole: bytes, rng: random.Random) -> bytes:
    """A GGUF file with one of the numbers of its first bytes a lie."""
    code, mask = rng.choice([("<I", 2**32 - 1), ("<Q", 2**64 - 1)])
    found, at = bytearray(whole), rng.randrange(4, min(len(whole), 6000))
    struct.pack_into(code, found, at, rng.choice(LIES) & mask)
    return bytes(found)


def of_folder(home: Path, family: str) -> Attempt:
    """A try with a quantized folder of that family: its weights' file or its config is damaged."""
    made = decoder(replace(SPECS[family], hidden=64))
    folder = home / f"{family}-small"
    export(dict(made.named_parameters()), made.spec, home / family)
    quantize(home / family, folder, recipe=Recipe(eight=("embed", f"{made.spec.recipe[0]}.v", "head")))
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, said = weights.read_bytes(), config.read_text()

    def attempt(rng: random.Random) -> None:
        way = rng.randrange(3)
        weights.write_bytes((bytes_changed(whole, rng, 3000), header_changed(whole, rng), whole)[way])
        config.write_text(number_changed(said, rng) if way == 2 else said)
        found, spec = mapped(folder, torch.float32), spec_of(folder)
        decoded = load(folder)
        assert decoded.spec == spec
        if spec.vocab >= 97 and spec.params < 1 << 22:
            run = Runner(lower(spec), {name: alone(weight) for name, weight in found.items()}, cache(spec))
            say(run, (sequence(9, 8), [3, 1, 2, 0], 0, 9))

    return attempt


def of_gguf(home: Path) -> Attempt:
    """A try with a damaged GGUF file: read, and its tensors unpacked."""
    file = home / "model.gguf"
    export(dict(decoder(SPECS["qwen3"]).named_parameters()), SPECS["qwen3"], home / "whole")
    spec, tensors = parameters(home / "whole")
    gguf_model.write(tensors, spec, file, "Q8_0", {"tokenizer.ggml.tokens": ["a", "b"]})
    whole = file.read_bytes()

    def attempt(rng: random.Random) -> None:
        file.write_bytes(bytes_changed(whole, rng, 3000) if rng.random() < 0.4 else field_changed(whole, rng))
        found = gguf.read(file)
        spec = gguf_model.spec_of(found, "file")
        for later in gguf_model.sources(found, spec, torch.float32, "file").values():
            later.read()

    return attempt


def alone(weight: Weight) -> Weight:
    """A copy in memory of its own."""
    return weight.clone() if isinstance(weight, torch.Tensor) else weight.each(torch.clone)


def run_all(home: Path, seconds: float, seed: int) -> Counter[str]:
    """How many tries were refused, by the code of the error, and how many ran to the end ("ran").

    seconds  of this process on its cores: a busy machine makes no fewer tries
    """
    tries = [of_folder(home, family) for family in ("qwen3", "qwen2_moe", "yuan")] + [of_gguf(home)]
    counts: Counter[str] = Counter()
    end = time.process_time() + seconds
    while time.process_time() < end:
        each, seed = tries[seed % len(tries)], seed + 1
        try:
            each(random.Random(seed))
            counts["ran"] += 1
        except DanluError as error:
            counts[error.code] += 1
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
    return counts


if __name__ == "__main__":
    print(dict(run_all(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
