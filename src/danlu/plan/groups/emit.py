"""A plan over a large fleet as a configuration that danlu, Megatron-LM or torchtitan runs.

Each function returns files by name, and in `cannot` every property of the plan that the framework has no word for: then
what is written is the nearest it can say, never silently. Pure. Options are those of Megatron-LM core 0.13 and
torchtitan of mid-2025; never run by us.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from danlu.errors import BadValue
from danlu.nouns import Fleet, ModelSpec, Plan, Replica, Stage
from danlu.plan import text
from danlu.plan.groups import interleaved
from danlu.plan.groups.grouped import GroupedPlan, GroupStage, Replicas

TITAN = {  # flavors that torchtitan has: (family, layers, hidden)
    ("llama", 32, 4096): ("llama3", "8B"), ("llama", 80, 8192): ("llama3", "70B"),
    ("llama", 126, 16384): ("llama3", "405B"),
}  # fmt: skip

MEGATRON_BITS = {"bf16": ["--bf16"], "fp16": ["--fp16"], "fp32": [], "fp8": ["--bf16", "--fp8-format hybrid"]}
TITAN_BITS = {"bf16": [], "fp32": ['mixed_precision_param = "float32"'], "fp8": []}


@dataclass(frozen=True, slots=True)
class Emitted:
    """Files by name, how to start them, and what of the plan is not in them."""

    files: Mapping[str, str]
    start: str
    cannot: tuple[str, ...]


def danlu(plan: GroupedPlan, spec: ModelSpec, fleet: Fleet, seats: Sequence[Sequence[str]], folder: str) -> Emitted:
    """Plan JSON for `danlu train`: every copy with its own stages and micro-batches.

    fleet   the cards by name; seats: names of each group's cards
    folder  where the files will lie
    """
    left = [list(names) for names in seats]
    cannot = _cut_otherwise(plan)
    if plan.schedule != "1f1b":
        cannot.append(f"schedule {plan.schedule}: written as 1f1b; danlu plan run.yaml makes orders of its own")
    if any(stage.recompute in ("selective", "mlp") for each in plan.replicas for stage in each.stages):
        cannot.append("recomputation of a part: written as full, which takes longer and keeps less")
    size = plan.replicas[0].micro_batch
    if any(each.micro_batch != size for each in plan.replicas):
        cannot.append(f"micro-batches of several sizes: all written as {size} sequences, their number made to fit")
    copies = [
        Replica(tuple(_stage(stage, spec, left[stage.group]) for stage in each.stages),
                max(1, round(each.micro_batch * each.micro_batches / size)))
        for each in plan.replicas for _ in range(each.copies)
    ]  # fmt: skip
    cpu = {card.vendor for card in fleet.cards} <= {"cpu", "emulated"}
    dtype = "fp8-mixed" if plan.dtype == "fp8" else "bf16" if plan.dtype == "fp16" else plan.dtype
    if plan.dtype == "fp16":
        cannot.append("fp16: danlu train runs 16 bits as bf16")
    found = Plan(spec, fleet, copies[0].stages, "1f1b", copies[0].micro_batches, size, plan.seq,
                 "fp32" if cpu else dtype, replicas=tuple(copies[1:]))  # fmt: skip
    run = (f"danlu: 1\nout: {folder}/run\nplan: {{path: {folder}/plan.json}}\n"
           f"data: {{seq: {plan.seq}}}\ntrain: {{steps: 100}}\n")  # fmt: skip
    return Emitted({"plan.json": text.dumps(found), "run.yaml": run}, f"danlu train {folder}/run.yaml", tuple(cannot))


def _cut_otherwise(plan: GroupedPlan) -> list[str]:
    """What `danlu train` has no word for in how stages are cut. Raises BadValue where heads cannot replace it."""
    found = []
    ways = {stage.way for each in plan.replicas for stage in each.stages}
    cut = [way for way in ways if way.cp > 1]
    if cut:
        most = max(way.cards for way in cut)
        if any(plan.model.kv_heads % way.cards for way in cut):
            raise BadValue("danlu train cannot run this plan", why=f"it cuts sequences over stages of {most} cards, "
                           f"which danlu train would have to cut by heads: the model has {plan.model.kv_heads} key "
                           "heads", fix="--emit megatron, or a shorter --seq")  # fmt: skip
        found.append("sequences and experts cut over cards: written as tensor parallelism over the same cards, which "
                     "keeps more activations and sends more")  # fmt: skip
    if any(way.zero > 1 for way in ways):
        found.append("gradients or weights shared by the replicas (ZeRO-2, 3): danlu train keeps them whole")
    if any(way.offload or way.spill for way in ways):
        found.append("states or activations in the host's memory or on disk: danlu train keeps them on the cards")
    return found


def _stage(stage: GroupStage, spec: ModelSpec, names: list[str]) -> Stage:
    cards = tuple(names.pop(0) for _ in range(stage.cards))
    shares = (spec.heads // stage.cards,) * stage.cards if stage.cards > 1 else ()
    recompute = "none" if stage.recompute == "none" else "full"
    return Stage(cards, stage.start, stage.stop, shares, recompute)


def megatron(plan: GroupedPlan, spec: ModelSpec) -> Emitted:
    """Arguments of Megatron-LM's pretrain_gpt.py. Raises BadValue where no pipeline has one tensor-parallel size."""
    each, cannot = _even(plan, "Megatron-LM")
    layers, moved = _whole_layers(each, spec)
    cannot += moved
    way, copies = each.stages[0].way, each.copies
    if max(stage.way.zero for stage in each.stages) > 1:
        cannot.append("ZeRO-2 and 3: Megatron-LM's distributed optimizer is ZeRO-1, which keeps more")
    offload = any(stage.way.offload for stage in each.stages)
    if offload:
        cannot.append("optimizer's states on host or disk: Megatron-LM keeps them on the host and steps there, with "
                      "--optimizer-cpu-offload")  # fmt: skip
    spill = any(stage.way.spill for stage in each.stages)
    if spill and len(layers) > 1:
        cannot.append("activations on the host: Megatron-LM does that without pipeline stages only")
    woven = interleaved.of(plan, each, layers)
    layout = "|".join(("E" if at == 0 else "") + "t" * n + ("L" if at == len(woven.layers) - 1 else "")
                      for at, n in enumerate(woven.layers))  # fmt: skip
    cannot += _one_recompute(each, "Megatron-LM")
    if plan.schedule != "1f1b" and each.chunks == 1:
        cannot.append(f"schedule {plan.schedule}: Megatron-LM runs {_woven(woven)}")
    arguments = [
        f"--num-layers {spec.layers}", f"--hidden-size {spec.hidden}", f"--ffn-hidden-size {spec.ffn}",
        f"--num-attention-heads {spec.heads}", "--group-query-attention", f"--num-query-groups {spec.kv_heads}",
        f"--kv-channels {spec.head_dim}", f"--seq-length {plan.seq}",
        f"--max-position-embeddings {max(plan.seq, spec.positions)}", "--swiglu", "--normalization RMSNorm",
        "--position-embedding-type rope", f"--rotary-base {spec.rope_theta:.0f}", "--disable-bias-linear",
        *([] if spec.tied else ["--untie-embeddings-and-output-weights"]),
        *(["--qk-layernorm"] if spec.qk_norm else []),
        *([f"--num-experts {spec.experts}", f"--moe-router-topk {spec.experts_used}"] if spec.experts else []),
        f"--tensor-model-parallel-size {way.tp}", *(["--sequence-parallel"] if way.tp > 1 else []),
        *([f"--context-parallel-size {way.cp}"] if way.cp > 1 else []),
        *([f"--expert-model-parallel-size {way.ep}", f"--expert-tensor-parallel-size {way.tp}"] * bool(spec.experts)),
        f"--pipeline-model-parallel-size {len(layers)}",
        *([f"--pipeline-model-parallel-layout '{layout}'"] if len(layers) > 1 else []),
        f"--micro-batch-size {each.micro_batch}", f"--global-batch-size {each.sequences}", *_recompute(each, spec),
        *MEGATRON_BITS[_bits(plan, each, "Megatron-LM", cannot)],
        "--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather",
        *["--optimizer-cpu-offload", "--use-precision-aware-optimizer"] * offload,
        *[f"--cpu-offloading-num-layers {spec.layers - 1}"] * (spill and len(layers) == 1),
    ]  # fmt: skip
    world = copies * way.cards * len(layers)
    order = "the launcher must give rank blocks to cards in the order of the stages: " + ", ".join(
        dict.fromkeys(plan.fleet.groups[stage.group].card for stage in each.stages)
    )
    mixed = len({stage.group for stage in each.stages}) > 1
    chunks = f" in {each.chunks} chunks" * (each.chunks > 1)
    shape = f"{_many(copies, 'pipeline')} of {_many(len(layers), 'stage')}{chunks} of {_many(way.cards, 'card')}"
    head = [f"# {_many(world, 'rank')}: {shape}; never run by us",
            *([f"# {order}"] if mixed else []), *(f"# not in here: {one}" for one in cannot)]  # fmt: skip
    script = "\n".join([*head, "MODEL_ARGS=(", *(f"  {one}" for one in arguments), ")",
                        f'torchrun "$@" pretrain_gpt.py "${{MODEL_ARGS[@]}}"  # {world} ranks', ""])  # fmt: skip
    return Emitted({"megatron.sh": script}, "bash megatron.sh --nnodes N --nproc-per-node 8 ...", tuple(cannot))


