"""From the text of a run to the nouns the rooms speak: its model, its fleet, its plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from danlu.cli.run_text import Run
from danlu.nouns import Fleet, ModelSpec, Plan
from danlu.plan.candidates import Ask


def tokens_of(run: Run) -> Path:
    """Folder of the run's token file."""
    return run.data.tokens or run.out / "tokens"


def spec_of(run: Run) -> ModelSpec:
    """The numbers of the model: of the Hugging Face folder, else of `run.model`.

    The vocabulary of a new model is that of its token file; `data.vocab` before there is one. Raises BadModel,
    UnsupportedModel, UnknownPlugin, BadValue.
    """
    from danlu import families
    from danlu.errors import BadValue

    model = run.model
    if model.path is not None:
        return families.spec(families.read(model.path))
    if model.heads % model.kv_heads or (model.head_dim is None and model.hidden % model.heads):
        raise BadValue(f"{model.heads} heads do not divide", where="model.heads",
                       why=f"hidden is {model.hidden}, kv_heads {model.kv_heads}: each must be shared evenly",
                       fix="choose heads that divide hidden, and kv_heads that divide heads")  # fmt: skip
    return families.spec({
        "model_type": model.family, "num_hidden_layers": model.layers, "hidden_size": model.hidden,
        "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim or model.hidden // model.heads, "intermediate_size": model.ffn,
        "vocab_size": vocab_of(run), "max_position_embeddings": model.positions, "tie_word_embeddings": model.tied,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "norm_topk_prob": True,
        "num_local_experts": model.experts, "num_experts": model.experts, "num_experts_per_tok": model.experts_used,
        "moe_intermediate_size": model.ffn, "shared_expert_intermediate_size": model.shared_ffn,
    })  # fmt: skip


