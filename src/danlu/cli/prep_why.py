"""Why a document was dropped or kept: the rule with its number, and every published quality rule on it.

DOC is a document's name as `danlu store ls OUT/store/raw` prints it, or that of a file which reading refused; or a
rule's name with --sample: then some of the documents that it dropped are shown.

example:
  danlu prep why doc/python3/README.txt --out runs/notes
  danlu prep why gopher_repetition --sample 3 --out runs/notes
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.cli.store import count, spelled

if TYPE_CHECKING:
    from danlu.data.sources import Refused
    from danlu.data.why import Fate

SHOWN = 400  # characters of a sampled document


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which document of which run."""
    parser.add_argument("doc", metavar="DOC", help="a document's name, or a rule's with --sample")
    parser.add_argument("config", type=Path, nargs="?", help="run.yaml; the defaults without it")
    parser.add_argument("--sample", type=count, metavar="N", help="show N documents that the rule DOC dropped")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Look it up and print it."""
    from danlu.cli import config, output
    from danlu.data import why
    from danlu.data.read import default_text

    run = config.load(args.config, args.overrides)
    out = run.out
    if args.sample is not None:
        found = why.sample(out, args.doc, args.sample)
        refused = why.refusals(out, args.doc)[: args.sample]
        shown = [f"== {each.key} ({len(each.text):,} characters)\n{each.text[:SHOWN]}" for each in found]
        print("\n\n".join([*shown, *(f"== {each}" for each in refused)]) or f"the rule {args.doc} dropped nothing")
        output.write_json(args.json, {"rule": args.doc, "keys": [each.key for each in found]})
        return 0
    fate = _fate(out, args.doc, partial(why.refusal, run.data.text or default_text(), int(run.data.limit_mb * 1e6)))
    print(told(fate))
    values = {limit.rule: limit.value for limit in fate.limits}
    output.write_json(args.json, {"key": fate.key, "rule": fate.rule, "why": fate.why, **values})
    return 0


def _fate(out: Path, name: str, refusal: Callable[[str], Refused | None]) -> Fate:
    from danlu.data.why import fate
    from danlu.errors import NoText

    key, printed = spelled(name)
    try:
        return fate(out, key, partial(refusal, key))
    except NoText:
        if printed == key:
            raise
        return fate(out, printed, partial(refusal, printed))


def told(fate: Fate) -> str:
    """The verdict, then a table of what the published rules say."""
    from danlu.cli.output import table

    if fate.rule and not fate.text:
        return f"{fate.key}: not read\nrefused by {fate.rule}: {fate.why}"
    verdict = f"dropped by {fate.rule}: {fate.why}" if fate.rule else "kept: no step dropped it"
    rows = [
        [limit.rule, f"{limit.value:.4g}", limit.what, "" if limit.least is None else f">= {limit.least:g}",
         "" if limit.most is None else f"<= {limit.most:g}", "" if limit.holds else "no"]
        for limit in fate.limits
    ]  # fmt: skip
    head = f"{fate.key}: {len(fate.text):,} characters\n{verdict}\n\n"
    return head + table(["published rule", "value", "of what", "least", "most", "holds"], rows)
