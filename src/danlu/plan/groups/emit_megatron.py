"""A plan over a large fleet as arguments of Megatron-LM's pretrain_gpt.py.

Options are those of Megatron-LM of August 2026 (d98e8a6), most of which core 0.13 has too; never run by us.
"""

from __future__ import annotations

from danlu.errors import BadValue
from danlu.nouns import ModelSpec
from danlu.plan.groups import interleaved
from danlu.plan.groups.emit_alike import Emitted, bits, even, many, one_recompute, order_words, whole_layers
from danlu.plan.groups.grouped import GroupedPlan, Replicas
from danlu.plan.stand_ins import runs

BITS = {"bf16": ["--bf16"], "fp16": ["--fp16"], "fp32": [], "fp8": ["--bf16", "--fp8-format hybrid"]}
LLAMA = ["--swiglu", "--normalization RMSNorm", "--position-embedding-type rope", "--disable-bias-linear"]
EXACT = ("gpt2",)  # models that danlu does not run and Megatron-LM's options say whole
ROPE = (1.0, 4.0, 8192)  # low, high and original length of Llama 3.1's rotary scaling, which it has no options for


def megatron(plan: GroupedPlan, spec: ModelSpec) -> Emitted:
    """Arguments of Megatron-LM's pretrain_gpt.py. Raises BadValue where no pipeline has one tensor-parallel size."""
    each, cannot = even(plan, "Megatron-LM")
    layers, moved = whole_layers(each, spec)
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
    cannot += one_recompute(each, "Megatron-LM")
    if plan.schedule != "1f1b" and each.chunks == 1:
        cannot.append(f"schedule {plan.schedule}: Megatron-LM runs {order_words(woven)}")
    arguments = [
        *_model(spec, cannot), f"--seq-length {plan.seq}", f"--max-position-embeddings {max(plan.seq, spec.positions)}",
        f"--tensor-model-parallel-size {way.tp}", *(["--sequence-parallel"] if way.tp > 1 else []),
        *([f"--context-parallel-size {way.cp}"] if way.cp > 1 else []),
        *([f"--expert-model-parallel-size {way.ep}", f"--expert-tensor-parallel-size {way.tp}"] * bool(spec.experts)),
        f"--pipeline-model-parallel-size {len(layers)}",
        *([f"--pipeline-model-parallel-layout '{layout}'"] if len(layers) > 1 else []),
        f"--micro-batch-size {each.micro_batch}", f"--global-batch-size {each.sequences}", *_recompute(each, spec),
        *BITS[bits(plan, each, "Megatron-LM", cannot)],
        "--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather",
        *["--optimizer-cpu-offload", "--use-precision-aware-optimizer"] * offload,
        *[f"--cpu-offloading-num-layers {spec.layers - 1}"] * (spill and len(layers) == 1),
    ]  # fmt: skip
    trial = [f"--mock-data --tokenizer-type NullTokenizer --vocab-size {spec.vocab}",
             "--train-iters 20 --lr 1.0e-4 --eval-iters 0 --log-interval 1 --log-throughput"]  # fmt: skip
    world = copies * way.cards * len(layers)
    order = "the launcher must give rank blocks to cards in the order of the stages: " + ", ".join(
        dict.fromkeys(plan.fleet.groups[stage.group].card for stage in each.stages)
    )
    mixed = len({stage.group for stage in each.stages}) > 1
    chunks = f" in {each.chunks} chunks" * (each.chunks > 1)
    shape = f"{many(copies, 'pipeline')} of {many(len(layers), 'stage')}{chunks} of {many(way.cards, 'card')}"
    head = [f"# {many(world, 'rank')}: {shape}; never run by us",
            *([f"# {order}"] if mixed else []), *(f"# not in here: {one}" for one in cannot)]  # fmt: skip
    script = "\n".join([
        *head, "MODEL_ARGS=(", *(f"  {one}" for one in arguments), ")",
        "# 20 steps on made-up data, whose log `danlu plan fit` reads; put your data, tokenizer and schedule here",
        "RUN_ARGS=(", *(f"  {one}" for one in trial), ")",
        f'torchrun "$@" pretrain_gpt.py "${{MODEL_ARGS[@]}}" "${{RUN_ARGS[@]}}"  # {world} ranks', "",
    ])  # fmt: skip
    return Emitted({"megatron.sh": script}, "bash megatron.sh --nnodes N --nproc-per-node 8 ...", tuple(cannot))


