"""A model in a GGUF file: its numbers, its weights by our names, and the way back into such a file.

llama.cpp keeps a layer's tensors under short names ("blk.3.attn_q.weight") and, for the architecture "llama", the rows
of q and k in the order its rotary positions want: pairs side by side. Hugging Face (and danlu) have the halves of a
head one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu import atomic, families, ggml, gguf
from danlu.errors import BadModel, UnsupportedModel, WrongWeights
from danlu.model.export import Later
from danlu.model.rope import frequencies
from danlu.nouns import ModelSpec, RopeScaling

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
                 "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}  # fmt: skip
MOST = 1 << 62  # of any number of a model
UNITS = {
    "embed.weight": "token_embd.weight", "head.norm.weight": "output_norm.weight", "head.weight": "output.weight",
}  # fmt: skip
PARTS = {
    "attn.norm": "attn_norm", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v", "attn.o": "attn_output",
    "attn.q_norm": "attn_q_norm", "attn.k_norm": "attn_k_norm", "mlp.norm": "ffn_norm", "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up", "mlp.down": "ffn_down", "moe.norm": "ffn_norm", "moe.router": "ffn_gate_inp",
    "moe.shared.gate": "ffn_gate_shexp", "moe.shared.up": "ffn_up_shexp", "moe.shared.down": "ffn_down_shexp",
    "moe.shared_gate": "ffn_gate_inp_shexp", "moe.experts.gate": "ffn_gate_exps", "moe.experts.up": "ffn_up_exps",
    "moe.experts.down": "ffn_down_exps",
}  # fmt: skip
ROPE_FREQS = "rope_freqs.weight"  # what every rotary frequency is divided by: Llama 3's scaling, without its parameters
BLEND, ORIGINAL = (1.0, 4.0), 8192  # low, high and original of every published Llama 3; the file has no word of them
PANEL = 1 << 22  # weights turned to floats at a time


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file and the parameters in it: its shape, and our names in order, more than one for experts."""

    shape: tuple[int, ...]
    ours: tuple[str, ...]


def stored(spec: ModelSpec) -> dict[str, Stored]:
    """The tensors of a model's file by their names there. The experts of a layer lie in one, one after the other."""
    found: dict[str, list[str]] = {}
    for ours in families.shapes(spec):
        if ours in UNITS:
            name = UNITS[ours]
        else:
            _, layer, kind, *path, leaf = ours.split(".")
            part = ".".join([kind, *(each for each in path if not each.isdigit())])
            name = f"blk.{layer}.{PARTS[part]}.{leaf}"
        found.setdefault(name, []).append(ours)
    shapes = families.shapes(spec)
    tensors = {}
    for name, names in found.items():
        one = shapes[names[0]]
        if "_exps" in name:
            one = (len(names), *one)
        elif "gate_inp_shexp" in name:
            one = one[1:]
        tensors[name] = Stored(one, tuple(names))
    return tensors


