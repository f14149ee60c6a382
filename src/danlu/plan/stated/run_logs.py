"""Seconds of a step, and what was run, from the logs people have: Megatron-LM's, torchtitan's, danlu's own.

Lines that are read (docs/formats.md, "run logs"): Megatron-LM's list of arguments and "elapsed time per iteration
(ms)" and "max allocated", torchtitan's "step: ... memory: ... tps: ...", danlu's steps.jsonl.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from danlu.errors import BadRows

WARM = 3  # steps that are left out, of few the first one: kernels are chosen, caches fill
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
MEGATRON = re.compile(r"elapsed time per iteration \(ms\): *([0-9]+(?:\.[0-9]+)?)")
ARGUMENT = re.compile(r"^(?:\[[^\]]*\]:?\s*|\d+:\s*)*\s*([a-z_0-9]+) \.{2,} *(.*?)\s*$")
ALLOCATED = re.compile(r"max allocated: *([0-9]+(?:\.[0-9]+)?)")
TITAN = re.compile(r"step: *\d+ .*?memory: *([0-9]+(?:\.[0-9]+)?)GiB.*?tps: *([0-9][0-9,]*(?:\.[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a log tells.

    seconds    of a step, the median; None where only `tokens_s` (of one card) is told
    peak       most bytes of its card, None where it does not say; `reading` says how they are counted: "allocated" or
               "reserved"
    stated     columns of bench/truth/README.md that the log itself gives; empty where it gives none
    """

    steps: int
    seconds: float | None = None
    tokens_s: float | None = None
    peak: float | None = None
    reading: str = "reserved"
    stated: Mapping[str, str] | None = None


def read(text: str, where: str) -> Measured:
    """A log of any of the three. Raises BadRows, with what was looked for, for one that holds no step."""
    lines = [ESCAPE.sub("", line) for line in text.splitlines()]
    for reader in (_megatron, _titan, _danlu):
        found = reader(lines)
        if found is not None:
            return found
    raise BadRows("the log holds no step", where=where,
                  why=f"none of its {len(lines)} lines has elapsed time per iteration (ms), or step, memory and tps, "
                  "or is one of steps.jsonl",
                  fix="give the log of rank 0 (Megatron-LM logs on its last rank), or OUT/steps.jsonl")  # fmt: skip


def _steady(values: Sequence[float]) -> float:
    return median(values[WARM:] if len(values) > 2 * WARM else values[1:] or values)


def _megatron(lines: Sequence[str]) -> Measured | None:
    times = [float(found[1]) / 1e3 for line in lines if (found := MEGATRON.search(line)) and float(found[1]) > 0]
    if not times:
        return None
    arguments = {found[1]: found[2] for line in lines if (found := ARGUMENT.match(line))}
    peaks = [float(found[1]) * 2**20 for line in lines if "memory (MB)" in line and (found := ALLOCATED.search(line))]
    return Measured(len(times), seconds=_steady(times), peak=max(peaks, default=None), reading="allocated",
                    stated=megatron_columns(arguments) if arguments else None)  # fmt: skip


def _titan(lines: Sequence[str]) -> Measured | None:
    told = [(float(hit[2].replace(",", "")), float(hit[1])) for line in lines if (hit := TITAN.search(line))]
    found = [(tps, gib) for tps, gib in told if tps > 0]
    if not found:
        return None
    return Measured(len(found), tokens_s=_steady([tps for tps, _ in found]), peak=max(gib for _, gib in found) * 2**30)


def _danlu(lines: Sequence[str]) -> Measured | None:
    times = []
    for line in lines:
        try:
            if 0 < (seconds := float(json.loads(line)["seconds"])) < math.inf:
                times.append(seconds)
        except (ValueError, KeyError, TypeError):
            return None
    return Measured(len(times), seconds=_steady(times)) if times else None


def megatron_columns(arguments: Mapping[str, str]) -> dict[str, str]:
    """Columns of bench/truth/README.md from Megatron-LM's arguments; what it leaves at None is left out."""
    given = {name: value for name, value in arguments.items() if value not in ("None", "")}

    def on(name: str) -> bool:
        return given.get(name) == "True"

    found = {column: given[name] for name, column in _PLAIN.items() if name in given}
    found |= {"cp": given.get("context_parallel_size", "1"), "zero": str(int(on("use_distributed_optimizer")))}
    found |= {"gated": str(int(on("swiglu"))), "seq_parallel": str(int(on("sequence_parallel")))}
    beside = "backward" if on("async_tensor_model_parallel_allreduce") else "0"
    found |= {"overlap_dp": str(int(on("overlap_grad_reduce"))), "overlap_tp": "1" if on("tp_comm_overlap") else beside}
    if on("group_query_attention") and "num_query_groups" in given:
        found["kv_heads"] = given["num_query_groups"]
    found["recompute"] = given.get("recompute_granularity", "none")
    found["precision"] = "bf16" if on("bf16") else "fp16" if on("fp16") else "fp32"
    if given.get("fp8"):
        found["precision"] = "fp8"
    fused = on("use_flash_attn") or given.get("attention_backend", "").endswith(("flash", "fused", "auto"))
    found["attention"] = "flash" if fused or given.get("transformer_impl") == "transformer_engine" else "unfused"
    chunk, layers, pp = (int(given.get(name, 0)) for name in (
        "num_layers_per_virtual_pipeline_stage", "num_layers", "pipeline_model_parallel_size"))  # fmt: skip
    found["interleave"] = given.get("virtual_pipeline_model_parallel_size",
                                    str(layers // (pp * chunk)) if chunk and pp else "1")  # fmt: skip
    found["note"] = _note(given)
    return found | {"software": "Megatron-LM"}


def _note(given: Mapping[str, str]) -> str:
    """What has no column: widths of heads and experts, dense layers before them, ranks of latent attention."""
    found = {_NOTED[name]: value for name, value in given.items() if name in _NOTED}
    kinds = re.findall(r"[01]", given.get("moe_layer_freq", ""))
    if "num_experts" in given and len(kinds) > 1 and "1" in kinds:
        found["dense_layers"] = str(kinds.index("1"))
    if given.get("multi_latent_attention") == "True":
        found["mla"] = ",".join(f"{short}={given.get(name, '0')}" for short, name in _LATENT.items())
        found["head_dim"] = given.get("v_head_dim", "0")
    return ";".join(f"{name}={value}" for name, value in found.items())


_LATENT = {"q_lora": "q_lora_rank", "kv_lora": "kv_lora_rank", "qk": "qk_head_dim", "rope": "qk_pos_emb_head_dim",
           "v": "v_head_dim"}  # fmt: skip
_NOTED = {"kv_channels": "head_dim", "moe_ffn_hidden_size": "moe_ffn",
          "moe_shared_expert_intermediate_size": "shared_ffn"}  # fmt: skip
_PLAIN = {
    "world_size": "card_count", "num_layers": "layers", "hidden_size": "hidden", "num_attention_heads": "heads",
    "ffn_hidden_size": "ffn", "padded_vocab_size": "vocab", "seq_length": "seq", "global_batch_size": "global_batch",
    "micro_batch_size": "micro_batch", "tensor_model_parallel_size": "tp", "pipeline_model_parallel_size": "pp",
    "data_parallel_size": "dp", "expert_model_parallel_size": "ep", "num_experts": "experts",
    "moe_router_topk": "top_k",
}  # fmt: skip
