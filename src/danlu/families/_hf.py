"""Config keys and weight names that Llama and its descendants share; each family's file says what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.errors import BadModel, UnsupportedModel
from danlu.families import shapes
from danlu.nouns import ModelSpec, RopeScaling

NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "head.norm.weight": "model.norm.weight", "head.weight": "lm_head.weight",
    "attn.norm": "input_layernorm", "attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj", "attn.o": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm",
    "mlp.norm": "post_attention_layernorm", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "moe.norm": "post_attention_layernorm", "moe.router": "mlp.gate", "moe.shared_gate": "mlp.shared_expert_gate",
    "moe.shared.gate": "mlp.shared_expert.gate_proj", "moe.shared.up": "mlp.shared_expert.up_proj",
    "moe.shared.down": "mlp.shared_expert.down_proj",
    "moe.experts.N.gate": "mlp.experts.N.gate_proj", "moe.experts.N.up": "mlp.experts.N.up_proj",
    "moe.experts.N.down": "mlp.experts.N.down_proj",
}  # fmt: skip


LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one architecture differs from the others. `defaults` are what transformers assumes for a missing key.

    biases     which linear layers of attention have one: "switch" (attention_bias: q k v o), "qkv" (always),
               "qkv_bias" (q k v, by that key), or "none"
    windows    how a sliding window is written: "none" (the architecture has none), "plain", "switch" (Qwen's
               use_sliding_window with max_window_layers), "alternate" (the same, but where layer_types is missing only
               every other layer has it), or "uniform" (use_sliding_window alone)
    recipe     sub-layers of a layer
    """

    family: str
    architecture: str
    defaults: Mapping[str, Any]
    biases: str = "none"
    windows: str = "none"
    qk_norm: bool = False
    experts: Experts | None = None
    recipe: tuple[str, ...] = ("attn", "mlp")


@dataclass(frozen=True, slots=True)
class Experts:
    """Keys that say how many experts there are and how wide, and what routing does.

    shared  key of the shared expert's width, "" where the architecture has none
    norm    whether weights are scaled to sum to one; None where the key norm_topk_prob says it
    """

    count: str
    width: str
    shared: str = ""
    norm: bool | None = None