def spec_of(file: gguf.File, where: str) -> ModelSpec:
    """The numbers of the model in a file. Raises BadModel, UnsupportedModel."""
    said, arch = file.metadata, file.metadata.get("general.architecture")
    families_of = [family for family, word in ARCHITECTURES.items() if word == arch]
    if not families_of:
        raise UnsupportedModel(f"the architecture {arch!r}", where=where,
                               why=f"danlu reads {', '.join(sorted(set(ARCHITECTURES.values())))} from GGUF",
                               fix="convert it to a Hugging Face folder with the tool of its makers")  # fmt: skip

    def number(key: str, default: Any = None) -> Any:
        value = said.get(f"{arch}.{key}", default)
        if value is None:
            raise BadModel(f"{arch}.{key} is missing", where=where, why=f"the file has {len(said)} metadata entries",
                           fix="convert the model to GGUF again")  # fmt: skip
        if isinstance(value, np.ndarray):
            if len(set(value.tolist())) != 1:
                raise UnsupportedModel(f"{arch}.{key} differs by layer", where=where, why=f"it is {value.tolist()}",
                                       fix="use a model whose layers are alike")  # fmt: skip
            value = value.tolist()[0]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
            raise BadModel(f"{arch}.{key} is {str(value)[:60]!r}", where=where, why="a number of 0 or more was due",
                           fix="fetch the file again, or convert the model to GGUF again")  # fmt: skip
        return float(str(np.float32(value))) if isinstance(value, float) else value  # 1e-6, not 9.99999997e-07

    if (scaling := said.get(f"{arch}.rope.scaling.type", "none")) != "none":
        raise UnsupportedModel(f"rope scaling {scaling!r}", where=where, why="the decoder has none and llama3",
                               fix="use a file without long-context scaling")  # fmt: skip
    heads, hidden = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", hidden // heads if heads else 0)
    window = number("attention.sliding_window", 0) or None
    experts = number("expert_count", 0)
    family = families_of[0]
    if arch == "llama" and (window or experts):
        family = "mixtral" if experts else "mistral"
    config: dict[str, Any] = {
        "model_type": family, "hidden_size": hidden,
        "num_hidden_layers": number("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads), "head_dim": head_dim,
        "intermediate_size": number("feed_forward_length"), "vocab_size": _rows(file, "token_embd.weight", where),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"), "rope_theta": number("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors, "sliding_window": window,
        "use_sliding_window": window is not None, "max_window_layers": 0,
        "attention_bias": arch == "llama" and "blk.0.attn_q.bias" in file.tensors,
    }  # fmt: skip
    if experts:
        config |= {
            "num_local_experts": experts,
            "num_experts": experts,
            "num_experts_per_tok": number("expert_used_count"),
            "norm_topk_prob": arch != "qwen2moe",
        }
        if family != "mixtral":
            config["moe_intermediate_size"] = number("expert_feed_forward_length")
        if "blk.0.ffn_gate_shexp.weight" in file.tensors:
            config["shared_expert_intermediate_size"] = file.tensors["blk.0.ffn_gate_shexp.weight"].shape[0]
    if head_dim and (turned := number("rope.dimension_count", head_dim)) != head_dim:
        config["partial_rotary_factor"] = turned / head_dim
    if ROPE_FREQS in file.tensors:
        config["rope_scaling"] = _scaling(file.tensors[ROPE_FREQS], config, where)
    return families.spec(config)


def _rows(file: gguf.File, name: str, where: str) -> int:
    if name not in file.tensors:
        raise WrongWeights(f"{name} is missing", where=where, why=f"the file has {len(file.tensors)} tensors",
                           fix="fetch the file again; a split model needs all its parts in one file")  # fmt: skip
    return file.tensors[name].shape[0]


def _scaling(freqs: gguf.Tensor, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """config.json's rope_scaling whose divisors are those of the file."""
    found = torch.from_numpy(freqs.floats().reshape(-1).copy())
    factor, low, high = float(found.max()), *BLEND
    keep = (1 / found - 1 / factor) / (1 - 1 / factor) if factor > 1 else found
    between = ((keep > 0.01) & (keep < 0.99)).nonzero().flatten()
    original = ORIGINAL
    if len(between):  # inverted at one blended pair: turns = original * frequency / 2 pi
        i = int(between[0])
        turns = low + float(keep[i]) * (high - low)
        original = round(turns * 2 * math.pi / float(frequencies(config["head_dim"], config["rope_theta"])[i]))
    guess = RopeScaling(factor, low, high, original)
    known = divisors(config["head_dim"], config["rope_theta"], guess)
    if known.shape != found.shape or not torch.allclose(known, found, rtol=1e-3):
        raise UnsupportedModel(
            f"{ROPE_FREQS} is not Llama 3's scaling",
            where=where,
            why=f"its divisors go from {found.min():g} to {factor:g} in another way",
            fix="use the Hugging Face folder of the model",
        )
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original}  # fmt: skip


def divisors(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """What Llama 3's scaling divides every rotary frequency by, fp32 (head_dim / 2,)."""
    return frequencies(head_dim, theta) / frequencies(head_dim, theta, scaling)


def sources(file: gguf.File, spec: ModelSpec, dtype: torch.dtype | None, where: str) -> dict[str, Later]:
    """Every parameter by our name, made from its blocks when its turn comes.

    dtype  of the result; None for the file's own: fp32 or bf16 where a tensor has it, else fp16
    Raises WrongWeights for tensors that are missing, left over or misshapen.
    """
    theirs, shapes, found = stored(spec), families.shapes(spec), {}
    for name, each in theirs.items():
        tensor = file.tensors.get(name)
        if tensor is None or tensor.shape != each.shape:
            raise WrongWeights(
                f"{name} is {'missing' if tensor is None else list(tensor.shape)}",
                where=where,
                why=f"the metadata asks for {list(each.shape)}",
                fix="fetch the file again",
            )
        kind = dtype or {"F32": torch.float32, "BF16": torch.bfloat16}.get(tensor.kind, torch.float16)
        for at, ours in enumerate(each.ours):
            found[ours] = Later(shapes[ours], kind, _reader(tensor, shapes[ours], at, kind, _heads(spec, ours)))
    left = set(file.tensors) - set(theirs) - {ROPE_FREQS}
    if left:
        raise WrongWeights(
            f"{len(left)} tensors belong to nothing",
            where=where,
            why=f"{spec.family} with {spec.layers} layers has no {min(left)}",
            fix="use the Hugging Face folder of the model; danlu would ignore them silently",
        )
    return {ours: found[ours] for ours in shapes}


def _reader(
    tensor: gguf.Tensor, shape: tuple[int, ...], at: int, dtype: torch.dtype, heads: int
) -> Callable[[], Tensor]:
    """What makes the `at`-th parameter of that shape in a tensor."""

    def read() -> Tensor:
        columns = shape[-1]
        rows, step = math.prod(shape[:-1]), max(1, PANEL // columns)
        whole, first = torch.empty(rows, columns, dtype=dtype), at * rows
        for n in range(0, rows, step):
            floats = tensor.floats(first + n, first + min(n + step, rows))
            whole[n : n + step] = torch.from_numpy(np.require(floats, requirements="W"))
        return halves(whole.view(shape), heads) if heads else whole.view(shape)

    return read


def _heads(spec: ModelSpec, ours: str) -> int:
    """How many heads of turned rows a parameter has; 0 for one that lies as ours does."""
    if ARCHITECTURES[spec.family] != "llama" or ".attn." not in ours:
        return 0
    part = ours.rsplit(".", 2)[-2]
    return {"q": spec.heads, "k": spec.kv_heads}.get(part, 0)


def halves(pairs: Tensor, heads: int) -> Tensor:
    """Rows of heads with rotary pairs side by side -> the first halves of the pairs, then the second."""
    return pairs.view(heads, -1, 2, *pairs.shape[1:]).transpose(1, 2).reshape(pairs.shape)


def pairs(halves: Tensor, heads: int) -> Tensor:
    """The inverse of halves()."""
    return halves.view(heads, 2, -1, *halves.shape[1:]).transpose(1, 2).reshape(halves.shape)


def write(
    tensors: Mapping[str, Tensor],
    spec: ModelSpec,
    out: Path,
    kind: str,
    words: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> None:
    """Write a model as one GGUF file that llama.cpp reads, whole or not at all.

    tensors  every parameter by our name, of any float dtype
    kind     "F32", "F16", "BF16" or "Q8_0": the format of the matrices; vectors are always F32
    words    metadata of the tokenizer (model/gguf_tokens.py)
    progress is told each tensor's name as it is written
    Raises UnsupportedModel, DiskFull.
    """
    if spec.family not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{spec.family} as GGUF", why=f"danlu writes {', '.join(ARCHITECTURES)}", fix="use the Hugging Face folder"
        )
    theirs = stored(spec)
    layout = {name: (_kind_of(kind, each.shape), each.shape) for name, each in theirs.items()}
    extra = {}
    if spec.rope_scaling is not None:
        extra[ROPE_FREQS] = divisors(spec.head_dim, spec.rope_theta, spec.rope_scaling)
        layout[ROPE_FREQS] = ("F32", tuple(extra[ROPE_FREQS].shape))
    text, offsets = gguf.header(_metadata(spec) | dict(words or {}), layout)
    with atomic.replacing(out) as file:
        file.write(text)
        for (name, (form, shape)), at in zip(layout.items(), offsets, strict=True):
            progress(name)
            file.write(b"\0" * (at - file.tell()))
            for ours in theirs[name].ours if name in theirs else ("",):
                whole = tensors[ours].detach() if ours else extra[name]
                heads = _heads(spec, ours)
                whole = (pairs(whole, heads) if heads else whole).reshape(-1, shape[-1])
                for panel in torch.split(whole, max(1, PANEL // shape[-1])):
                    file.write(ggml.encoded(form, panel.float().cpu().numpy()).data)


def _kind_of(kind: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return "F32"
    return kind if shape[-1] % ggml.BLOCKS[kind].weights == 0 else "F16"


def _metadata(spec: ModelSpec) -> dict[str, Any]:
    arch = ARCHITECTURES[spec.family]
    said: dict[str, Any] = {
        "context_length": spec.positions, "embedding_length": spec.hidden, "block_count": spec.layers,
        "feed_forward_length": spec.ffn, "attention.head_count": spec.heads, "attention.head_count_kv": spec.kv_heads,
        "attention.key_length": spec.head_dim, "attention.value_length": spec.head_dim,
        "attention.layer_norm_rms_epsilon": spec.norm_eps, "rope.freq_base": spec.rope_theta,
        "rope.dimension_count": spec.head_dim, "vocab_size": spec.vocab,
    }  # fmt: skip
    if spec.experts:
        said |= {"expert_count": spec.experts, "expert_used_count": spec.experts_used,
                 "expert_feed_forward_length": spec.ffn}  # fmt: skip
    if spec.shared_ffn:
        said["expert_shared_feed_forward_length"] = spec.shared_ffn
    if spec.window is not None:
        said["attention.sliding_window"] = spec.window
    return {"general.architecture": arch, "general.type": "model", **{f"{arch}.{k}": v for k, v in said.items()}}
