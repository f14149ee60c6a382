"""Turn text folders into clean, de-duplicated, shuffled tokens, in OUT/store and OUT/tokens.

Without data.text it takes what every machine has: the Python library, documentation and licences of installed packages.

`data.steps` says what cleans it: html, language, ads, pii, gopher_quality, gopher_repetition, c4, fineweb,
decontaminate, shared_lines, mix and more are files of danlu/data/steps.

example:
  danlu prep --out runs/notes --data.text "[~/notes]" --json prep.json
  danlu prep run.yaml --on slurm --data.workers 100
  danlu prep --out runs/notes --data.steps "[normalise, exact, gopher_quality, near]" --report prep.html
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.cli.run_text import Run
    from danlu.data.prep import Prepared

PLACES = ("local", "slurm", "ray")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where its figures go."""
    parser.add_argument("config", type=Path, nargs="?", help="run.yaml; the defaults without it")
    parser.add_argument(
        "--on", choices=PLACES, default="local", help="who starts the data.workers processes that clean"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="for ray: the cluster; default: this machine's")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a page: funnel, histograms, examples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Prepare and print the funnel."""
    from danlu.cli import config, output

    run = config.load(args.config, args.overrides)
    made = prepare(run, args.on, args.address)
    print(funnel(made))
    if args.report is not None:
        from danlu.cli import prep_page

        output.write_text(args.report, prep_page.render(made, run.out))
    output.write_json(args.json, made.figures)
    return 0


def prepare(run: Run, on: str = "local", address: str | None = None) -> Prepared:
    """Tokens for a run, made or found as they are, enough for at least one batch; progress goes to stderr.

    on  who starts the data.workers processes that clean: local, slurm or ray (its cluster: address)
    Raises what `data.prep` raises, TooFewTokens, and LaunchFailed without a cluster.
    """
    from danlu.cli import spread
    from danlu.cli.output import Progress
    from danlu.data.clean import STEPS
    from danlu.data.ingest import Tell
    from danlu.data.loader import Loader
    from danlu.data.prep import prep

    stages: list[tuple[Progress, str]] = []  # the line of each stage so far, and its last words

    def tell(stage: str) -> Tell:
        for line, words in stages[-1:]:
            line.done(words)
        line = Progress(stage)
        stages.append((line, "as it was"))

        def show(words: str, share: float) -> None:
            stages[-1] = line, words
            line.part(words, share)

        return show

    whole = Progress("prep")
    with spread.executor(on, run.data.workers, address) as execute:
        made = prep(run.data.text, run.out, vocab=run.data.vocab, limit_bytes=int(run.data.limit_mb * 1e6),
                    steps=run.data.steps or STEPS, execute=execute, reads=on == "local", tell=tell)  # fmt: skip
    loader = Loader(made.tokens, seq=run.data.seq, batch=run.plan.micro_batch * run.plan.micro_batches,
                    seed=run.train.seed, packing=run.data.packing)  # fmt: skip
    rate = made.bytes_in / 1e6 / max(made.seconds, 1e-9)
    for line, words in stages[-1:]:
        line.done(words)
    whole.done(f"{made.manifest['splits']['train']['tokens']:,} tokens, {rate:.1f} MB/s")
    return replace(made, sequences=loader.windows, padding=loader.padding)


def funnel(made: Prepared) -> str:
    """What became of every document, as a table, with an example for each rule that dropped one."""
    from danlu.cli import output

    rows = [["in", f"{made.docs_in:,}", ""]]
    for name, count in sorted(made.dropped.items(), key=lambda item: -item[1]):
        rows.append([f"- {name}", f"{count:,}", output.cut(made.examples.get(name, [""])[0])])
    if made.copies > 0:
        rows.append(["+ copies", f"{made.copies:,}", "mix takes documents of a weight above 1 more than once"])
    rows.append(["kept", f"{made.docs_kept:,}", ""])
    splits = made.manifest["splits"]
    end = (
        f"{made.bytes_in / 1e6:.1f} MB read, {splits['train']['tokens']:,} tokens to learn from and "
        f"{splits['held']['tokens']:,} held out, vocabulary {made.manifest['vocab']:,}, "
        f"unigram entropy {made.manifest['unigram_entropy']:.3f} nats\n"
        f"{made.sequences:,} sequences, {made.padding:.3%} of them padding\n{made.tokens}"
    )
    return output.table(["documents", "number", "for example"], rows) + "\n\n" + end
