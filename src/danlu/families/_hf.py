"""Config keys and weight names that Llama and its descendants share; each family's file says what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danlu.errors import BadModel, UnsupportedModel
from danlu.families import Stored, _keys, shapes
from danlu.families._keys import Experts
from danlu.nouns import ModelSpec

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


@dataclass(frozen=True, slots=True)
class Family:
    """How one architecture differs from the others. `defaults` are what transformers assumes for a missing key.

    biases     which linear layers of attention have one: "switch" (attention_bias: q k v o), "qkv" (always),
               "qkv_bias" (q k v, by that key), or "none"
    windows    how a sliding window is written: "none" (the architecture has none), "plain", "switch" (Qwen's
               use_sliding_window with max_window_layers), "alternate" (the same, but where layer_types is missing only
               every other layer has it), or "uniform" (use_sliding_window alone)
    recipe     sub-layers of a layer
    own        by our name: what this family's files call otherwise than NAMES
    """

    family: str
    architecture: str
    defaults: Mapping[str, Any]
    biases: str = "none"
    windows: str = "none"
    qk_norm: bool = False
    experts: Experts | None = None
    recipe: tuple[str, ...] = ("attn", "mlp")
    own: Mapping[str, str] = field(default_factory=dict)

    def spec(self, given: Mapping[str, Any]) -> ModelSpec:
        """ModelSpec of a config.json. Raises BadModel for missing or contradictory numbers, UnsupportedModel."""
        if self.experts is not None and self.experts.also in given:
            given = {self.experts.count: given[self.experts.also], **given}
        config = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, **self.defaults, **given}
        _keys.refuse(config)
        heads, hidden = _keys.count(config, "num_attention_heads"), _keys.count(config, "hidden_size")
        kv_heads = heads if config.get("num_key_value_heads") is None else _keys.count(config, "num_key_value_heads")
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
        head_dim = hidden // heads if config.get("head_dim") is None else _keys.count(config, "head_dim")
        if head_dim % 2:
            raise BadModel(
                f"head_dim {head_dim} is odd", why="rotary positions turn pairs", fix="correct head_dim in config.json"
            )
        layers, bias = _keys.count(config, "num_hidden_layers"), bool(config.get("attention_bias", False))
        theta, scaling = _keys.rope(config)
        count, used, ffn, shared, norm = _keys.experts(self.experts, config, layers)
        return ModelSpec(
            family=self.family, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            ffn=ffn, vocab=_keys.count(config, "vocab_size"),
            positions=_keys.count(config, "max_position_embeddings"), norm_eps=_keys.positive(config, "rms_norm_eps"),
            rope_theta=theta, rope_scaling=scaling, tied=bool(config["tie_word_embeddings"]),
            qkv_bias=_keys.biased(self.biases, config), out_bias=self.biases == "switch" and bias,
            qk_norm=self.qk_norm, window=_keys.window(self.windows, config, layers), recipe=self.recipe, experts=count,
            experts_used=used, shared_ffn=shared, norm_topk=norm,
        )  # fmt: skip

    def config(self, model: ModelSpec) -> dict[str, Any]:
        """config.json that transformers from 4.56 on reads back as this model. Raises UnsupportedModel if it cannot."""
        said: dict[str, Any] = {
            "architectures": [self.architecture], "model_type": self.family, "hidden_act": "silu",
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
        said |= self._traits(model)
        again = self.spec(said)
        if again != model:
            differs = [name for name in ModelSpec.__slots__ if getattr(again, name) != getattr(model, name)]
            why = "; ".join(f"{n} is {getattr(model, n)}, it would read {getattr(again, n)}" for n in differs)
            raise UnsupportedModel(
                f"{self.architecture} cannot hold this model", why=why, fix="export it as another family"
            )
        return said

    def names(self, spec: ModelSpec) -> dict[str, str]:
        """Our parameter name -> the one in the family's safetensors files, or in a quantized folder made from them."""
        called, found = {**NAMES, **self.own}, {}
        for ours in shapes(spec):
            if ours in called:
                found[ours] = called[ours]
                continue
            _, layer, *path, leaf = ours.split(".")
            expert = path[2] if path[1] == "experts" else "N"
            theirs = called[".".join(path).replace(f".experts.{expert}.", ".experts.N.")]
            found[ours] = f"model.layers.{layer}.{theirs.replace('.N.', f'.{expert}.')}.{leaf}"
        return found

    def stored(self, spec: ModelSpec) -> Stored | None:
        """How the files hold what we keep otherwise; None where they hold our parameters one by one."""
        return None

    def _traits(self, model: ModelSpec) -> dict[str, Any]:
        """The keys of biases, windows and experts, as this family writes them."""
        said: dict[str, Any] = {}
        if self.biases == "switch":
            said["attention_bias"] = model.qkv_bias
        elif self.biases == "qkv_bias":
            said["qkv_bias"] = model.qkv_bias
        if self.windows == "plain":
            said["sliding_window"] = model.window
        elif self.windows == "uniform":
            said |= {"use_sliding_window": model.window is not None, "sliding_window": model.window}
        elif self.windows in ("switch", "alternate"):
            said |= {"use_sliding_window": model.window is not None, "sliding_window": model.window}
            said["max_window_layers"] = 0
            said["layer_types"] = ["full_attention" if model.window is None else "sliding_attention"] * model.layers
        if self.experts is not None:
            said |= {self.experts.count: model.experts, "num_experts_per_tok": model.experts_used,
                     self.experts.width: model.ffn}  # fmt: skip
            if self.experts.norm is None:
                said |= {"norm_topk_prob": model.norm_topk, "decoder_sparse_step": 1, "mlp_only_layers": []}
            if self.experts.shared:
                said[self.experts.shared] = model.shared_ffn
        return said
