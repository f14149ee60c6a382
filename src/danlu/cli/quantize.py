"""Turn a Hugging Face model folder into a 4-bit one that the engine reads where the file is mapped.

With --tokens or --text the perplexity before and after and the divergence between the two models are measured. The
folder that comes out works wherever the other did: danlu serve, chat.

example:
  danlu quantize models/tiny models/tiny-4 --codebook fitted --scale-search --text README.md --json quant.json
  danlu quantize models/tiny models/tiny-5 --codebook fitted --scale-search --text README.md --kl 0.001
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from danlu.model.quantize import Recipe

SCORED = 64  # sequences; more do not change the third digit
AT_ONCE = 4  # logits of two models are in memory


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where from, where to, how, and on which tokens to judge."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="Hugging Face folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; an older one of danlu is replaced")
    parser.add_argument("--to", choices=("nf4", "int8"), default="nf4",
                        help="nf4: 4.13 bits a weight, embedding and head 8.26; int8: 8.26 everywhere")  # fmt: skip
    parser.add_argument("--codebook", default="nf4", metavar="NAME",
                        help="nf4, fp4, iq4nl, fitted, or best: by each matrix's measured error")  # fmt: skip
    parser.add_argument("--scale-search", action="store_true", help="scales of least error: 0.7 dB better, same bits")
    parser.add_argument("--eight", default="embed,head", metavar="NAMES",
                        help="matrices in 8 bits, as attn.v,mlp.down; default: embed,head")  # fmt: skip
    parser.add_argument("--kl", type=float, metavar="NATS",
                        help="more kinds of matrices in 8 bits, until the model diverges by less a token")  # fmt: skip
    parser.add_argument("--tokens", type=Path, metavar="DIR", help="token file folder whose held-out part is scored")
    parser.add_argument("--text", type=Path, metavar="FILE", help="text that is scored, by the model's tokenizer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Quantize, and score both models if asked to."""
    from danlu.cli import config, output
    from danlu.model.quantize import Recipe

    seq = config.load(None, args.overrides).data.seq
    eight = ("",) if args.to == "int8" else tuple(name for name in args.eight.split(",") if name)
    recipe = Recipe(args.codebook, args.scale_search, eight)
    figures = quantize_folder(args.model, args.out, args.tokens, seq, recipe=recipe, text=args.text, most=args.kl)
    print(output.table(["figure", "value", "of"], rows_of(figures)))
    output.write_json(args.json, figures)
    return 0


def quantize_folder(
    model: Path, out: Path, tokens: Path | None, seq: int, *, recipe: Recipe | None = None, text: Path | None = None,
    most: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Quantize a model folder with a progress line; returns the command's JSON.

    tokens  token file folder whose held-out part scores both models, in sequences of `seq` tokens; None: no score
    text    a file that scores them instead, by the model's own tokenizer
    most    divergence in nats a token on those tokens, for which kinds of matrices take 8 bits; None: the recipe's only
    Raises what quantize raises, and BadValue for a text that cannot be read or a divergence that cannot be held.
    """
    from danlu.cli import output
    from danlu.errors import BadValue
    from danlu.model import bits, quantize

    rows = _of_text(model, text, seq) if text else None  # before any work, for it may not be readable
    line = output.Progress("quantize")
    if tokens and rows is None:
        rows = _held(model, tokens, seq)
    if most is not None:
        if rows is None:
            raise BadValue(f"--kl {most:g} without a text", why="divergence is measured on tokens",
                           fix=f"danlu quantize {model} {out} --kl {most:g} --text README.md")  # fmt: skip
        room = out.with_name(f".{out.name}.bits")
        recipe = bits.choose(model, room, recipe or quantize.Recipe(), most, _batches(rows),
                             lambda kinds, kl: line.show(f"{kinds}: {kl:.5f} nats", force=True))  # fmt: skip
    report = quantize.quantize(
        model,
        out,
        lambda name, done, size: line.show(f"{done / size:4.0%}  {output.size(done)} of {output.size(size)}  {name}"),
        recipe=recipe,
    )
    figures = quantize.as_keys(report)
    if most is not None and recipe is not None:
        figures["quant.eight"] = ", ".join(recipe.eight)
    words = f"{output.size(report.bytes_before)} -> {output.size(report.bytes_after)}"
    if rows is not None:
        line.show("scoring before and after", force=True)
        figures |= _score(model, out, rows)
        words += f", perplexity {figures['quant.ppl_before']:.2f} -> {figures['quant.ppl_after']:.2f}"
    line.done(words)
    return figures


def rows_of(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table a person reads."""
    rows = [
        ("bits per weight", f"{figures['quant.bits_per_weight']:.3f}", "matrices of the layers, scales counted"),
        ("bits per weight", f"{figures['quant.file_bits_per_weight']:.3f}", "whole model"),
        ("signal to noise", f"{figures['quant.sqnr_db']:.2f} dB", "of the matrices of the layers"),
    ]
    books = {key.removeprefix("quant.codebook."): n for key, n in figures.items() if key.startswith("quant.codebook.")}
    rows += [("codebook", name, f"{n} matrices") for name, n in sorted(books.items())]
    if "quant.eight" in figures:
        rows.append(("8 bits", figures["quant.eight"], "so that the divergence is held"))
    if "quant.ppl_after" in figures:
        before, after = figures["quant.ppl_before"], figures["quant.ppl_after"]
        rows.append(("perplexity", f"{before:.3f} -> {after:.3f}", f"held-out text, {after / before - 1:+.2%}"))
        rows.append(("divergence", f"{figures['quant.kl']:.5f} nats", "a token, of the small model from the other"))
    return rows


def _score(model: Path, out: Path, rows: list[npt.NDArray[np.int64]]) -> dict[str, float]:
    """Perplexity of both folders on rows of tokens, and their divergence."""
    from danlu.model.load import load
    from danlu.model.score import apart

    found = apart(load(model), load(out), _batches(rows))
    return {"quant.ppl_before": found.first, "quant.ppl_after": found.second, "quant.kl": found.kl}


def _batches(rows: list[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
    """Rows of tokens, several at a time."""
    import numpy as np

    return [np.concatenate(rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]


def _held(model: Path, tokens: Path, seq: int) -> list[npt.NDArray[np.int64]]:
    """Sequences of the held-out part of a token file, (1, seq + 1) each."""
    from danlu.data.loader import Loader
    from danlu.model.load import spec_of

    held = Loader(tokens, seq=min(seq, spec_of(model).positions), batch=1, seed=0, split="held")
    return [held.batch_at(step) for step in range(min(SCORED, held.windows))]


def _of_text(model: Path, text: Path, seq: int) -> list[npt.NDArray[np.int64]]:
    """Sequences of a text, (1, seq + 1) each, one after the other. Raises BadValue."""
    import numpy as np

    from danlu.errors import BadValue
    from danlu.model.load import spec_of
    from danlu.tokens import Tokenizer

    try:
        words = text.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadValue(f"--text {text}", why=error.strerror or str(error), fix="name a file of text") from error
    ids = np.asarray(Tokenizer(model).encode(words), dtype=np.int64)
    step = min(seq, spec_of(model).positions, max(len(ids) - 1, 1))
    return [ids[None, at : at + step + 1] for at in range(0, len(ids) - step, step)][:SCORED]
