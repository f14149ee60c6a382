"""Mistral: Llama with a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.families import _hf
from danlu.nouns import ModelSpec

KIND = _hf.Kind(
    "mistral", "MistralForCausalLM",
    {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
    windows="plain",
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