def torchtitan(plan: GroupedPlan, spec: ModelSpec) -> Emitted:
    """A torchtitan TOML. Raises BadValue for a model it has no flavor of, or no pipeline with one size."""
    name = TITAN.get((spec.family, spec.layers, spec.hidden))
    if name is None:
        have = ", ".join(f"{a} {b}" for a, b in TITAN.values())
        raise BadValue(f"torchtitan has no flavor of this {spec.family} of {spec.layers} layers",
                       why=f"danlu knows its {have}", fix="--emit megatron, which takes any shape")  # fmt: skip
    each, cannot = _even(plan, "torchtitan")
    layers, moved = _whole_layers(each, spec)
    cannot += [*moved, *_one_recompute(each, "torchtitan")]
    woven = interleaved.of(plan, each, layers)
    if plan.schedule != "1f1b" and each.chunks == 1:
        cannot.append(f"schedule {plan.schedule}: set is {_woven(woven)}")
    at, parts = 0, []
    for number, count in enumerate(woven.layers):
        names = [f"layers.{i}" for i in range(at, at + count)]
        parts.append([*(["tok_embeddings"] if number == 0 else []), *names,
                      *(["norm", "output"] if number == len(woven.layers) - 1 else [])])  # fmt: skip
        at += count
    kinds = {stage.recompute for stage in each.stages}
    mode = next((mode for mode in ("full", "selective") if mode in kinds), "selective" if "mlp" in kinds else "none")
    if mode == "selective" and "mlp" in kinds:
        cannot.append("recomputation of the MLP: torchtitan's selective keeps every second matmul instead")
    way = each.stages[0].way
    if any(stage.way.offload or stage.way.spill for stage in each.stages):
        cannot.append("states or activations on host or disk: torchtitan keeps them on the cards, or all on the host")
    level = {stage.way.zero for stage in each.stages}
    if level == {2}:
        cannot.append("ZeRO-2: torchtitan reduces gradients of its FSDP after every micro-batch or at the step's end")
    bits = _bits(plan, each, "torchtitan", cannot)
    if bits == "fp16":
        cannot.append("fp16: torchtitan's 16 bits are bf16")
        bits = "bf16"
    toml = "\n".join([
        *(f"# not in here: {one}" for one in cannot), "# never run by us", "[model]", f'name = "{name[0]}"',
        f'flavor = "{name[1]}"', *['converters = ["float8"]'] * (bits == "fp8"), "", "[training]", *TITAN_BITS[bits],
        f"local_batch_size = {each.micro_batches * each.micro_batch}",
        f"global_batch_size = {each.sequences}", f"seq_len = {plan.seq}", "", "[parallelism]",
        "data_parallel_replicate_degree = 1", f"data_parallel_shard_degree = {each.copies}",
        f"tensor_parallel_degree = {way.tp}", f"context_parallel_degree = {way.cp}",
        f"expert_parallel_degree = {way.ep}", f'fsdp_reshard_after_forward = "{"always" if 3 in level else "never"}"',
        f"pipeline_parallel_degree = {len(layers)}",
        f'pipeline_parallel_schedule = "{"Interleaved1F1B" if woven.chunks > 1 else "1F1B"}"',
        f"pipeline_parallel_microbatch_size = {each.micro_batch}",
        f"module_fqns_per_model_part = {json.dumps(parts)}", "", "[activation_checkpoint]", f'mode = "{mode}"', "",
    ])  # fmt: skip
    return Emitted({"torchtitan.toml": toml}, "CONFIG_FILE=torchtitan.toml ./run_train.sh", tuple(cannot))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _woven(found: interleaved.Interleaved) -> str:
    """The order that stands in for a zero-bubble one, with the seconds of a simulated step."""
    if found.chunks == 1:
        return f"1F1B, {found.seconds:.4g} s by simulation; no number of chunks that fits is faster"
    return (f"1F1B with {found.chunks} chunks of layers a stage, {found.seconds:.4g} s by simulation; plain 1F1B takes "
            f"{found.plain:.4g} s")  # fmt: skip


