"""Check a run.yaml, explain one of its keys, or print its JSON Schema (for completion in an editor).

example:
  danlu config explain train.steps
  danlu config check run.yaml
  danlu config schema > danlu.schema.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which file or key."""
    parser.add_argument("what", choices=("schema", "explain", "check"))
    parser.add_argument("subject", nargs="?", help="explain: a key such as train.steps; check: a run.yaml")


def run(args: argparse.Namespace) -> int:
    """Print to stdout; a file that does not pass raises the same error every command would."""
    from danlu.cli import config
    from danlu.cli.run_text import Run
    from danlu.errors import BadValue

    if args.what == "schema":
        print(json.dumps(Run.model_json_schema(), indent=1))
        return 0
    if args.subject is None:
        raise BadValue(
            f"config {args.what} needs a subject",
            why="none was given",
            fix="danlu config explain train.steps, or: danlu config check run.yaml",
        )
    if args.what == "explain":
        print(config.explain(args.subject, args.overrides))
    else:
        print(config.dump(config.load(Path(args.subject), args.overrides)), end="")
    return 0