def _model(spec: ModelSpec, cannot: list[str]) -> list[str]:
    """The model's own arguments; what of it Megatron-LM has no word for is added to `cannot`.

    Raises BadValue for a local filter: without it the model is another one.
    """
    if "lfa" in spec.recipe:
        raise BadValue("Megatron-LM has no local filter", why=f"attention of this {spec.family} sees its input through "
                       "two convolutions", fix="--emit danlu, which has it")  # fmt: skip
    if not runs(spec) and spec.family not in EXACT:
        lost, like = ("positions, activation", "Llama") if spec.gated else ("positions", "GPT-2")
        lost += ", routing" * bool(spec.experts)
        cannot.append(f"norm, {lost} and biases of {spec.family}: written are a {like}'s")
    said = [
        f"--num-layers {spec.layers}", f"--hidden-size {spec.hidden}",
        f"--ffn-hidden-size {spec.dense_ffn or spec.ffn}", f"--num-attention-heads {spec.heads}", *_attention(spec),
        *(LLAMA if spec.gated else ["--normalization LayerNorm", "--position-embedding-type learned_absolute"]),
        *[f"--norm-epsilon {spec.norm_eps:g}", f"--rotary-base {spec.rope_theta:.0f}"] * spec.gated,
        *["--untie-embeddings-and-output-weights"] * (not spec.tied),
    ]  # fmt: skip
    if spec.out_bias:
        cannot.append("a bias of attention's output: Megatron-LM has it with those of the MLP only")
    if (rope := spec.rope_scaling) is not None:
        said.append(f"--use-rope-scaling --rope-scaling-factor {rope.factor:g}")
        if (rope.low, rope.high, rope.original) != ROPE:
            cannot.append(f"rotary scaling from {rope.original} tokens, factors {rope.low:g} and {rope.high:g}: "
                          f"Megatron-LM's are {ROPE[2]}, {ROPE[0]:g} and {ROPE[1]:g}")  # fmt: skip
    if spec.experts:
        dense = f"--moe-layer-freq '([0]*{spec.dense_layers}+[1]*{spec.layers - spec.dense_layers})'"
        said += [f"--num-experts {spec.experts}", *[dense] * bool(spec.dense_layers),
                 f"--moe-ffn-hidden-size {spec.ffn}",
                 f"--moe-router-topk {spec.experts_used}", *["--moe-router-pre-softmax"] * (not spec.norm_topk),
                 "--moe-grouped-gemm", "--moe-token-dispatcher-type alltoall"]  # fmt: skip
    if spec.shared_ffn:
        said.append(f"--moe-shared-expert-intermediate-size {spec.shared_ffn}"
                    + " --moe-shared-expert-gate" * runs(spec))  # fmt: skip
    return said


def _attention(spec: ModelSpec) -> list[str]:
    """Heads, or the ranks of latent attention; windows."""
    if (mla := spec.latent) is not None:
        return ["--multi-latent-attention", *[f"--q-lora-rank {mla.q_rank}"] * bool(mla.q_rank),
                f"--kv-lora-rank {mla.kv_rank}", f"--qk-head-dim {mla.head}", f"--qk-pos-emb-head-dim {mla.rope}",
                f"--v-head-dim {mla.value}", "--qk-layernorm"]  # fmt: skip
    said = ["--group-query-attention", f"--num-query-groups {spec.kv_heads}", f"--kv-channels {spec.head_dim}",
            *["--qk-layernorm"] * spec.qk_norm, *["--add-qkv-bias"] * (spec.qkv_bias and spec.gated)]  # fmt: skip
    if spec.window:
        said.append(f"--window-size {spec.window - 1},0")
    if spec.unwindowed:
        said.append(f"--window-attn-skip-freq {spec.layers // spec.unwindowed}")
    return said


def _recompute(each: Replicas, spec: ModelSpec) -> list[str]:
    kinds = {stage.recompute for stage in each.stages}
    if "full" in kinds:
        return ["--recompute-granularity full", "--recompute-method uniform", "--recompute-num-layers 1"]
    if "mlp" in kinds:
        modules = ["core_attn"] * ("selective" in kinds) + ["moe" if spec.experts else "mlp"]
        return ["--recompute-granularity selective", f"--recompute-modules {' '.join(modules)}"]
    return ["--recompute-granularity selective"] if "selective" in kinds else []
