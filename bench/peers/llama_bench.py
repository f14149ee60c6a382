"""llama.cpp end to end: a GGUF file of random weights in any shape, timed by llama.cpp's own llama-bench.

The programs are built once by `danlu bench kernels --peers` into .peers/llama.cpp.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from danlu.cli.bench import load
from danlu.nouns import ModelSpec

MODELS = load("parts/random_model")
BUILD = Path(__file__).parents[2] / ".peers" / "llama.cpp" / "build" / "bin"
F32, U32, STRING = 6, 4, 8  # types of a GGUF value
FLOATS, Q4_0, Q4_K, Q6_K, IQ4_NL = 0, 2, 12, 14, 20  # types of a GGUF tensor
# Weights and bytes of a block, and at which bytes its fp16 scales stand.
BLOCKS = {Q4_0: (32, 18, (0,)), IQ4_NL: (32, 18, (0,)), Q4_K: (256, 144, (0, 2)), Q6_K: (256, 210, (208,))}
ALIGN = 32


def there() -> bool:
    """Whether the programs were built."""
    return (BUILD / "llama-bench").exists()


def q4_k_m(spec: ModelSpec) -> Callable[[str], int]:
    """The type that llama-quantize's Q4_K_M gives a matrix by its name (llama-quant.cpp): some in 6 bits."""

    def kind(name: str) -> int:
        parts = name.split(".")
        if parts[0] == "output":
            return Q6_K
        if parts[0] != "blk" or parts[2] not in ("attn_v", "ffn_down"):
            return Q4_K
        layer, eighth = int(parts[1]), spec.layers // 8
        more = layer < eighth or layer >= 7 * spec.layers // 8 or (layer - eighth) % 3 == 2
        return Q6_K if more else Q4_K

    return kind