def is_even(plan: GroupedPlan) -> bool:
    """Whether all its pipelines are alike, with stages cut alike: what Megatron-LM and torchtitan can run whole."""
    return len(plan.replicas) == 1 and len({_cut(stage) for stage in plan.replicas[0].stages}) == 1


def _even(plan: GroupedPlan, framework: str) -> tuple[Replicas, list[str]]:
    """The kind of pipelines with most cards whose stages are all cut alike; and what that leaves out."""
    even = [each for each in plan.replicas if len({_cut(stage) for stage in each.stages}) == 1]
    if not even:
        sizes = sorted({_cut(stage) for each in plan.replicas for stage in each.stages})
        raise BadValue(f"{framework} cannot run this plan", why="it cuts all stages alike; every pipeline of the plan "
                       f"mixes {' and '.join(' x '.join(map(str, size)) for size in sizes)} (tensor-, context- and "
                       "expert-parallel cards)",
                       fix="--emit danlu, or plan for one card type")  # fmt: skip
    each = max(even, key=lambda one: one.copies * sum(stage.cards for stage in one.stages))
    cannot = []
    if len(plan.replicas) > 1:
        cards = each.copies * sum(stage.cards for stage in each.stages)
        cannot.append(f"{len(plan.replicas)} kinds of pipelines with {plan.batch} sequences: {framework} runs equal "
                      f"replicas; this is the kind of {each.copies} copies on {cards} of {sum(plan.used)} cards, "
                      f"{each.sequences} sequences a step")  # fmt: skip
    return each, cannot


