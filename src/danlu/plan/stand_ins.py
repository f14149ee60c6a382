"""Decoders that danlu plans but does not run: their config.json as the numbers of a model with the same costs.

The cost of training hangs on few numbers: layers, widths, heads, experts, vocabulary, windows, the ranks of latent
attention. A decoder of attention and MLPs that differs from ours in its norm, positions, activation or biases therefore
stands as a Llama, or a mixture, of as many parameters and products; `notes` say what is not its own. What costs
otherwise (states instead of attention, layers unlike each other but for dense ones first) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from danlu import families, plugins
from danlu.errors import BadModel, UnknownPlugin, UnsupportedModel
from danlu.nouns import Latent, ModelSpec

# What model families call the same number; the first that a config has is read.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "head_dim": ("head_dim", "kv_channels"),
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "seq_length", "n_ctx", "max_seq_len"),
}
GATED = frozenset(
    "llama mistral qwen2 qwen3 aquila baichuan chatglm cohere cohere2 exaone exaone4 gemma gemma2 "
    "gemma3_text glm glm4 granite helium internlm internlm2 internlm3 minicpm minicpm3 ministral olmo olmo2 olmo3 phi3 "
    "qwen2_5_vl qwen2_5_vl_text qwen2_vl qwen2_vl_text qwen3_vl_text seed_oss smollm3 stablelm yi".split()
)
PLAIN = frozenset(  # an MLP of two matrices
    "arcee bloom codegen falcon gpt2 gpt_bigcode gpt_neo gpt_neox gptj mpt nemotron opt persimmon phi starcoder2 "
    "xglm".split()
)
EXPERTS = {  # where the number of experts and their width stand
    "deepseek_v2": ("n_routed_experts", "moe_intermediate_size"),
    "deepseek_v3": ("n_routed_experts", "moe_intermediate_size"),
    "dots1": ("n_routed_experts", "moe_intermediate_size"),
    "ernie4_5_moe": ("moe_num_experts", "moe_intermediate_size"),
    "glm4_moe": ("n_routed_experts", "moe_intermediate_size"),
    "gpt_oss": ("num_local_experts", "intermediate_size"), "granitemoe": ("num_local_experts", "intermediate_size"),
    "kimi_k2": ("n_routed_experts", "moe_intermediate_size"),
    "mixtral": ("num_local_experts", "intermediate_size"), "olmoe": ("num_experts", "intermediate_size"),
    "phimoe": ("num_local_experts", "intermediate_size"), "qwen2_moe": ("num_experts", "moe_intermediate_size"),
    "qwen3_moe": ("num_experts", "moe_intermediate_size"),
    "qwen3_vl_moe_text": ("num_experts", "moe_intermediate_size"),
}  # fmt: skip
TIED = frozenset(  # head and embedding are one where the config is silent
    "bloom cohere cohere2 falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo mpt opt starcoder2 xglm".split()
)
DEFAULTS: Mapping[str, Mapping[str, int]] = {  # what transformers assumes and published configs leave out
    "gemma2": {"head_dim": 256, "num_key_value_heads": 4, "vocab_size": 256_000},
    "gemma3_text": {"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208},
    "gemma": {"head_dim": 256, "vocab_size": 256_000},
    "gpt_oss": {"head_dim": 64},
}
WINDOWS: Mapping[str, tuple[int, int]] = {  # where the config is silent: tokens; one layer of so many attends to all
    "cohere2": (4096, 4), "exaone4": (4096, 4), "gemma2": (4096, 2), "gemma3_text": (4096, 6), "gpt_oss": (128, 2),
    "olmo3": (4096, 4),
}  # fmt: skip
MOST = 1 << 40  # of any count: products of two stay whole numbers everywhere
RANKS = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")  # Latent's, in order
DENSE = ("first_k_dense_replace", "moe_layer_start_index")
SHARED = ("n_shared_experts", "moe_num_shared_experts")
USED = ("num_experts_per_tok", "experts_per_token", "moe_k")


@dataclass(frozen=True, slots=True)
class Read:
    """A model's numbers, and what of them is not its own."""

    spec: ModelSpec
    notes: tuple[str, ...] = ()


