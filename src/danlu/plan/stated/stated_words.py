"""Words for one thing: precisions, frameworks, recomputation and attention as publications call them."""

from __future__ import annotations

import re

PRECISIONS = {
    "bf16": ("bf16", "bfloat16"), "fp16": ("fp16", "float16", "half"), "fp32": ("fp32", "float32", "tf32", "single"),
    "fp8": ("fp8", "float8", "mxfp8", "e4m3", "e5m2"),
}  # fmt: skip
FRAMEWORKS = ("torchtitan", "DeepSpeed")
# Megatron's kernels, schedule and habits under other names.
OF_MEGATRON = ("megatron", "mcore", "nemo", "megascale", "mindspeed")
UNFUSED = ("unfused", "eager", "math", "naive", "standard", "vanilla")
KERNELS = {1: ("flash1", "flashattention1", "triton"), 3: ("flash3", "flashattention3", "cudnn")}
RECOMPUTE = {
    "none": ("none", "no", "0", "false", "off"), "selective": ("selective", "sel"),
    "full": ("full", "yes", "1", "true", "on", "block", "uniform", "all"),
}  # fmt: skip
FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def precision(text: str) -> str:
    """fp8, fp16, bf16 or fp32, as in "FP8 (mixed)" or "bfloat16"; bf16 where nothing is said. Raises ValueError."""
    return _one_of("precision", text, PRECISIONS, "bf16")


def recompute(text: str, software: str) -> str:
    """none, selective or full; where nothing is said, the habit of the software. Raises ValueError."""
    return _one_of("recompute", text, RECOMPUTE, "selective" if software == "torchtitan" else "none")


def software(text: str) -> str:
    """The framework by the name that the cost model knows; what it does not know stays as it is."""
    plain = _plain(text)
    if any(name in plain for name in OF_MEGATRON):
        return "Megatron-DeepSpeed" if "deepspeed" in plain else "Megatron-LM"
    return next((name for name in FRAMEWORKS if name.casefold() in plain), text) or "Megatron-LM"


def unfused(text: str) -> bool:
    """Whether attention writes its scores to memory; fused where nothing is said, or a name nobody has for unfused."""
    return _plain(text) in UNFUSED


def generation(text: str) -> int:
    """Of fused attention's kernel, as in "flash3"; 2 where nothing is said."""
    plain = _plain(text)
    return next((key for key, words in KERNELS.items() if plain in words), 2)


def flag(name: str, text: str) -> bool:
    """0 or 1, no or yes; 0 where nothing is said. Raises ValueError."""
    plain = text.strip().casefold().removesuffix(".0")
    if plain and plain not in FLAGS:
        raise ValueError(f"{name} is {text!r}, not 0 or 1")
    return FLAGS.get(plain, False)


def overlap(text: str) -> tuple[bool, bool]:
    """Whether tensor-parallel messages of both passes, and whether only those of the backward, run beside matmuls."""
    back = _plain(text) == "backward"
    return (not back and flag("overlap_tp", text)), back


def _one_of(name: str, text: str, words: dict[str, tuple[str, ...]], default: str) -> str:
    """The key one of whose words the text begins with."""
    plain = _plain(text)
    if not plain:
        return default
    for key, known in words.items():
        if any(plain == word or (len(word) > 2 and plain.startswith(word)) for word in known):
            return key
    raise ValueError(f"{name} is {text!r}; there are {', '.join(words)}")


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).casefold()