def names(spec: ModelSpec, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our parameter name -> the one in the safetensors file; `own` has what a family calls otherwise."""
    called, found = {**NAMES, **(own or {})}, {}
    for ours in shapes(spec):
        if ours in called:
            found[ours] = called[ours]
            continue
        _, layer, *path, leaf = ours.split(".")
        expert = path[2] if path[1] == "experts" else "N"
        theirs = called[".".join(path).replace(f".experts.{expert}.", ".experts.N.")]
        found[ours] = f"model.layers.{layer}.{theirs.replace('.N.', f'.{expert}.')}.{leaf}"
    return found


def spec(kind: Kind, given: Mapping[str, Any]) -> ModelSpec:
    """ModelSpec of a config.json. Raises BadModel for missing or contradictory numbers, UnsupportedModel."""
    config = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, **kind.defaults, **given}
    _refuse(config)
    heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    kv_heads = heads if config.get("num_key_value_heads") is None else _count(config, "num_key_value_heads")
    if heads % kv_heads:
        raise BadModel(
            f"{heads} attention heads over {kv_heads} key-value heads",
            why="each needs the same number",
            fix="correct num_key_value_heads in config.json",
        )
    if config.get("head_dim") is None and hidden % heads:
        raise BadModel(
            f"hidden_size {hidden} over {heads} heads",
            why=f"{hidden} / {heads} is no whole number",
            fix="give head_dim in config.json",
        )
    head_dim = hidden // heads if config.get("head_dim") is None else _count(config, "head_dim")
    if head_dim % 2:
        raise BadModel(
            f"head_dim {head_dim} is odd", why="rotary positions turn pairs", fix="correct head_dim in config.json"
        )
    layers, bias = _count(config, "num_hidden_layers"), bool(config.get("attention_bias", False))
    theta, scaling = _rope(config)
    count, used, ffn, shared, norm = _experts(kind, config, layers)
    return ModelSpec(
        family=kind.family, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        ffn=ffn, vocab=_count(config, "vocab_size"),
        positions=_count(config, "max_position_embeddings"), norm_eps=_positive(config, "rms_norm_eps"),
        rope_theta=theta, rope_scaling=scaling, tied=bool(config["tie_word_embeddings"]),
        qkv_bias=_biased(kind, config), out_bias=kind.biases == "switch" and bias,
        qk_norm=kind.qk_norm, window=_window(kind, config, layers), recipe=kind.recipe, experts=count,
        experts_used=used, shared_ffn=shared, norm_topk=norm,
    )  # fmt: skip


def config(kind: Kind, model: ModelSpec) -> dict[str, Any]:
    """config.json that transformers from 4.56 on reads back as this model. Raises UnsupportedModel if it cannot."""
    said: dict[str, Any] = {
        "architectures": [kind.architecture], "model_type": kind.family, "hidden_act": "silu",
        "hidden_size": model.hidden, "intermediate_size": model.ffn, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads, "head_dim": model.head_dim,
        "vocab_size": model.vocab, "max_position_embeddings": model.positions, "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied, "attention_dropout": 0.0, "rope_theta": model.rope_theta,
        "rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
    }  # fmt: skip
    if (scaling := model.rope_scaling) is not None:
        said["rope_scaling"] = {
            "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high, "original_max_position_embeddings": scaling.original,
        }  # fmt: skip
        said["rope_parameters"] = {**said["rope_scaling"], "rope_theta": model.rope_theta}
    if kind.biases == "switch":
        said["attention_bias"] = model.qkv_bias
    elif kind.biases == "qkv_bias":
        said["qkv_bias"] = model.qkv_bias
    if kind.windows == "plain":
        said["sliding_window"] = model.window
    elif kind.windows == "uniform":
        said |= {"use_sliding_window": model.window is not None, "sliding_window": model.window}
    elif kind.windows in ("switch", "alternate"):
        said |= {"use_sliding_window": model.window is not None, "sliding_window": model.window, "max_window_layers": 0}
        said["layer_types"] = ["full_attention" if model.window is None else "sliding_attention"] * model.layers
    if kind.experts is not None:
        said |= {kind.experts.count: model.experts, "num_experts_per_tok": model.experts_used,
                 kind.experts.width: model.ffn}  # fmt: skip
        if kind.experts.norm is None:
            said |= {"norm_topk_prob": model.norm_topk, "decoder_sparse_step": 1, "mlp_only_layers": []}
        if kind.experts.shared:
            said[kind.experts.shared] = model.shared_ffn
    again = spec(kind, said)
    if again != model:
        differs = [name for name in ModelSpec.__slots__ if getattr(again, name) != getattr(model, name)]
        why = "; ".join(f"{n} is {getattr(model, n)}, it would read {getattr(again, n)}" for n in differs)
        raise UnsupportedModel(
            f"{kind.architecture} cannot hold this model", why=why, fix="export it as another family"
        )
    return said


def _experts(kind: Kind, config: Mapping[str, Any], layers: int) -> tuple[int, int, int, int, bool]:
    """(experts, those used, ffn, width of the shared one, weights scaled to one); zeros for a dense model."""
    if kind.experts is None:
        return 0, 0, _count(config, "intermediate_size"), 0, True
    keys = kind.experts
    dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
    if dense or step != 1:
        raise UnsupportedModel(
            "dense layers between those with experts",
            why=f"mlp_only_layers is {str(dense)[:60]}, decoder_sparse_step is {step!r}; there are {layers} layers",
            fix="use a model whose layers are alike",
        )
    count, used = _count(config, keys.count), _count(config, "num_experts_per_tok")
    if used > count:
        raise BadModel(
            f"{used} experts per token of {count}",
            why="a token cannot use more than there are",
            fix=f"correct num_experts_per_tok or {keys.count} in config.json",
        )
    shared = _count(config, keys.shared) if keys.shared else 0
    norm = bool(config.get("norm_topk_prob", False)) if keys.norm is None else keys.norm
    return count, used, _count(config, keys.width), shared, norm


def _refuse(config: Mapping[str, Any]) -> None:
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


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or from `rope_theta` and `rope_scaling` (before)."""
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(said, Mapping):
        raise BadModel("rope_scaling is no mapping", why=f"it is {said!r}", fix="correct config.json")
    theta = _positive({"rope_theta": said.get("rope_theta", config.get("rope_theta") or 10_000.0)}, "rope_theta")
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
    factor, low, high = (_positive(numbers, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise BadModel(
            f"low_freq_factor {low} is not below high_freq_factor {high}",
            why="llama3 scaling blends between them",
            fix="correct rope_scaling in config.json",
        )
    return theta, RopeScaling(factor, low, high, _count(numbers, "original"))


def _window(kind: Kind, config: Mapping[str, Any], layers: int) -> int | None:
    """Span of the sliding window in tokens if all layers have it, None if none has."""
    if kind.windows == "none" or config.get("sliding_window") is None:
        return None
    if kind.windows != "plain" and not config.get("use_sliding_window"):
        return None
    if kind.windows in ("switch", "alternate"):
        full = _full_layers(kind, config, layers)
        if 0 < full < layers:
            raise UnsupportedModel(
                "full and sliding attention in one model",
                why=f"{full} of {layers} layers are full",
                fix="set use_sliding_window to false if prompts stay below the window",
            )
        if full:
            return None
    return _count(config, "sliding_window")


def _full_layers(kind: Kind, config: Mapping[str, Any], layers: int) -> int:
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
    return layers - (below + 1) // 2 if kind.windows == "alternate" else below


def _biased(kind: Kind, config: Mapping[str, Any]) -> bool:
    """Whether q, k and v have biases."""
    keys = {"switch": ("attention_bias", False), "qkv_bias": ("qkv_bias", True)}
    if kind.biases in keys:
        return bool(config.get(*keys[kind.biases]))
    return kind.biases == "qkv"


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise BadModel(
            f"{key} is {'missing' if value is None else repr(value)}",
            why="it must be a whole number above 0",
            fix=f"give {key} in config.json",
        )
    return value


def _positive(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e300:
        raise BadModel(
            f"{key} is {'missing' if value is None else repr(value)}",
            why="it must be a number above 0",
            fix=f"give {key} in config.json",
        )
    return float(value)
