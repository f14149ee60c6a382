"""Yuan 2.0: attention behind a local filter (arXiv 2311.15786); the rest is Llama's.

Its files cut the rows of q and k in another way: q_proj above k_proj is one matrix whose rows are [q of head 0, k of
head 0, q of head 1, ...]. Its convolutions have the taps [past, here] on their third axis. What its files call up_proj
is our gate: it goes through silu.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.errors import UnsupportedModel
from danlu.families import Piece, Stored, _hf
from danlu.nouns import ModelSpec

NAMES = {
    **{f"lfa.{part}": theirs for part, theirs in (
        ("norm", "input_layernorm"), ("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("v", "self_attn.v_proj"),
        ("o", "self_attn.o_proj"), ("filter_norm", "self_attn.lf_gate.output_layernorm"),
    )},
    **{f"lfa.{conv}.{tap}": f"self_attn.lf_gate.{conv}.{tap}" for conv in ("conv1", "conv2")
       for tap in ("past", "here")},
    "mlp.gate": "mlp.up_proj", "mlp.up": "mlp.gate_proj",
}  # fmt: skip


class Yuan(_hf.Family):
    """The family whose files cut q and k in another way than we do."""

    def spec(self, given: Mapping[str, Any]) -> ModelSpec:
        """ModelSpec of a config.json; see Family.spec. Raises UnsupportedModel for the variants with experts too."""
        found = super().spec(given)
        if found.kv_heads != found.heads or found.hidden % 2:
            raise UnsupportedModel(
                "a Yuan model with fewer key-value heads than heads, or an odd width",
                why=f"{found.heads} heads, {found.kv_heads} key-value heads, hidden_size {found.hidden}",
                fix="use a model of the 2.0 family: 2B, 51B, 102B",
            )
        if given.get("use_moe") or given.get("moe_config"):
            raise UnsupportedModel(
                "a Yuan model with experts",
                why="its router attends among experts, which the decoder does not have",
                fix="use a dense model of the 2.0 family: 2B, 51B, 102B",
            )
        return found

    def stored(self, spec: ModelSpec) -> Stored:
        """How the family's own files hold filter, q and k."""
        width, rows, size = spec.hidden, spec.heads * spec.head_dim, spec.head_dim
        shapes: dict[str, tuple[int, ...]] = {}
        pieces: dict[str, tuple[Piece, ...]] = {}
        for layer in range(spec.layers):
            ours, theirs = f"layers.{layer}.lfa", f"model.layers.{layer}.self_attn"
            for conv, out, into in (("conv1", width // 2, width), ("conv2", width, width // 2)):
                file = f"{theirs}.lf_gate.{conv}"
                shapes |= {f"{file}.weight": (out, into, 2, 1), f"{file}.bias": (out,)}
                pieces[f"{ours}.{conv}.here.bias"] = (Piece(f"{file}.bias"),)
                for tap, place in (("past", 0), ("here", 1)):
                    whole: tuple[tuple[int, int] | int, ...] = ((0, out), (0, into), place, 0)
                    pieces[f"{ours}.{conv}.{tap}.weight"] = (Piece(f"{file}.weight", whole),)
            files = (f"{theirs}.q_proj.weight", f"{theirs}.k_proj.weight")
            shapes |= dict.fromkeys(files, (rows, width))
            for which, name in enumerate("qk"):
                starts = [(2 * head + which) * size for head in range(spec.heads)]
                pieces[f"{ours}.{name}.weight"] = tuple(
                    Piece(files[start // rows], ((start % rows, start % rows + size),)) for start in starts
                )
        return Stored(shapes, pieces)


FAMILY = Yuan(
    "yuan", "YuanForCausalLM", {"max_position_embeddings": 8192}, recipe=("lfa", "mlp"), own=NAMES,
)  # fmt: skip
