"""What the keys of a Hugging Face config.json say, checked: counts, experts, rope, windows, biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.errors import BadModel, UnsupportedModel
from danlu.nouns import RopeScaling

LAYER_TYPES = ("full_attention", "sliding_attention")
MOST = 1 << 40  # of any count; far above every model, and products of two stay whole numbers everywhere
MOST_LAYERS = 1 << 12  # what a damaged config.json says must not become names by the billion
MOST_EXPERTS = 1 << 16  # of all layers together


@dataclass(frozen=True, slots=True)
class Experts:
    """Keys that say how many experts there are and how wide, and what routing does.

    also    another key of the count, that later versions of transformers write; "" where there is none
    shared  key of the shared expert's width, "" where the architecture has none
    norm    whether weights are scaled to sum to one; None where the key norm_topk_prob says it
    """

    count: str
    width: str
    also: str = ""
    shared: str = ""
    norm: bool | None = None


def experts(keys: Experts | None, config: Mapping[str, Any], layers: int) -> tuple[int, int, int, int, bool]:
    """(experts, those used, ffn, width of the shared one, weights scaled to one); zeros for a dense model."""
    if keys is None:
        return 0, 0, count(config, "intermediate_size"), 0, True
    dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
    if dense or step != 1:
        raise UnsupportedModel(
            "dense layers between those with experts",
            why=f"mlp_only_layers is {str(dense)[:60]}, decoder_sparse_step is {step!r}; there are {layers} layers",
            fix="use a model whose layers are alike",
        )
    here, used = count(config, keys.count), count(config, "num_experts_per_tok")
    if used > here:
        raise BadModel(
            f"{used} experts per token of {here}",
            why="a token cannot use more than there are",
            fix=f"correct num_experts_per_tok or {keys.count} in config.json",
        )
    if here * layers > MOST_EXPERTS:
        raise BadModel(
            f"{here:,} experts in each of {layers:,} layers",
            why=f"danlu reads up to {MOST_EXPERTS:,} in all",
            fix=f"correct {keys.count} in config.json",
        )
    shared = count(config, keys.shared) if keys.shared else 0
    norm = bool(config.get("norm_topk_prob", False)) if keys.norm is None else keys.norm
    return here, used, count(config, keys.width), shared, norm


def refuse(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedModel for what the decoder does not have, before any number is read."""
    if config.get("quantization_config"):
        said = config["quantization_config"]
        method = said.get("quant_method") if isinstance(said, Mapping) else said
        raise UnsupportedModel(
            f"weights quantized by {method}",
            why="only danlu's own quantized folders are read",
            fix="take the unquantized folder, then: danlu quantize FOLDER OUT",
        )
    if config["hidden_act"] not in ("silu", "swish"):
        raise UnsupportedModel(
            f"activation {config['hidden_act']!r}",
            why="the gated MLP of this family has silu",
            fix="use a model whose hidden_act is silu",
        )
    if config.get("mlp_bias"):
        raise UnsupportedModel("an MLP with biases", why="mlp_bias is true", fix="use a model whose mlp_bias is false")
    if config.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise UnsupportedModel(
            "partial rotary positions",
            why=f"partial_rotary_factor is {config['partial_rotary_factor']}",
            fix="use a model that rotates whole heads",
        )


def rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or from `rope_theta` and `rope_scaling` (before)."""
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(said, Mapping):
        raise BadModel("rope_scaling is no mapping", why=f"it is {said!r}", fix="correct config.json")
    theta = positive({"rope_theta": said.get("rope_theta", config.get("rope_theta") or 10_000.0)}, "rope_theta")
    kind = said.get("rope_type", said.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UnsupportedModel(
            f"rope type {kind!r}",
            why="the decoder has: default, llama3",
            fix="use a model with one of these, or without long-context scaling",
        )
    original = config.get("original_max_position_embeddings") or said.get("original_max_position_embeddings")
    numbers = {**said, "original": original or config.get("max_position_embeddings")}
    factor, low, high = (positive(numbers, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise BadModel(
            f"low_freq_factor {low} is not below high_freq_factor {high}",
            why="llama3 scaling blends between them",
            fix="correct rope_scaling in config.json",
        )
    return theta, RopeScaling(factor, low, high, count(numbers, "original"))


def window(written: str, config: Mapping[str, Any], layers: int) -> int | None:
    """Span of the sliding window in tokens if all layers have it, None if none has."""
    if written == "none" or config.get("sliding_window") is None:
        return None
    if written != "plain" and not config.get("use_sliding_window"):
        return None
    if written in ("switch", "alternate"):
        full = _full_layers(written, config, layers)
        if 0 < full < layers:
            raise UnsupportedModel(
                "full and sliding attention in one model",
                why=f"{full} of {layers} layers are full",
                fix="set use_sliding_window to false if prompts stay below the window",
            )
        if full:
            return None
    return count(config, "sliding_window")


def _full_layers(written: str, config: Mapping[str, Any], layers: int) -> int:
    """How many layers attend to everything: as `layer_types` says, else the first `max_window_layers`.

    Where windows alternate, it is all but every other one of the first `max_window_layers`, as transformers has it.
    """
    types, first = config.get("layer_types"), config.get("max_window_layers")
    if isinstance(types, list) and len(types) == layers and set(map(str, types)) <= set(LAYER_TYPES):
        return types.count("full_attention")
    if types is not None:
        raise BadModel(
            "layer_types does not name every layer",
            why=f"it is {str(types)[:80]}; {layers} of {' or '.join(LAYER_TYPES)} are expected",
            fix="correct layer_types in config.json",
        )
    below = min(first, layers) if isinstance(first, int) else 0
    return layers - (below + 1) // 2 if written == "alternate" else below


def biased(written: str, config: Mapping[str, Any]) -> bool:
    """Whether q, k and v have biases."""
    keys = {"switch": ("attention_bias", False), "qkv_bias": ("qkv_bias", True)}
    if written in keys:
        return bool(config.get(*keys[written]))
    return written == "qkv"


def count(config: Mapping[str, Any], key: str) -> int:
    """A whole number from 1 up to MOST, of layers up to MOST_LAYERS. Raises BadModel."""
    value, most = config.get(key), MOST_LAYERS if key == "num_hidden_layers" else MOST
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise BadModel(
            f"{key} is {'missing' if value is None else repr(value)}",
            why=f"it must be a whole number from 1 to {most:,}",
            fix=f"give {key} in config.json",
        )
    return value


def positive(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e300:
        raise BadModel(
            f"{key} is {'missing' if value is None else repr(value)}",
            why="it must be a number above 0",
            fix=f"give {key} in config.json",
        )
    return float(value)