def write(path: Path, spec: ModelSpec, kind: int | Callable[[str], int]) -> None:
    """A GGUF file of a Llama or Qwen3-MoE of random weights.

    kind  type of every matrix (as `--pure` makes it), or what gives it by name
    """
    by = kind if callable(kind) else lambda name: kind
    tensors = [(name, shape, FLOATS if of == FLOATS else by(name)) for name, shape, of in _tensors(spec, Q4_0)]
    with path.open("wb") as out:
        values = _values(spec)
        out.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values)))
        for key, value in values.items():
            _put_text(out, key)
            _put_value(out, value)
        offset = 0
        for name, shape, of in tensors:
            _put_text(out, name)
            out.write(struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, of, offset))
            offset += -(-_size(shape, of) // ALIGN) * ALIGN
        for _, shape, of in tensors:
            out.write(bytes(-out.tell() % ALIGN))
            _put_random(out, shape, of)
        out.write(bytes(-out.tell() % ALIGN))


def _values(spec: ModelSpec) -> dict[str, Any]:
    arch = "qwen3moe" if spec.experts else "llama"
    said: dict[str, Any] = {
        "block_count": spec.layers, "context_length": spec.positions, "embedding_length": spec.hidden,
        "feed_forward_length": spec.ffn, "attention.head_count": spec.heads,
        "attention.head_count_kv": spec.kv_heads, "attention.key_length": spec.head_dim,
        "attention.value_length": spec.head_dim, "attention.layer_norm_rms_epsilon": spec.norm_eps,
        "rope.freq_base": spec.rope_theta, "rope.dimension_count": spec.head_dim, "vocab_size": spec.vocab,
    }  # fmt: skip
    if spec.experts:
        said |= {"expert_count": spec.experts, "expert_used_count": spec.experts_used,
                 "expert_feed_forward_length": spec.ffn}  # fmt: skip
    named = {f"{arch}.{key}": value for key, value in said.items()}
    return {"general.architecture": arch, "tokenizer.ggml.model": "none", **named}


def _tensors(spec: ModelSpec, kind: int) -> Any:
    q, kv, width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.hidden
    yield "token_embd.weight", (width, spec.vocab), kind
    for i in range(spec.layers):
        yield f"blk.{i}.attn_norm.weight", (width,), FLOATS
        for name, shape in (("attn_q", (width, q)), ("attn_k", (width, kv)), ("attn_v", (width, kv)),
                            ("attn_output", (q, width))):  # fmt: skip
            yield f"blk.{i}.{name}.weight", shape, kind
        if spec.qk_norm:
            for name in ("attn_q_norm", "attn_k_norm"):
                yield f"blk.{i}.{name}.weight", (spec.head_dim,), FLOATS
        yield f"blk.{i}.ffn_norm.weight", (width,), FLOATS
        many = (spec.experts,) if spec.experts else ()
        end = "_exps" if many else ""
        if many:
            yield f"blk.{i}.ffn_gate_inp.weight", (width, spec.experts), FLOATS
        for name, shape in (("ffn_gate", (width, spec.ffn)), ("ffn_up", (width, spec.ffn)),
                            ("ffn_down", (spec.ffn, width))):  # fmt: skip
            yield f"blk.{i}.{name}{end}.weight", (*shape, *many), kind
    yield "output_norm.weight", (width,), FLOATS
    yield "output.weight", (width, spec.vocab), kind


def _size(shape: tuple[int, ...], of: int) -> int:
    count = torch.Size(shape).numel()
    return 4 * count if of == FLOATS else count // BLOCKS[of][0] * BLOCKS[of][1]


def _put_random(out: BinaryIO, shape: tuple[int, ...], of: int) -> None:
    """Ones for a norm, small random numbers for a router, random codes under one scale for a matrix."""
    count = torch.Size(shape).numel()
    if of == FLOATS:
        floats = torch.ones(count) if len(shape) == 1 else torch.randn(count) * 0.02
        out.write(floats.numpy().tobytes())
        return
    width, size, places = BLOCKS[of]
    greatest = {Q4_0: 8, IQ4_NL: 127, Q4_K: 63 * 16, Q6_K: 127 * 32}[of]
    scale = torch.tensor([shape[0] ** -0.5 / greatest], dtype=torch.float16).view(torch.uint8)
    for start in range(0, count // width, 1 << 20):
        rows = min(1 << 20, count // width - start)
        blocks = MODELS.random_bytes(rows * size).view(rows, size)
        for at in places:
            blocks[:, at : at + 2] = scale
        out.write(blocks.numpy().data)


def _put_text(out: BinaryIO, text: str) -> None:
    out.write(struct.pack("<Q", len(text.encode())) + text.encode())


def _put_value(out: BinaryIO, value: Any) -> None:
    if isinstance(value, str):
        out.write(struct.pack("<I", STRING))
        _put_text(out, value)
    elif isinstance(value, float):
        out.write(struct.pack("<If", F32, value))
    else:
        out.write(struct.pack("<II", U32, value))


def speed(path: Path, threads: int, *, prompt: int = 0, tokens: int = 0) -> float:
    """Tokens per second of a prompt of so many tokens, or of decoding so many after an empty one."""
    argv = [BUILD / "llama-bench", "-m", path, "-t", threads, "-p", prompt, "-n", tokens, "-r", 1, "-o", "json",
            "-ngl", 0]  # fmt: skip
    return float(json.loads(_run(argv))[0]["avg_ts"])


def batch_speed(path: Path, threads: int, sequences: int, tokens: int) -> float:
    """Tokens per second of `sequences` decoded side by side, so many tokens each."""
    argv = [
        BUILD / "llama-batched-bench",
        "-m",
        path,
        "-t",
        threads,
        "-tb",
        threads,
        "-c",
        2048,
        "-b",
        2048,
        "-ub",
        512,
        "-npp",
        16,
        "-ntg",
        tokens,
        "-npl",
        sequences,
        "-ngl",
        0,
        "--output-format",
        "jsonl",
    ]
    last = [line for line in _run(argv).splitlines() if line.startswith("{")][-1]
    return float(json.loads(last)["speed_tg"])


def _run(argv: list[Any]) -> str:
    done = subprocess.run([str(each) for each in argv], capture_output=True, text=True, check=False, timeout=170)
    if done.returncode:
        raise RuntimeError(f"{Path(argv[0]).name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