def vocab_of(run: Run) -> int:
    """Tokens of the vocabulary that a new model learns. Raises UnreadableConfig for a manifest that says none."""
    from danlu.errors import UnreadableConfig

    manifest = tokens_of(run) / "manifest.json"
    if not manifest.exists():
        return run.data.vocab
    try:
        return int(json.loads(_text(manifest))["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableConfig(f"{manifest} names no vocabulary", why=f"{type(error).__name__}: {error}",
                               fix="danlu prep run.yaml writes the token file anew") from error  # fmt: skip


def fleet_of(run: Run, progress: Callable[[str], None]) -> Fleet:
    """The cards of a run: of `fleet.path`, else this machine's; emulated unequal ones on them with `fleet.emulate`.

    The machine is measured once and kept in OUT/fleet.yaml; delete the file to measure again. Raises BadFleet,
    BadValue, MissingPackage, ProbeFailed.
    """
    from danlu.errors import BadFleet, BadValue
    from danlu.fleet import text
    from danlu.fleet.emulate import emulate, shares
    from danlu.fleet.probe import probe

    kept = run.fleet.path or run.out / "fleet.yaml"
    if run.fleet.path or kept.exists():
        machine = text.load(kept)
    else:
        machine = probe(progress=progress)
        run.out.mkdir(parents=True, exist_ok=True)
        text.dump(machine, kept)
    if run.fleet.emulate is None:
        return machine
    cores = [card for card in machine.cards if card.vendor == "cpu"]
    if not cores:
        raise BadValue(
            "there is no CPU to emulate cards on",
            where=str(kept),
            why=f"its cards are of {', '.join(sorted({card.vendor for card in machine.cards}))}",
            fix="leave fleet.emulate out, or name a fleet.path that `danlu probe` wrote",
        )
    base = cores[0]
    speeds = shares(run.fleet.emulate, len(cores))
    even_gib = sum(card.mem_bytes for card in cores) / 2**31 / len(speeds)
    sizes = run.fleet.mem_gib or [even_gib] * len(speeds)
    link = machine.link(base.name, cores[-1].name) if len(cores) > 1 else None
    host = machine.hosts[0] if machine.hosts else None
    try:
        return emulate(base, speeds, [int(size * 2**30) for size in sizes], link=link, host=host)
    except BadFleet as error:
        raise error.at("fleet.mem_gib") from error


def plan_of(run: Run, spec: ModelSpec, fleet: Fleet) -> Plan:
    """The plan of a run, forecast included: of `plan.path`, else the best split, or the even one where it says so.

    Raises UnreadablePlan, BadShares, DoesNotFit, ShortBatch.
    """
    from danlu.plan import room, search
    from danlu.plan.forecast import forecast
    from danlu.plan.ranks import copies

    if run.plan.path is not None:
        told = _told(run.plan.path)
        return forecast(replace(told, dtype=_trainable(run.train.dtype or told.dtype, told.fleet)))
    size, count, seq = run.plan.micro_batch, run.plan.micro_batches, run.data.seq
    dtype = _trainable(run.train.dtype or "fp32", fleet)
    if goes_in_step(run):
        return in_step(run, Ask(spec, size, count, seq, dtype), fleet)
    if run.plan.split == "best":
        ask = Ask(spec, size, count, seq, dtype)
        one = _one_copy(run, ask, fleet)
        if run.plan.copies == 1 or run.plan.schedule == "zero-bubble":
            return one
        return copies.faster(one, copies.best(ask, fleet, run.plan.copies))
    even = search.even(spec, fleet, micro_batch=size, micro_batches=count, seq=seq, dtype=dtype)
    room.check_length(even, lambda copy: "plan.micro_batches", "--plan.micro_batches {stages}, or --plan.split best")
    if run.plan.schedule != "zero-bubble" or len(even.stages) == 1:
        return even
    return forecast(replace(even, schedule="zb", orders=search.ordered(even, None)[0][1]))


def _told(path: Path) -> Plan:
    """The plan of a file; what it asks for and cannot be done is refused with the line."""
    from danlu.errors import BadShares
    from danlu.lines import place
    from danlu.plan import room, text
    from danlu.plan.ranks.cells import share_of

    words, where = _text(path), str(path)
    plan = text.loads(words, where)
    room.check_length(plan, lambda copy: place(words, where, (*text.keys_of(copy), "micro_batches")),
                      "{stages} micro-batches, or fewer stages; danlu plan run.yaml writes it anew")  # fmt: skip
    for copy, pipeline in enumerate(plan.pipelines):
        for stage in range(len(pipeline.stages)):
            try:
                share_of(plan, copy, stage, 0)
            except BadShares as error:
                line = place(words, where, (*text.keys_of(copy), "stages", stage))
                raise error.at(f"{line}, {error.where}") from error
    return plan


def _one_copy(run: Run, ask: Ask, fleet: Fleet) -> Plan:
    """The best pipeline; cards may share its stages where `plan.tensor` says so. Raises DoesNotFit, ShortBatch."""
    from danlu.errors import DoesNotFit, ShortBatch
    from danlu.plan import search
    from danlu.plan.ranks import copies, tensor_search

    cut = None
    if run.plan.tensor > 1 and run.plan.schedule != "zero-bubble":
        cut = tensor_search.best(ask, fleet, run.plan.tensor)
    try:
        one = search.search(ask.spec, fleet, micro_batch=ask.micro_batch, micro_batches=ask.micro_batches, seq=ask.seq,
                            dtype=ask.dtype, schedule=run.plan.schedule)  # fmt: skip
    except DoesNotFit:
        if cut is None:
            raise
        return cut
    except ShortBatch as error:
        if cut is None:
            raise error.at("plan.micro_batches") from error
        return cut
    return copies.faster(one, cut)


def goes_in_step(run: Run) -> bool:
    """True where a run asks for sequences in parts or for experts spread."""
    return run.plan.context > 1 or run.plan.experts == "spread"


def in_step(run: Run, ask: Ask, fleet: Fleet) -> Plan:
    """The plan of a run whose sequences are cut or experts spread. Raises BadContext, DoesNotFit, BadValue."""
    from danlu.errors import BadValue
    from danlu.plan.ranks import step_search

    plan, parts, spread = run.plan, run.plan.context > 1, run.plan.experts == "spread"
    if spread and (not ask.spec.experts or not (parts or plan.copies > 1)):
        raise BadValue("experts have nothing to spread over" if ask.spec.experts else "there are no experts to spread",
                       where="plan.experts", why=f"the model has {ask.spec.experts} experts a layer; plan.context is "
                       f"{plan.context}, plan.copies {plan.copies}",
                       fix="leave plan.experts out, or give plan.context: 2")  # fmt: skip
    asked: dict[str, tuple[str | int, tuple[str | int, ...]]]
    asked = {"split": (plan.split, ("best",)), "schedule": (plan.schedule, ("auto", "1f1b"))}
    asked |= {"tensor": (plan.tensor, (1,))}
    asked |= {"copies": (plan.copies, (1,))} if parts else {}
    for name, (said, known) in asked.items():
        if said not in known:
            raise BadValue(f"plan.{name} {said} and pipelines that go in step together", where=f"plan.{name}",
                           why="they are planned as the best split under 1F1B; parts of sequences as one copy",
                           fix=f"leave plan.{name} out, or write the Plan JSON yourself: plan.path")  # fmt: skip
    return step_search.best(ask, fleet, step_search.Ways(plan.context if parts else plan.copies, parts, spread))


def _trainable(dtype: str, fleet: Fleet) -> str:
    """The dtype, with a warning where a card's speed in it is a guess. Raises NotRunnable for one nothing trains in."""
    from danlu.events import fallback
    from danlu.train.job import check_dtype

    check_dtype(dtype, fleet)
    slow = [card.name for card in fleet.cards if dtype not in card.flops]
    if slow and dtype != "fp32":
        fallback("plan.dtype", f"{slow[0]} was not measured in {dtype}: its fp32 speed is taken, which a CPU without "
                               f"{dtype} instructions does not reach (matrix products on AVX2: a ninth)")  # fmt: skip
    return dtype


def _text(path: Path) -> str:
    from danlu.errors import UnreadableConfig

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableConfig(f"cannot read {path}", why=str(error), fix=f"ls -l {path.parent}") from error
