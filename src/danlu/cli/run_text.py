"""What a run.yaml says: its sections, their keys, what each may be, and what it is when nobody says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field


def _expanded(path: Path) -> Path:
    return Path(os.path.expanduser(path))


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


Positive = Annotated[float, Field(gt=0)]
Place = Annotated[Path, pydantic.AfterValidator(_expanded)]  # "~" is the user's home also where no shell reads it


class Section(pydantic.BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Base of every section: unknown keys are refused, nothing is written to later, every number is finite."""


class ModelText(Section):
    """Which model: a Hugging Face folder, or the numbers of a new one."""

    path: Place | None = Field(None, description="Hugging Face folder (config.json, safetensors, tokenizer.json)")
    family: str = Field("llama", description="a file of danlu/families")
    layers: int = Field(6, gt=0, description="decoder layers")
    hidden: int = Field(192, gt=0, description="width of a token's vector between layers")
    heads: int = Field(6, gt=0, description="query heads")
    kv_heads: int = Field(3, gt=0, description="key-value heads; heads must be a multiple")
    head_dim: int | None = Field(None, gt=0, description="hidden / heads when not given")
    ffn: int = Field(512, gt=0, description="width inside the gated MLP; of one expert where there are experts")
    experts: int = Field(8, gt=0, description="experts of a layer, in a family that has them")
    experts_used: int = Field(2, gt=0, description="experts a token goes through")
    shared_ffn: int = Field(512, gt=0, description="width of the expert every token goes through, in qwen2_moe")
    positions: int = Field(2048, gt=0, description="longest context in tokens")
    tied: bool = Field(False, description="the head shares the embedding's weights")


class FleetText(Section):
    """Which cards: a Fleet YAML, or emulated cards on this machine."""

    path: Place | None = Field(None, description="Fleet YAML, as `danlu probe` writes it")
    emulate: list[Positive] | None = Field(
        None, min_length=1, description="speeds in proportion, e.g. [4, 2, 2]; shares of 0.8 of the cores"
    )
    mem_gib: list[Positive] | None = Field(None, min_length=1, description="memory of each emulated card in GiB")


class DataText(Section):
    """Which text, and how it becomes tokens."""

    text: Annotated[list[Place], pydantic.BeforeValidator(_listed)] = Field(
        default_factory=list, description="folders or files of text"
    )
    tokens: Place | None = Field(None, description="folder of a prepared token file; default OUT/tokens")
    steps: list[str | dict[str, Any]] | None = Field(
        None, min_length=1, description="what cleans the text, in order: files of danlu/data/steps"
    )
    workers: int = Field(1, gt=0, description="processes that clean the text, or tasks of a Slurm array or of Ray")
    vocab: int = Field(2048, ge=300, description="tokens of the byte-level BPE trained on the text")
    seq: int = Field(128, gt=1, description="tokens per training sequence")
    packing: Literal["best_fit", "cut"] = Field(
        "best_fit", description="best_fit: a document that fits a sequence is not split; cut: windows of one stream"
    )
    limit_mb: float = Field(64, gt=0, description="stop reading text after so many MB")


class PlanText(Section):
    """How the work is split."""

    path: Place | None = Field(None, description="Plan JSON to run as it stands")
    split: Literal["best", "even"] = Field("best", description="by what each card can do, or equal shares")
    schedule: Literal["auto", "1f1b", "zero-bubble"] = Field(
        "auto", description="order of a pipeline's work; auto takes the one whose simulated step is shorter"
    )
    copies: int = Field(
        1, gt=0, description="most copies of the model the cards may be parted into; 1 for one pipeline"
    )
    tensor: int = Field(
        1, gt=0, description="most cards of a host that may share layers, heads in proportion; 1 for none"
    )
    context: int = Field(
        1, gt=0, description="parts that every sequence is cut into, each on cards of its own and as long as they can"
    )
    experts: Literal["whole", "spread"] = Field(
        "whole", description="spread: each part of a sequence, where there are parts, else each copy holds some of them"
    )
    micro_batch: int = Field(4, gt=0, description="sequences per micro-batch")
    micro_batches: int = Field(8, gt=0, description="micro-batches per step")


class TrainText(Section):
    """How the model learns."""

    steps: int = Field(100, gt=0, description="optimizer steps of the whole run")
    dtype: Literal["fp32", "bf16", "fp8", "fp8-mixed", "fp8-emulated"] | None = Field(
        None,
        description="of weights and activations; sums of gradients, master weights and the loss are fp32. fp8: bf16 "
        "whose sub-layers multiply in 8 bits, on every card; fp8-mixed: on cards that can; fp8-emulated: cards that "
        "cannot round alike. By default the plan's, and fp32 where one is made",
    )
    lr: float = Field(3e-3, gt=0, description="highest learning rate, at the end of the warm-up")
    warmup: int = Field(10, ge=0, description="steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay, per step times the rate")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    seed: int = Field(0, description="of the weights and of the order of the text")
    save_every: int = Field(10, gt=0, description="steps between snapshots")
    resume: bool = Field(False, description="go on from the newest snapshot in OUT")


class LaunchText(Section):
    """Where the processes of a training run start."""

    by: Literal["local", "orders"] = Field(
        "local", description="local: all on this machine; orders: by helpers on the cards' hosts (danlu launch sets it)"
    )
    interface: str | None = Field(None, description="address by which other hosts reach this one; found when not given")


class QuantizeText(Section):
    """How weights are made small."""

    to: Literal["nf4"] = Field("nf4", description="NF4 with double quantization: 4.13 bits a weight")


class ServeText(Section):
    """Where and how much to serve."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 lets other machines in")
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port")
    max_seqs: int = Field(8, gt=0, description="sequences computed at once")
    max_waiting: int = Field(64, gt=0, description="requests that may wait; the next one is told to come back (429)")
    kv_gib: float = Field(0.25, gt=0, description="memory for KV pages")
    context: int | None = Field(None, gt=0, description="longest prompt + answer; the model's own limit by default")
    patience_s: float = Field(1.0, gt=0, description="a process of --tp that stands still so long is started again")


class Run(Section):
    """A whole run."""

    danlu: Literal[1] = Field(1, description="version of this format")
    out: Place = Field(Path("runs/run"), description="folder of everything the run writes")
    model: ModelText = Field(default_factory=ModelText)
    fleet: FleetText = Field(default_factory=FleetText)
    data: DataText = Field(default_factory=DataText)
    plan: PlanText = Field(default_factory=PlanText)
    train: TrainText = Field(default_factory=TrainText)
    launch: LaunchText = Field(default_factory=LaunchText)
    quantize: QuantizeText = Field(default_factory=QuantizeText)
    serve: ServeText = Field(default_factory=ServeText)
