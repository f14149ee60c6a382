"""From a model folder to an engine: which element type, how many pages, how long a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch

from danlu import tensorfile
from danlu.errors import BadValue, DoesNotFit
from danlu.events import fallback
from danlu.kernels import ops
from danlu.kernels.huge import together
from danlu.kernels.linear import Precision
from danlu.kernels.lower import NotLowered, lower
from danlu.kernels.runner import Runner
from danlu.model.load import load, spec_of
from danlu.model.mapped import mapped
from danlu.model.quantized import Q4Linear
from danlu.nouns import ModelSpec
from danlu.serve.engine import Engine
from danlu.serve.forward import Forward, Modules, Native
from danlu.serve.kv import Paged, page_bytes
from danlu.serve.pages import PAGE, Pages, root
from danlu.serve.schedule import Limits, Schedule
from danlu.tokens import Tokenizer

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORED: Mapping[str, str] = {"F64": "fp32", "F32": "fp32", "BF16": "bf16", "F16": "fp16"}
PROMPT_TOKENS = 512  # of prompts in one step: at 1 ms a token, nobody waits longer than half a second for the next one


@dataclass(frozen=True, slots=True)
class Settings:
    """What one engine may use.

    dtype    "fp32", "bf16", "fp16", or "auto": as the weights are stored (fp16 computes in fp32 on a CPU)
    card     torch device, or "auto": this machine's accelerator, else its CPU
    precision  least precision of products with 4-bit weights on a CPU (kernels/linear.py)
    context  most tokens of prompt and answer; None for the model's own limit
    """

    max_seqs: int = 8
    max_waiting: int = 64
    kv_bytes: int = 2**28
    context: int | None = None
    dtype: str = "auto"
    card: str = "auto"
    precision: Precision = "int8"


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


def open_engine(folder: Path, settings: Settings, free_bytes: int | None = None) -> Opened:
    """Load the model in `folder` and give it KV memory.

    free_bytes  memory of the host that may be used; None to not ask
    Raises what model.load and Tokenizer raise, BadValue for a context the model has not, DoesNotFit.
    """
    spec, tokenizer = spec_of(folder), Tokenizer(folder)
    card = _card(settings.card)
    name = _stored(folder, card) if settings.dtype == "auto" else settings.dtype
    dtype = DTYPES[name]
    if settings.context is not None and settings.context > spec.positions:
        raise BadValue(f"a context of {settings.context} tokens is more than the model has", where="serve.context",
                       why=f"it was made for {spec.positions}", fix=f"--serve.context {spec.positions}")
    each = page_bytes(spec, dtype)
    count = settings.kv_bytes // each
    if count < 2:
        raise DoesNotFit("no KV page fits the memory given", where="serve.kv_gib",
                         why=f"a page of {PAGE} tokens takes {each} bytes, {settings.kv_bytes} were given",
                         fix=f"--serve.kv_gib {8 * each / 2**30:.2g}")
    if free_bytes is not None and card == "cpu" and settings.kv_bytes > free_bytes:
        raise DoesNotFit(f"{settings.kv_bytes / 2**30:.1f} GiB of KV pages do not fit", where="serve.kv_gib",
                         why=f"this host has {free_bytes / 2**30:.1f} GiB of free memory",
                         fix=f"--serve.kv_gib {free_bytes / 2**31:.2g}")
    context = min(settings.context or spec.positions, count * PAGE)
    if context < (settings.context or spec.positions):
        fallback("serve.context", f"the context is {context} tokens, not {settings.context or spec.positions}: "
                                  f"more do not fit {settings.kv_bytes / 2**30:.3g} GiB of KV pages (serve.kv_gib)")
    try:
        kv = Paged(spec, count, dtype=dtype, device=card)
        forward, weight_bytes = _forward(folder, kv, dtype, card, settings, free_bytes)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DoesNotFit("weights and KV pages do not fit", where=card, why=str(error),
                         fix="quantize the model: danlu quantize, or set a smaller --serve.kv_gib") from error
    limits = Limits(settings.max_seqs, settings.max_waiting, PROMPT_TOKENS + settings.max_seqs)
    schedule = Schedule(Pages(count), limits, root(identity(folder), name))
    engine = Engine(forward, schedule, words=tokenizer.stream, ends=tokenizer.eos, context=context)
    return Opened(engine, Voice(tokenizer), spec, name, card, isinstance(forward, Native), weight_bytes, count * each,
                  count, tokenizer.has_template)  # fmt: skip


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
                table = {} if spec.tied else {"embed.weight": weights.pop("embed.weight")}
                weights = {**together(weights), **table}
            runner = Runner(program, weights, kv.cache, precision=settings.precision)
            return Native(runner, spec), sum(weights[name].nbytes for name in program.weights)
        except NotLowered as error:
            fallback("engine", f"the model runs as torch modules, not natively (slower): {error}")
    decoder = load(folder, dtype=dtype, device=card).requires_grad_(False)
    weight_bytes = sum(parameter.nbytes for parameter in decoder.parameters())
    weight_bytes += sum(part.weight.nbytes for part in decoder.modules() if isinstance(part, Q4Linear))
    return Modules(decoder, kv, card), weight_bytes


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