def _cut(stage: GroupStage) -> tuple[int, int, int]:
    return stage.way.tp, stage.way.cp, stage.way.ep


def _whole_layers(each: Replicas, spec: ModelSpec) -> tuple[list[int], list[str]]:
    """Layers of each stage when cuts inside a layer move to the nearest end; every stage keeps one."""
    per, count = len(spec.recipe), len(each.stages)
    ends = [round((stage.stop - 1) / per) for stage in each.stages[:-1]]
    for at in range(len(ends)):
        ends[at] = max(ends[at], at + 1, (ends[at - 1] + 1) if at else 1)
    for at in range(len(ends) - 1, -1, -1):
        ends[at] = min(ends[at], spec.layers - (count - 1 - at))
    borders = [0, *ends, spec.layers]
    inside = sum((stage.stop - 1) % per != 0 for stage in each.stages[:-1])
    said = [f"{_many(inside, 'cut')} between attention and MLP: moved to the end of a layer"] if inside else []
    return [b - a for a, b in zip(borders, borders[1:], strict=False)], said


def _one_recompute(each: Replicas, framework: str) -> list[str]:
    kinds = sorted({stage.recompute for stage in each.stages})
    return [f"recompute {' and '.join(kinds)} by stage: {framework} has one for all, the most is set"] if kinds[
        1:] else []  # fmt: skip


def _bits(plan: GroupedPlan, each: Replicas, framework: str, cannot: list[str]) -> str:
    """The precision that all cards of these pipelines have: the framework has one."""
    wide = sorted({group.card for group in (plan.fleet.groups[stage.group] for stage in each.stages) if not group.fp8})
    if plan.dtype == "fp8" and wide:
        cannot.append(f"fp8 on some cards: {framework} has one precision for all, and {', '.join(wide)} cannot; bf16 "
                      "is set")  # fmt: skip
        return "bf16"
    return plan.dtype


def _recompute(each: Replicas, spec: ModelSpec) -> list[str]:
    kinds = {stage.recompute for stage in each.stages}
    if "full" in kinds:
        return ["--recompute-granularity full", "--recompute-method uniform", "--recompute-num-layers 1"]
    if "mlp" in kinds:
        modules = ["core_attn"] * ("selective" in kinds) + ["moe" if spec.experts else "mlp"]
        return ["--recompute-granularity selective", f"--recompute-modules {' '.join(modules)}"]
    return ["--recompute-granularity selective"] if "selective" in kinds else []


FRAMEWORKS: Mapping[str, Callable[[GroupedPlan, ModelSpec], Emitted]] = {
    "megatron": megatron,
    "torchtitan": torchtitan,
}
