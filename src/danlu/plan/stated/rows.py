"""Published training runs, read from CSV files of the schema in bench/truth/README.md."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import BadRows
from danlu.nouns import Latent
from danlu.plan.stated import stated_words
from danlu.plan.stated.mixed import MixedStage, stages
from danlu.plan.stated.setup import Experts, Setup
from danlu.plan.stated.stack_work import model_flop

MOST = 10**12  # of any count; far above every run
LOST = "cells beyond the head"
TIMES = ("iter_s", "tflops_card", "tokens_s_card", "mfu")
NEEDED = ("source", "row", "card", "card_count", "layers", "hidden", "heads", "vocab", "seq", "global_batch", "measure",
          "value")  # fmt: skip
STATED = tuple(name for name in NEEDED if name not in ("source", "row", "measure", "value"))  # what a run is


@dataclass(frozen=True, slots=True)
class Row:
    """One measured line.

    source   its file's name: rows of one file are one source
    kind     "time", or of memory: "formula", "allocated", "device", "reserved"
    real     seconds of a step, or bytes
    embedding  False where a formula's row leaves the embedding out
    """

    source: str
    name: str
    kind: str
    real: float
    setup: Setup
    embedding: bool = True


def read(path: Path) -> tuple[Row, ...]:
    """The rows of a file that can be scored: lines marked suspect, computed times and mixed cards are left out.

    Raises BadRows with the line.
    """
    return tuple(row for row, _ in _each(path, mixed=False))


def read_mixed(path: Path) -> tuple[tuple[Row, tuple[MixedStage, ...]], ...]:
    """The times of a file that were measured on mixed cards, with their stages. Raises BadRows with the line."""
    return tuple((row, stages(line["mixed"])) for row, line in _each(path, mixed=True) if row.kind == "time")


def _each(path: Path, *, mixed: bool) -> list[tuple[Row, dict[str, str]]]:
    found = []
    for number, line in enumerate(lines(path, NEEDED), 2):
        if bool(line.get("mixed")) != mixed:
            continue
        with _named(f"{path}:{number}"):
            row = _row(path.stem, line)
            if mixed:
                stages(line["mixed"])
        if row is not None:
            found.append((row, line))
    return found


def lines(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a table that has the needed columns. Raises BadRows."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, restkey=LOST)
            found, head = list(reader), len(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRows(f"cannot read {path}", why=str(error), fix=f"ls -l {path}") from error
    missing = [name for name in needed if not found or name not in found[0]]
    if missing:
        raise BadRows(f"{path} is no table of published runs", why=f"columns missing: {', '.join(missing)}",
                      fix="bench/truth/README.md lists the columns")  # fmt: skip
    for number, line in enumerate(found, 2):
        said = sum(line[name] is not None for name in line if name != LOST) + len(line.get(LOST, ()))
        if said != head:
            raise BadRows(f"a line of {said} cells", where=f"{path}:{number}",
                          why=f"the head has {head} columns: the file is cut off, or a comma stands outside quotes",
                          fix="give every line all columns, empty where nothing is known")  # fmt: skip
    return found


def stated(line: dict[str, str], where: str) -> Setup:
    """The run of one line, which needs no source, measure or value. Raises BadRows at `where`."""
    with _named(where):
        return _setup(line, _notes(line))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Anything a line can get wrong, as BadRows with its place."""
    try:
        yield
    except (ValueError, ArithmeticError, KeyError, TypeError) as error:
        raise BadRows("a run cannot be read", where=where, why=f"{type(error).__name__}: {error}",
                      fix="bench/truth/README.md says what each column holds") from error  # fmt: skip


def _notes(line: dict[str, str]) -> dict[str, str]:
    return dict(part.partition(sign)[::2] for part in map(str.strip, line.get("note", "").split(";"))
                for sign in (("=" if "=" in part.split(":")[0] else ":"),))  # fmt: skip


def _row(source: str, line: dict[str, str]) -> Row | None:
    note = _notes(line)
    if "suspect" in note:
        return None
    setup, measure = _setup(line, note), line["measure"]
    value = float(line["value"])
    if not 0 < value < math.inf:
        raise ValueError(f"{measure} is {value}")
    name = line["row"]
    if measure == "mem_bytes":
        if "computed" in note:
            return Row(source, name, "formula", value, setup, "excludes-embedding" not in note)
        how = note.get("mem", "")
        kind = "device" if "smi" in how else "reserved" if "reserved" in how else "allocated"
        return Row(source, name, kind, value, setup)
    if "computed" in note:
        return None
    return Row(source, name, "time", _seconds(measure, value, setup, note), setup)