def read(config: Mapping[str, Any]) -> Read:
    """The model of a config.json: one that danlu runs, or a stand-in of the same costs.

    Raises BadModel for numbers that are missing or contradict each other, UnsupportedModel for what costs otherwise.
    """
    if isinstance(inner := config.get("text_config"), Mapping):
        found = read(inner)
        return replace(found, notes=(f"of {config.get('model_type')} the text model alone: what it sees and hears with "
                                     "is not planned", *found.notes))  # fmt: skip
    try:
        return Read(families.spec(config))
    except (UnknownPlugin, UnsupportedModel) as error:
        kind = str(config.get("model_type"))
        _refuse(kind, config)
        if kind not in GATED | PLAIN | EXPERTS.keys():
            if isinstance(error, UnsupportedModel):
                raise
            raise UnsupportedModel(
                f"model_type {kind!r} is unknown",
                why=f"danlu plans {', '.join(sorted(GATED | PLAIN | EXPERTS.keys() | set(_ours())))}",
                fix='write "model_type": "llama" into a copy, if it is a decoder of attention and gated MLPs',
            ) from error
        return _stand_in(kind, config, "" if isinstance(error, UnknownPlugin) else error.what)


def runs(spec: ModelSpec) -> bool:
    """Whether danlu has the model's family, so that its norm, positions and activation are known exactly."""
    return spec.family in _ours()


def _ours() -> tuple[str, ...]:
    return plugins.names("danlu.families")


