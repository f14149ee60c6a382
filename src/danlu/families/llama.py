"""Llama 1, 2, 3 and 3.x, and everything that calls itself llama (Yi, TinyLlama, SmolLM, DeepSeek dense, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.families import _hf
from danlu.nouns import ModelSpec

KIND = _hf.Kind(
    "llama", "LlamaForCausalLM",
    {"max_position_embeddings": 2048},
    biases="switch",
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
