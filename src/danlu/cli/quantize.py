"""Turn a Hugging Face model folder into a 4-bit one: NF4 with double quantization, 4.127 bits per weight.

With --tokens the perplexity before and after is measured on held-out text. The folder that comes out works wherever the
other did: danlu serve, chat.

example:
  danlu quantize models/tiny models/tiny-nf4 --tokens runs/demo/tokens --json quant.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SCORED = 64  # sequences; more do not change the third digit
AT_ONCE = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where from, where to, and on which tokens to judge."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="Hugging Face folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; a model folder there is replaced")
    parser.add_argument("--tokens", type=Path, metavar="DIR", help="token file folder whose held-out part is scored")
    parser.add_argument("--scale-search", action="store_true", help="scales of least error: 0.7 dB better, same bits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Quantize, and score both models if asked to."""
    from danlu.cli import config, output

    seq = config.load(None, args.overrides).data.seq
    figures = quantize_folder(args.model, args.out, args.tokens, seq, search=args.scale_search)
    print(output.table(["figure", "value", "of"], rows_of(figures)))
    output.write_json(args.json, figures)
    return 0


def quantize_folder(model: Path, out: Path, tokens: Path | None, seq: int, *, search: bool = False) -> dict[str, Any]:
    """Quantize a model folder with a progress line; returns the command's JSON.

    search  scales of least error instead of each block's largest weight
    tokens  token file folder whose held-out part scores both models, in sequences of `seq` tokens; None: no score
    """
    from danlu.cli import output
    from danlu.model import quantize

    line = output.Progress("quantize")
    report = quantize.quantize(
        model,
        out,
        lambda name, done, size: line.show(f"{done / size:4.0%}  {output.size(done)} of {output.size(size)}  {name}"),
        search=search,
    )
    figures = quantize.as_keys(report)
    words = f"{output.size(report.bytes_before)} -> {output.size(report.bytes_after)}"
    if tokens:
        line.show("scoring before and after", force=True)
        before, after = (_perplexity(folder, tokens, seq) for folder in (model, out))
        figures |= {"quant.ppl_before": before, "quant.ppl_after": after}
        words += f", perplexity {before:.2f} -> {after:.2f}"
    line.done(words)
    return figures


def rows_of(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table a person reads."""
    rows = [
        ("bits per weight", f"{figures['quant.bits_per_weight']:.3f}", "quantized matrices, scales counted"),
        ("bits per weight", f"{figures['quant.file_bits_per_weight']:.3f}", "whole model"),
        ("signal to noise", f"{figures['quant.sqnr_db']:.2f} dB", "of the quantized weights"),
    ]
    if "quant.ppl_after" in figures:
        before, after = figures["quant.ppl_before"], figures["quant.ppl_after"]
        rows.append(("perplexity", f"{before:.3f} -> {after:.3f}", f"held-out text, {after / before - 1:+.2%}"))
    return rows


def _perplexity(model: Path, tokens: Path, seq: int) -> float:
    """Perplexity of a model folder on the held-out part of a token file, in sequences of `seq` tokens."""
    import numpy as np

    from danlu.data.loader import Loader
    from danlu.model.load import load
    from danlu.model.score import perplexity

    decoder = load(model)
    held = Loader(tokens, seq=min(seq, decoder.spec.positions), batch=1, seed=0, split="held")
    rows = [held.batch_at(step) for step in range(min(SCORED, held.windows))]
    return perplexity(decoder, (np.concatenate(rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)))
