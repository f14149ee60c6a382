"""Why a document was dropped or kept: the rule with its number, and every published quality rule on it.

DOC is a document's name as `danlu store ls OUT/store/raw` prints it, or a rule's name with --sample: then some of the
documents that it dropped are shown.

example:
  danlu prep why doc/python3/README.txt --out runs/notes
  danlu prep why gopher_repetition --sample 3 --out runs/notes
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.data.why import Fate

SHOWN = 400  # characters of a sampled document


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which document of which run."""
    parser.add_argument("doc", metavar="DOC", help="a document's name, or a rule's with --sample")
    parser.add_argument("config", type=Path, nargs="?", help="run.yaml; the defaults without it")
    parser.add_argument("--sample", type=int, metavar="N", help="show N documents that the rule DOC dropped")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Look it up and print it."""
    from danlu.cli import config, output
    from danlu.data import why

    out = config.load(args.config, args.overrides).out
    if args.sample is not None:
        found = why.sample(out, args.doc, args.sample)
        print("\n\n".join(f"== {each.key} ({len(each.text):,} characters)\n{each.text[:SHOWN]}" for each in found) or
              f"the rule {args.doc} dropped nothing")  # fmt: skip
        output.write_json(args.json, {"rule": args.doc, "keys": [each.key for each in found]})
        return 0
    fate = why.fate(out, args.doc)
    print(told(fate))
    values = {limit.rule: limit.value for limit in fate.limits}
    output.write_json(args.json, {"key": fate.key, "rule": fate.rule, "why": fate.why, **values})
    return 0


def told(fate: Fate) -> str:
    """The verdict, then a table of what the published rules say."""
    from danlu.cli.output import table

    verdict = f"dropped by {fate.rule}: {fate.why}" if fate.rule else "kept: no step dropped it"
    rows = [
        [limit.rule, f"{limit.value:.4g}", limit.what, "" if limit.least is None else f">= {limit.least:g}",
         "" if limit.most is None else f"<= {limit.most:g}", "" if limit.holds else "no"]
        for limit in fate.limits
    ]  # fmt: skip
    head = f"{fate.key}: {len(fate.text):,} characters\n{verdict}\n\n"
    return head + table(["published rule", "value", "of what", "least", "most", "holds"], rows)
