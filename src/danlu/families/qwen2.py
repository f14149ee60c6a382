"""Qwen2 and Qwen2.5: Llama with biases on q, k and v."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.families import _hf
from danlu.nouns import ModelSpec

KIND = _hf.Kind(
    "qwen2", "Qwen2ForCausalLM",
    {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    biases="qkv", windows="switch",
)  # fmt: skip


def spec(given: Mapping[str, Any]) -> ModelSpec:
    """ModelSpec of a config.json; see _hf.spec."""
    return _hf.spec(KIND, given)


def config(spec: ModelSpec) -> dict[str, Any]:
    """config.json of a spec; see _hf.config."""
    return _hf.config(KIND, spec)


def names(spec: ModelSpec) -> dict[str, str]:
    """Our parameter name -> the one in the file."""
    return _hf.names(spec)
