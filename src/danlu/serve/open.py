"""From a model folder to an engine: which element type, how many pages, how long a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch

from danlu import tensorfile
from danlu.comm.shm import usable
from danlu.errors import BadValue, DanluError, DoesNotFit, NotShareable
from danlu.events import fallback
from danlu.fleet.cores import deal, nodes
from danlu.kernels import ops
from danlu.kernels.linear import Precision
from danlu.kernels.lower import NotLowered, lower
from danlu.kernels.runner import Runner
from danlu.model.load import load, spec_of
from danlu.model.mapped import mapped, moved
from danlu.model.quantized import Q4Linear
from danlu.nouns import ModelSpec
from danlu.serve.engine import Engine
from danlu.serve.forward import Forward, Modules, Native
from danlu.serve.kv import Paged, page_bytes
from danlu.serve.lead import Lead, Spawn
from danlu.serve.pages import PAGE, Pages, root
from danlu.serve.schedule import Limits, Schedule
from danlu.serve.shared import DTYPES, KV_DTYPES, Part, shares_of
from danlu.shares import in_proportion
from danlu.tokens import Tokenizer

STORED: Mapping[str, str] = {"F64": "fp32", "F32": "fp32", "BF16": "bf16", "F16": "fp16"}
PROMPT_TOKENS = 512  # of prompts in one step: at 1 ms a token, nobody waits longer than half a second for the next one


@dataclass(frozen=True, slots=True)
class Settings:
    """What one engine may use.

    dtype    "fp32", "bf16", "fp16", or "auto": as the weights are stored (fp16 computes in fp32 on a CPU)
    card     torch device, or "auto": this machine's accelerator, else its CPU
    precision  least precision of products with 4-bit weights on a CPU (kernels/linear.py)
    kv       "int8" keeps keys and values in 8 bits, "auto" as `dtype`
    context  most tokens of prompt and answer; None for the model's own limit
    parts    how much of the model each of several processes computes, in proportion; a single one computes all of it
    experts  whole experts of each process; empty where they share every expert
    patience_s  how long one of them may stand still before it is started again
    """

    max_seqs: int = 8
    max_waiting: int = 64
    kv_bytes: int = 2**28
    context: int | None = None
    dtype: str = "auto"
    card: str = "auto"
    precision: Precision = "int8"
    kv: str = "auto"
    parts: tuple[int, ...] = (1,)
    experts: tuple[int, ...] = ()
    patience_s: float = 1.0


class Voice:
    """A folder's tokenizer, as the API speaks to it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the first token the model wants."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        return self._tokenizer.decode(ids)

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the assistant speaks."""
        return self._tokenizer.encode(self._tokenizer.chat(messages), special=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model behind an engine that is not started yet, and what there is to say about it.

    native  steps run in one native call; else in torch modules
    lead    the processes that share the model, None where this one has all of it
    """

    engine: Engine
    voice: Voice
    spec: ModelSpec
    dtype: str
    card: str
    native: bool
    weight_bytes: int
    kv_bytes: int
    pages: int
    chats: bool
    lead: Lead | None = None

    def failure(self) -> DanluError | None:
        """Why no request is taken any more, or None while all is well."""
        return self.engine.failure

    def close(self) -> None:
        """End what was started beside the engine, which must have been stopped."""
        if self.lead is not None:
            self.lead.close()


def open_engine(folder: Path, settings: Settings, free_bytes: int | None = None, spawn: Spawn | None = None) -> Opened:
    """Load the model in `folder` and give it KV memory.

    free_bytes  memory of the host that may be used; None to not ask
    spawn       starts the other processes where the settings have more than one part
    Raises what model.load and Tokenizer raise, BadValue for a context the model has not, DoesNotFit; for parts
    BadShares, NotShareable, RankLost.
    """
    spec, tokenizer = spec_of(folder), Tokenizer(folder)
    card = _card(settings.card)
    name = _stored(folder, card) if settings.dtype == "auto" else settings.dtype
    dtype = DTYPES[name]
    if settings.context is not None and settings.context > spec.positions:
        raise BadValue(
            f"a context of {settings.context} tokens is more than the model has",
            where="serve.context",
            why=f"it was made for {spec.positions}",
            fix=f"--serve.context {spec.positions}",
        )
    kind = name if settings.kv == "auto" else settings.kv
    each = page_bytes(spec, KV_DTYPES[kind])
    count = settings.kv_bytes // each
    if count < 2:
        raise DoesNotFit(
            "no KV page fits the memory given",
            where="serve.kv_gib",
            why=f"a page of {PAGE} tokens takes {each} bytes, {settings.kv_bytes} were given",
            fix=f"--serve.kv_gib {8 * each / 2**30:.2g}",
        )
    if free_bytes is not None and card == "cpu" and settings.kv_bytes > free_bytes:
        raise DoesNotFit(
            f"{settings.kv_bytes / 2**30:.1f} GiB of KV pages do not fit",
            where="serve.kv_gib",
            why=f"this host has {free_bytes / 2**30:.1f} GiB of free memory",
            fix=f"--serve.kv_gib {free_bytes / 2**31:.2g}",
        )
    context = min(settings.context or spec.positions, count * PAGE)
    if context < (settings.context or spec.positions):
        fallback(
            "serve.context",
            f"the context is {context} tokens, not {settings.context or spec.positions}: "
            f"more do not fit {settings.kv_bytes / 2**30:.3g} GiB of KV pages (serve.kv_gib)",
        )
    lead: Lead | None = None
    forward: Forward
    try:
        if len(settings.parts) > 1:
            assert spawn is not None
            forward = lead = _lead(folder, count, name, kind, card, settings, free_bytes, spawn)
            weight_bytes = lead.weight_bytes
        else:
            kv = Paged(spec, count, dtype=KV_DTYPES[kind], device=card)
            forward, weight_bytes = _forward(folder, kv, dtype, card, settings, free_bytes)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DoesNotFit(
            "weights and KV pages do not fit",
            where=card,
            why=str(error),
            fix="quantize the model: danlu quantize, or set a smaller --serve.kv_gib",
        ) from error
    limits = Limits(settings.max_seqs, settings.max_waiting, PROMPT_TOKENS + settings.max_seqs)
    schedule = Schedule(Pages(count), limits, root(identity(folder), kind))
    engine = Engine(forward, schedule, words=tokenizer.stream, ends=tokenizer.eos, context=context,
                    page_bytes=each, mendable=lead)  # fmt: skip
    native = isinstance(forward, Native | Lead)
    return Opened(engine, Voice(tokenizer), spec, name, card, native, weight_bytes, count * each, count,
                  tokenizer.has_template, lead)  # fmt: skip


