"""A plan over a large fleet as a configuration of torchtitan.

Its configurations are Python functions; fields and modules are those of torchtitan of August 2026 (b5bcd76), which
reads TOML no more. Never run by us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from danlu.errors import BadValue
from danlu.nouns import ModelSpec
from danlu.plan.groups import interleaved
from danlu.plan.groups.emit_alike import Emitted, bits, even, many, one_recompute, order_words, whole_layers
from danlu.plan.groups.grouped import GroupedPlan

MODULE = "torchtitan_plan"


class Flavor(NamedTuple):
    """A model of torchtitan: its module, name there, the configuration that is changed, the folder of its tokenizer."""

    module: str
    flavor: str
    config: str
    assets: str


FLAVORS = {  # by family, layers, hidden, heads, key-value heads, MLP width, vocabulary
    ("llama", 32, 4096, 32, 8, 14336, 128256): Flavor("llama3", "8B", "llama3_8b", "Llama-3.1-8B"),
    ("llama", 80, 8192, 64, 8, 28672, 128256): Flavor("llama3", "70B", "llama3_70b", "Llama-3.1-70B"),
    ("llama", 126, 16384, 128, 8, 53248, 128256): Flavor("llama3", "405B", "llama3_405b", "Llama-3.1-405B"),
    ("qwen3", 36, 4096, 32, 8, 12288, 151936): Flavor("qwen3", "8B", "qwen3_14b", "Qwen3-8B"),
    ("qwen3", 40, 5120, 40, 8, 17408, 151936): Flavor("qwen3", "14B", "qwen3_14b", "Qwen3-14B"),
    ("qwen3", 64, 5120, 64, 8, 25600, 151936): Flavor("qwen3", "32B", "qwen3_32b", "Qwen3-32B"),
    ("qwen3_moe", 48, 2048, 32, 4, 768, 151936): Flavor("qwen3", "30B-A3B", "qwen3_30b_a3b", "Qwen3-30B-A3B"),
    ("qwen3_moe", 94, 4096, 64, 4, 1536, 151936): Flavor("qwen3", "235B-A22B", "qwen3_30b_a3b", "Qwen3-235B-A22B"),
}  # fmt: skip


def torchtitan(plan: GroupedPlan, spec: ModelSpec) -> Emitted:
    """A configuration of torchtitan. Raises BadValue for a model it has no flavor of, or no pipeline with one size."""
    flavor = FLAVORS.get((spec.family, spec.layers, spec.hidden, spec.heads, spec.kv_heads, spec.ffn, spec.vocab))
    if flavor is None:
        have = ", ".join(f"{each.module} {each.flavor}" for each in FLAVORS.values())
        raise BadValue(f"torchtitan has no flavor of this {spec.family} of {spec.layers} layers",
                       why=f"danlu knows its {have}", fix="--emit megatron, which takes any shape")  # fmt: skip
    each, cannot = even(plan, "torchtitan")
    layers, moved = whole_layers(each, spec)
    cannot += [*moved, *one_recompute(each, "torchtitan")]
    woven = interleaved.of(plan, each, layers)
    if plan.schedule != "1f1b" and each.chunks == 1:
        cannot.append(f"schedule {plan.schedule}: set is {order_words(woven)}")
    at, parts = 0, []
    for number, count in enumerate(woven.layers):
        names = [f"layers.{i}" for i in range(at, at + count)]
        parts.append([*(["tok_embeddings"] if number == 0 else []), *names,
                      *(["norm", "lm_head"] if number == len(woven.layers) - 1 else [])])  # fmt: skip
        at += count
    kinds = {stage.recompute for stage in each.stages}
    again = "FullAC" if "full" in kinds else "SelectiveAC" if kinds & {"selective", "mlp"} else ""
    if again == "SelectiveAC" and "mlp" in kinds:
        cannot.append("recomputation of the MLP: torchtitan's selective keeps every second matmul instead")
    way = each.stages[0].way
    if any(stage.way.offload or stage.way.spill for stage in each.stages):
        cannot.append("states or activations on host or disk: torchtitan keeps them on the cards, or all on the host")
    level = {stage.way.zero for stage in each.stages}
    if level == {2}:
        cannot.append("ZeRO-2: torchtitan reduces gradients of its FSDP after every micro-batch or at the step's end")
    narrow = bits(plan, each, "torchtitan", cannot)
    if narrow == "fp16":
        cannot.append("fp16: torchtitan's 16 bits are bf16")
    ranks = each.copies * way.cards * len(layers)
    parallel: dict[str, object] = {
        "data_parallel_replicate_degree": 1, "data_parallel_shard_degree": each.copies,
        "fsdp_reshard_after_forward": "always" if 3 in level else "never", "tensor_parallel_degree": way.tp,
        "context_parallel_degree": way.cp, "expert_parallel_degree": way.ep, "pipeline_parallel_degree": len(layers),
    }  # fmt: skip
    if len(layers) > 1:
        parallel |= {"pipeline_parallel_schedule": "Interleaved1F1B" if woven.chunks > 1 else "1F1B",
                     "num_pp_microbatches": each.micro_batches, "module_fqns_per_model_part": parts}  # fmt: skip
    training = {
        "max_context_length": plan.seq,
        "num_tokens_per_microbatch_per_dp_rank": each.micro_batch * plan.seq,
        "num_tokens_per_train_step": each.sequences * plan.seq,
        "mixed_precision_param": "float32" if narrow == "fp32" else "bfloat16",
        "disable_cuda_graphs": len(layers) > 1 or way.ep > 1,  # it refuses them there
    }
    text = _module(flavor, training, parallel, again, narrow == "fp8", [
        f"{many(ranks, 'rank')}: {many(each.copies, 'pipeline')} of {many(len(layers), 'stage')} of "
        f"{many(way.cards, 'card')}; never run by us", *(f"not in here: {one}" for one in cannot),
    ])  # fmt: skip
    start = (f"PYTHONPATH=FOLDER torchrun --nnodes N --nproc-per-node 8 ... -m torchtitan.train --module {MODULE} "
             "--config plan, where torchtitan is checked out")  # fmt: skip
    return Emitted({f"{MODULE}.py": text}, start, tuple(cannot))


def _module(
    flavor: Flavor, training: Mapping[str, object], parallel: Mapping[str, object], again: str, narrow: bool,
    said: Sequence[str],
) -> str:  # fmt: skip
    """The file: a function that changes torchtitan's own configuration of that model."""
    home = f"torchtitan.models.{flavor.module}"
    eight = "Float8LinearConverter.Config(filter_fqns=['lm_head'], model_compile_enabled=True)"
    lines = [
        *(f"# {one}" for one in said),
        *["from torchtitan.components.quantization import Float8LinearConverter"] * narrow,
        *[f"from torchtitan.distributed.activation_checkpoint import {again}"] * bool(again),
        f"from {home} import model_registry", f"from {home}.config_registry import {flavor.config}",
        "from torchtitan.trainer import Trainer", "", "",
        "def plan() -> Trainer.Config:", f"    config = {flavor.config}()",
        f"    config.model_spec = model_registry({flavor.flavor!r}" + f", converters=[{eight}]" * narrow + ")",
        f"    config.hf_assets_path = './assets/hf/{flavor.assets}'",
        *["    config.compile.enable = True"] * narrow,
        *(f"    config.training.{name} = {value!r}" for name, value in training.items()),
        *(f"    config.parallelism.{name} = {value!r}" for name, value in parallel.items()),
        f"    config.activation_checkpoint = {f'{again}.Config()' if again else None}", "    return config", "",
    ]  # fmt: skip
    return "\n".join(lines)
