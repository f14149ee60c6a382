"""Check the certificate of a plan's gap by code that shares nothing with the search. Takes seconds to a minute.

example:
  danlu plan verify cert.json
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu plan verify`."""
    parser.add_argument(
        "certificate", type=Path, metavar="CERT.json", help="as danlu plan MODEL FLEET --certificate wrote it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Read, check, say what it proves. Raises UnprovedPlan."""
    import json

    from danlu.cli import output
    from danlu.errors import UnprovedPlan
    from danlu.plan.proof.verify import checked

    try:
        text = json.loads(args.certificate.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnprovedPlan(f"cannot read {args.certificate}", why=str(error),
                           fix="danlu plan MODEL FLEET --certificate CERT.json") from error  # fmt: skip
    gap = checked(text)
    seconds, bound = text["plan"]["seconds"], text["bound_s"]
    print(
        f"holds: the plan's step is {seconds:.4g} s, no plan of its classes has one below {bound:.4g} s: gap {gap:.2%}"
    )
    output.write_json(args.json, {"gap": gap, "seconds": seconds, "bound_s": bound})
    return 0