def _forward(
    folder: Path, kv: Paged, dtype: torch.dtype, card: str, settings: Settings, free_bytes: int | None
) -> tuple[Forward, int]:
    """What computes the steps, and the bytes of its weights: natively on a CPU where it can be, else torch modules.

    Native weights move to huge pages when they and the KV pages fit free memory; else they stay in the mapped file. A
    table that is only looked up stays there: of its pages those of the words that were said are in memory.
    """
    if card == "cpu":
        try:
            if ops.find("engine_run") is None:
                raise NotLowered("this machine has no native engine (danlu doctor says why)")
            spec = spec_of(folder)
            program = lower(spec)
            weights = mapped(folder, dtype)
            size = sum(weight.nbytes for weight in weights.values())
            if free_bytes is None or size + settings.kv_bytes < free_bytes:
                weights = moved(folder, dtype, stay=() if spec.tied else ("embed.weight",))
            runner = Runner(program, weights, kv.cache, precision=settings.precision)
            return Native(runner, spec), sum(weights[name].nbytes for name in program.weights)
        except NotLowered as error:
            _no_int8(settings, str(error))
            fallback("engine", f"the model runs as torch modules, not natively (slower): {error}")
    else:
        _no_int8(settings, f"the card is {card!r}")
    decoder = load(folder, dtype=dtype, device=card).requires_grad_(False)
    weight_bytes = sum(parameter.nbytes for parameter in decoder.parameters())
    weight_bytes += sum(part.weight.nbytes for part in decoder.modules() if isinstance(part, Q4Linear))
    return Modules(decoder, kv, card), weight_bytes


def _no_int8(settings: Settings, why: str) -> None:
    if settings.kv == "int8":
        raise BadValue("keys and values in 8 bits need the native engine of a CPU", where="--kv", why=why,
                       fix="leave --kv out")  # fmt: skip


def _lead(
    folder: Path, pages: int, dtype: str, kv: str, card: str, settings: Settings, free_bytes: int | None, spawn: Spawn
) -> Lead:
    """The processes that share the model, each on its own cores and with its part of the weights in its own memory."""
    heads, near = in_proportion(spec_of(folder), settings.parts), nodes()
    shares_of(folder, heads, settings.experts)  # before any process is started
    count, asked = sum(map(len, near)), len(heads)
    why = (
        f"this process may use {count} cores, {asked} processes were asked for" if asked > count
        else f"the card is {card!r}; processes share a model on CPUs" if card != "cpu"
        else "this machine has no native engine or no shared memory (danlu doctor)" if not usable() else ""
    )  # fmt: skip
    if why:
        fix = f"--tp {count}" if asked > count > 1 else "leave --tp out"
        raise NotShareable("this model cannot be shared by processes here", where="--tp", why=why, fix=fix)
    size = sum(len(entry.buffer) for entry in tensorfile.read_folder(folder).values())
    large = free_bytes is None or size + settings.kv_bytes < free_bytes
    cores = deal(near, heads)
    own = Part(0, str(folder.resolve()), heads, settings.experts, cores[0], dtype, settings.precision, kv, pages, large)
    try:
        return Lead(spec_of(folder), own, cores, spawn, settings.patience_s)
    except NotLowered as error:
        raise NotShareable("this model cannot be shared by processes", where="--tp", why=str(error),
                           fix="leave --tp out: it then runs as torch modules") from error  # fmt: skip


def identity(folder: Path) -> str:
    """What a model folder is, for block keys: its config.json, and names, sizes and times of its weight files."""
    seen = blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        said = path.stat()
        seen.update(f"{path.name}\0{said.st_size}\0{said.st_mtime_ns}\0".encode())
    return seen.hexdigest()


def _card(asked: str) -> str:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if asked != "auto":
        there = ["cpu", *([found.type] if found else [])]
        if asked.partition(":")[0] not in there:
            raise BadValue(f"this machine has no card {asked!r}", where="--card", why=f"it has: {', '.join(there)}",
                           fix="--card auto; danlu doctor says what keeps a card away")  # fmt: skip
        return asked
    return "cpu" if found is None else found.type


def _stored(folder: Path, card: str) -> str:
    """Element type of the largest float tensor in the folder."""
    entries = [entry for entry in tensorfile.read_folder(folder).values() if entry.dtype in STORED]
    name = STORED[max(entries, key=lambda entry: len(entry.buffer)).dtype] if entries else "fp32"
    return "fp32" if name == "fp16" and card == "cpu" else name
