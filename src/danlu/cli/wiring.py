"""From the text of a run to the nouns the rooms speak: its model, its fleet, its plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.cli.run_text import Run
from danlu.nouns import FP8, Fleet, ModelSpec, Plan, kept_as
from danlu.plan.candidates import Ask

if TYPE_CHECKING:
    from danlu.plan.ranks.wishes import Wishes


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
    """The cards of a run: of `plan.path`, which names its own; of `fleet.path`, else this machine's; emulated unequal
    ones on them with `fleet.emulate`.

    The machine is measured once and kept in OUT/fleet.yaml; delete the file to measure again. Raises BadFleet,
    BadValue, MissingPackage, ProbeFailed; of `plan.path` what plan_of raises.
    """
    if run.plan.path is not None:
        return _told(run.plan.path).fleet
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
    """The plan of a run, forecast included: of `plan.path`, else the best of those that its keys allow.

    Raises UnreadablePlan, BadShares, BadContext, BadValue, DoesNotFit, ShortBatch.
    """
    from danlu.errors import ShortBatch
    from danlu.plan.forecast import forecast
    from danlu.plan.ranks import wishes

    if run.plan.path is not None:
        told = _told(run.plan.path)
        return forecast(replace(told, dtype=_trainable(run.train.dtype or told.dtype, told.fleet)))
    dtype = _trainable(run.train.dtype or "fp32", fleet)
    ask = Ask(spec, run.plan.micro_batch, run.plan.micro_batches, run.data.seq, dtype)
    try:
        return wishes.best(ask, fleet, wishes_of(run))
    except ShortBatch as error:
        raise (error if error.where else error.at("plan.micro_batches")) from error


def wishes_of(run: Run) -> Wishes:
    """In which ways a run lets its cards share the model."""
    from danlu.plan.ranks.wishes import Wishes

    plan = run.plan
    return Wishes(plan.split, plan.schedule, plan.copies, plan.tensor, plan.context, plan.experts == "spread")


def _told(path: Path) -> Plan:
    """The plan of a file; what it asks for and cannot be done is refused with the line."""
    from danlu.errors import BadContext, BadShares, NotRunnable, UnknownSchedule
    from danlu.lines import place
    from danlu.plan import room, text
    from danlu.plan.events import check_orders
    from danlu.plan.ranks.cells import share_of
    from danlu.plan.ranks.parts import parts
    from danlu.plan.ranks.seats import alone
    from danlu.train.job import check_recompute

    words, where = _text(path), str(path)
    plan = text.loads(words, where)

    def line(copy: int, *keys: str | int) -> str:
        return place(words, where, (*text.keys_of(copy), *keys))

    room.check_length(plan, lambda copy: line(copy, "micro_batches"),
                      "{stages} micro-batches, or fewer stages; danlu plan run.yaml writes it anew")  # fmt: skip
    try:
        parts(plan)
    except BadContext as error:
        first = next(copy for copy, pipeline in enumerate(plan.pipelines) if pipeline.context)
        raise error.at(f"{line(first, 'context')}, {error.where}") from error
    for copy, pipeline in enumerate(plan.pipelines):
        try:
            check_orders(alone(plan, copy))
        except UnknownSchedule as error:
            raise error.at(line(copy, "orders") if plan.schedule == "zb" else line(0, "schedule")) from error
        for stage in range(len(pipeline.stages)):
            try:
                check_recompute(stage, pipeline.stages[stage])
                share_of(plan, copy, stage, 0)
            except (BadShares, NotRunnable) as error:
                raise error.at(f"{line(copy, 'stages', stage)}, {error.where}") from error
    return plan


def _trainable(dtype: str, fleet: Fleet) -> str:
    """The dtype, with a warning where a card's speed in it is a guess. Raises NotRunnable for one nothing trains in."""
    from danlu.events import fallback
    from danlu.train.job import check_dtype

    check_dtype(dtype, fleet)
    kept = kept_as(dtype)
    slow = [card.name for card in fleet.cards if kept not in card.flops]
    if slow and kept != "fp32":
        fallback("plan.dtype", f"{slow[0]} was not measured in {kept}: its fp32 speed is taken, which a CPU without "
                               f"{kept} instructions does not reach (matrix products on AVX2: a ninth)")  # fmt: skip
    lacking = [card.name for card in fleet.cards if "fp8" not in card.flops]
    if lacking and dtype in FP8:
        how = "in bf16" if dtype == "fp8-mixed" else "in emulated fp8, which is slow: to see what 8 bits do to the loss"
        fallback("plan.fp8", f"{len(lacking)} of {len(fleet.cards)} cards cannot multiply 8-bit floats, {lacking[0]} "
                             f"first: they multiply {how}")  # fmt: skip
    return dtype


def _text(path: Path) -> str:
    from danlu.errors import UnreadableConfig

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableConfig(f"cannot read {path}", why=str(error), fix=f"ls -l {path.parent}") from error