def _seconds(measure: str, value: float, setup: Setup, note: dict[str, str]) -> float:
    if measure == "iter_s":
        return value
    if measure == "tokens_s_card":
        return setup.global_batch * setup.seq / (value * setup.cards)
    counted = note.get("flops_iter_card")
    flop = float(counted) if counted else model_flop(setup) / setup.cards
    if measure == "tflops_card":
        return flop / (value * 1e12)
    if measure == "mfu":
        if "peak" not in note:
            raise ValueError("an mfu needs the card's rate it is a share of: peak=312e12 in its note")
        return flop / (value * float(note["peak"]))
    raise ValueError(f"no measure {measure!r}; there are {', '.join((*TIMES, 'mem_bytes'))}")


def _setup(line: dict[str, str], note: dict[str, str]) -> Setup:
    def count(name: str, default: int) -> int:
        value = float(line.get(name) or default)
        if not min(default, 1) <= value <= MOST or value % 1:
            raise ValueError(f"{name} is {line[name]}; it is a whole number from {min(default, 1)} to {MOST:,}")
        return int(value)

    cards = count("card_count", 1)
    hosts = min(cards, count("cards_per_host", 8))
    gbps, tp, pp, cp = line.get("link_gbps_per_card"), count("tp", 0), count("pp", 0), count("cp", 1)
    dp = count("dp", max(1, cards // (tp * pp * cp)) if tp and pp else 1)
    stages = re.match(r"[\d/]+", note.get("stage_items", ""))
    items = tuple(map(int, stages[0].split("/"))) if stages else ()
    if gbps and not 0 < float(gbps) < math.inf:
        raise ValueError(f"link_gbps_per_card is {gbps}")
    if tp and pp and tp * pp * dp * cp != cards:
        raise ValueError(f"tp * pp * dp * cp is {tp * pp * dp * cp}, card_count {cards}")
    if items and len(items) != pp:
        raise ValueError(f"stage_items names {len(items)} stages, pp is {pp}")

    def said(name: str) -> bool:
        return stated_words.flag(name, line.get(name) or "")

    overlap, back = stated_words.overlap(line.get("overlap_tp") or "")
    heads, software = count("heads", 1), stated_words.software(line.get("software") or "")
    unfused = stated_words.unfused(line.get("attention") or "")
    short = stated_words.precision(note.get("reduce", "")) if "reduce" in note else ""
    if note.get("scheme", "").startswith("deepspeed"):
        software = "DeepSpeed"  # a baseline that the source ran in another framework
    return Setup(
        card=line["card"], cards=cards, cards_per_host=hosts, link=float(gbps) / 8 * 1e9 if gbps else None,
        layers=count("layers", 1), hidden=count("hidden", 1), heads=heads, kv_heads=count("kv_heads", heads),
        ffn=count("ffn", 4 * count("hidden", 1)), gated=said("gated"), vocab=count("vocab", 1),
        seq=count("seq", 1), global_batch=count("global_batch", 1), micro_batch=count("micro_batch", 0), tp=tp, pp=pp,
        dp=dp, cp=cp, ep=count("ep", 1), interleave=count("interleave", 0),
        recompute=stated_words.recompute(line.get("recompute") or "", software),
        seq_parallel=said("seq_parallel"), zero=count("zero", 0),
        precision=stated_words.precision(line.get("precision") or ""), software=software,
        compiled=said("compiled"), async_tp=said("async_tp"), flash=not unfused,
        # Megatron-LM had dropout by default while attention was unfused; memory measured elsewhere shows none of it.
        dropout=unfused and software == "Megatron-LM",
        overlap_dp=said("overlap_dp"), overlap_tp=overlap, overlap_back=back,
        experts=_experts(line, note), latent=_latent(note),
        items=items, head_dim=int(note.get("head_dim", 0)),
        attention_kernel=stated_words.generation(line.get("attention") or ""), kernels=note.get("kernels") == "fused",
        reduce_bytes={"": 0, "fp32": 4}.get(short, 2), zero_ranks=int(note.get("zero_ranks", 0)),
    )  # fmt: skip


def _experts(line: dict[str, str], note: dict[str, str]) -> Experts | None:
    many = int(line.get("experts") or 1)
    if many <= 1:
        return None
    wide = int(note.get("moe_ffn") or line.get("ffn") or 4 * int(line["hidden"]))
    return Experts(
        many, int(line.get("top_k") or 1), wide, int(note.get("shared_ffn", 0)), int(note.get("dense_layers", 0))
    )


def _latent(note: dict[str, str]) -> Latent | None:
    if "mla" not in note:
        return None
    ranks = dict(part.split("=") for part in note["mla"].split(","))
    return Latent(*(int(ranks[name]) for name in ("q_lora", "kv_lora", "qk", "rope", "v")))