def _refuse(kind: str, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedModel for what no row of attention and MLPs of one kind costs."""
    apart = [name for name in ("mlp_only_layers",) if config.get(name)]
    apart += [name for name in ("interleave_moe_layer_step", "moe_layer_frequency", "moe_layer_freq",
                                "moe_layer_interval", "decoder_sparse_step")
              if config.get(name) not in (None, 1)]  # fmt: skip
    states = next((name for name in config if name.startswith(("ssm_", "mamba_", "state_size"))), kind)
    for there, what in (
        ("index_topk" in config, "index_topk: attention to chosen tokens alone"),
        (bool(config.get("is_encoder_decoder")), "is_encoder_decoder: two stacks of layers"),
        (states != kind or "rwkv" in kind, f"{states}: states instead of attention"),
        (bool(apart), f"{' and '.join(apart)}: dense layers between those with experts"),
        ("cross_attention_layers" in config, "cross_attention_layers: layers unlike the others"),
        (config.get("word_embed_proj_dim", config.get("hidden_size")) != config.get("hidden_size"),
         "word_embed_proj_dim: an embedding of another width"),
    ):  # fmt: skip
        if there:
            fix = "plan a model of as many active parameters, qwen3-235b-a22b for a mixture"
            raise UnsupportedModel(f"a model of {kind} that danlu cannot plan", why=what, fix=fix)


def _stand_in(kind: str, config: Mapping[str, Any], lacks: str) -> Read:
    """The Llama, or the mixture, of the same numbers. Raises BadModel in the words of this config."""
    called = {name: next((each for each in alike if config.get(each) is not None), name)
              for name, alike in ALIASES.items()}  # fmt: skip
    said = {name: config.get(each, DEFAULTS.get(kind, {}).get(name)) for name, each in called.items()}
    said = {name: value for name, value in said.items() if value is not None}
    one_key = config.get("multi_query") and not config.get("new_decoder_architecture")
    if one_key and "num_key_value_heads" not in said:
        said["num_key_value_heads"] = 1
    like = "a mixture" if kind in EXPERTS else "a Llama" if kind in GATED else "a GPT-2"
    same = "layers, widths, heads" + " and ranks of latent attention" * (config.get("kv_lora_rank") is not None)
    notes = [f"danlu train does not run {kind}{f' ({lacks})' if lacks else ''}: planned as {like} of the same {same}"]
    if kind in PLAIN and "intermediate_size" not in said and isinstance(said.get("hidden_size"), int):
        said["intermediate_size"] = 4 * said["hidden_size"]
    ranks = _ranks(config)
    if ranks is not None:
        said["head_dim"] = ranks.value
    numbers = {"model_type": "llama", "tie_word_embeddings": config.get("tie_word_embeddings", kind in TIED), **said}
    if kind in EXPERTS:
        count, width = EXPERTS[kind]
        numbers |= {
            "model_type": "qwen3_moe",
            "num_experts": config.get(count),
            "moe_intermediate_size": config.get(width),
        }
        if "norm_topk_prob" in config:
            numbers["norm_topk_prob"] = config["norm_topk_prob"]
        if used := next((config[each] for each in USED if config.get(each)), None):
            numbers["num_experts_per_tok"] = used
    try:
        spec = families.spec(numbers)
    except BadModel as error:
        raise _renamed(error, called | dict(zip(("num_experts", "moe_intermediate_size"), EXPERTS.get(kind, ()),
                                                strict=False))) from error  # fmt: skip
    window, unwindowed = _windows(kind, config, spec.layers)
    if unwindowed:
        notes.append(f"{unwindowed} of {spec.layers} layers attend to all tokens, the others to {window}: every layer "
                     "costs their mean")  # fmt: skip
    shared, dense, wide = _beside_experts(config, spec)
    spec = replace(spec, family=kind, qk_norm=False, gated=kind not in PLAIN, latent=ranks, window=window,
                   unwindowed=unwindowed, shared_ffn=shared, dense_layers=dense, dense_ffn=wide)  # fmt: skip
    if more := config.get("num_nextn_predict_layers"):
        notes.append(f"num_nextn_predict_layers: {more} more layer and head that predict a later token are not planned")
    return Read(spec, tuple(notes))


def _ranks(config: Mapping[str, Any]) -> Latent | None:
    """The numbers of latent attention; None where there is none. Raises BadModel."""
    if config.get("kv_lora_rank") is None:
        return None
    return Latent(*(_whole(config, name, 0 if name == "q_lora_rank" else 1) for name in RANKS))


def _windows(kind: str, config: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    """(tokens of a window, layers without one); (None, 0) for attention to all. Raises BadModel."""
    usual = WINDOWS.get(kind, (None, 0))
    window = config.get("sliding_window", usual[0])
    if not window or not config.get("use_sliding_window", not kind.startswith("qwen")):
        return None, 0
    window = _whole({"sliding_window": window}, "sliding_window", 1)
    kinds, every = config.get("layer_types"), config.get("sliding_window_pattern", usual[1])
    if isinstance(kinds, list) and kinds:
        whole = sum(each == "full_attention" for each in kinds[:layers])
    elif isinstance(every, str) and every:  # "LLLG": local and global
        whole = sum(every[at % len(every)] == "G" for at in range(layers))
    elif kind.startswith("qwen"):
        whole = min(layers, _whole(config, "max_window_layers", 0))
    else:
        whole = layers // _whole({"sliding_window_pattern": every}, "sliding_window_pattern", 1) if every else 0
    return (None, 0) if whole >= layers else (window, whole)


def _beside_experts(config: Mapping[str, Any], spec: ModelSpec) -> tuple[int, int, int]:
    """Width of the expert that every token passes, dense layers before the mixtures, their width. Raises BadModel."""
    if not spec.experts:
        return 0, 0, 0
    shared = _whole(config, "shared_expert_intermediate_size", 0)
    count = next((_whole(config, each, 0) for each in SHARED if each in config), 0)
    dense = next((_whole(config, each, 0) for each in DENSE if each in config), 0)
    if dense >= spec.layers:
        raise BadModel(f"{dense} dense layers of {spec.layers}", why="none is left with experts",
                       fix=f"correct {next(each for each in DENSE if each in config)} in config.json")  # fmt: skip
    return shared or count * spec.ffn, dense, _whole(config, "intermediate_size", 1) if dense else 0


def _whole(config: Mapping[str, Any], name: str, least: int) -> int:
    """A count of config.json, 0 where there is none. Raises BadModel."""
    value = config.get(name) or 0
    if not isinstance(value, int) or not least <= value < MOST:
        raise BadModel(f"{name} is {config.get(name)!r:.40}", why=f"it must be a whole number, {least} or more",
                       fix=f"correct {name} in config.json")  # fmt: skip
    return int(value)


def _renamed(error: BadModel, called: Mapping[str, str]) -> BadModel:
    """The error with the names that this config has for what it speaks of."""
    what, fix = error.what, error.fix
    for name, theirs in called.items():
        what, fix = what.replace(name, theirs), fix.replace(name, theirs)
    return BadModel(what, why=error.why, fix=fix)
