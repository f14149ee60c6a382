"""Measure the numbers we quote, beside the peers, in one interleaved run. An area is a file of bench/ in the checkout.

example:
  ./danlu bench train --json train.json
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3] / "bench"
ABOUT = ("machine", "commit", "commits", "seconds")  # keys of a file of figures that are no figures


def areas() -> tuple[str, ...]:
    """Names of the areas this checkout can measure."""
    return tuple(sorted(path.stem for path in ROOT.glob("*.py")))


def arguments(parser: argparse.ArgumentParser) -> None:
    """The area and where its figures go."""
    parser.add_argument("area", help=f"one of: {', '.join(areas()) or 'none here; a wheel carries no benchmarks'}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one flat JSON object")
    parser.add_argument("--model", metavar="SHAPE", help="only show where the time of a model of this shape goes")
    parser.add_argument(
        "--only", metavar="CASE", help="one part or case of the area; FILE keeps its other keys and their commits"
    )
    parser.add_argument("--quick", action="store_true", help="one round, and smaller inputs where the area has them")
    parser.add_argument("--peers", action="store_true", help="first install the peers it compares with into .peers/")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every measurement (median is taken)")


def load(area: str) -> ModuleType:
    """The file of an area. Raises UnknownPlugin naming what there is."""
    from danlu.errors import UnknownPlugin

    path = ROOT / f"{area}.py"
    if not path.exists():
        raise UnknownPlugin(
            f"bench has no area {area!r}",
            why=f"there are: {', '.join(areas()) or 'none'}",
            fix="run it in a checkout: ./danlu bench train",
        )
    spec = importlib.util.spec_from_file_location(f"bench_{area.replace('/', '_')}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up there
    spec.loader.exec_module(module)
    return module


def machine() -> str:
    """One line that says what these figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = f"{len(names)} x {names[0]}" if names else platform.processor()
    return f"{cpu}, {platform.system()}, Python {platform.python_version()}"


def commit() -> str:
    """The checkout's commit, with a plus when files differ from it; "unknown" outside a checkout."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT.parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def install(area: ModuleType) -> None:
    """Put an area's PEER_PACKAGES into .peers/ of the checkout. Raises MissingPackage where pip cannot."""
    from danlu.errors import MissingPackage

    wanted = list(getattr(area, "PEER_PACKAGES", ()))
    if wanted:
        print(f"installing into .peers: {', '.join(wanted)}", flush=True)
        argv = [sys.executable, "-m", "pip", "install", "-q", "--target", str(ROOT.parent / ".peers"), *wanted]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingPackage(
                "the peers could not be installed",
                why=done.stderr.strip()[-300:],
                fix="measure without --peers; their rows are then absent, or see: " + " ".join(argv[:-1]),
            )


def earlier(path: Path | None) -> dict[str, Any]:
    """What a file holds of earlier cases; nothing for no file. Raises BadValue for figures of another machine."""
    from danlu.errors import BadValue

    if path is None or not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("machine") != machine():
        raise BadValue(f"{path} is of another machine", where="--json", fix="name another file",
                       why=f"it says {found.get('machine')!r}, this is {machine()!r}")  # fmt: skip
    return found


def joined(kept: dict[str, Any], found: dict[str, Any], measured: str) -> dict[str, Any]:
    """New figures over kept ones; `commits` names, by key, the commit of every figure that is not of `commit`."""
    commits = {key: kept["commit"] for key in kept if key not in ABOUT} | kept.get("commits", {})
    others = {key: each for key, each in commits.items() if key not in found and each != measured}
    return {**kept, **found, "machine": machine(), "commit": measured, "commits": others}


def run(args: argparse.Namespace) -> int:
    """Run the area's `measure(rounds)`: it prints its table and returns its keys."""
    from danlu.cli.output import write_json
    from danlu.errors import BadValue

    began, measured = time.monotonic(), commit()  # main may move on while a long bench runs
    area = load(args.area)
    if args.model is not None:
        if not hasattr(area, "profile"):
            raise BadValue(f"bench {args.area} has no models", where="--model", why="it measures no single model",
                           fix=f"danlu bench kernels --model {args.model}")  # fmt: skip
        area.profile(args.model)
        return 0
    kept = earlier(args.json) if args.only is not None else {}
    if args.peers:
        area.peers() if hasattr(area, "peers") else install(area)
    quick = {"quick": True} if args.quick and "quick" in inspect.signature(area.measure).parameters else {}
    if args.only is not None and "only" not in inspect.signature(area.measure).parameters:
        raise BadValue(f"bench {args.area} is measured as a whole", where="--only", why="it names no cases",
                       fix=f"danlu bench {args.area}")  # fmt: skip
    chosen = {"only": args.only} if args.only is not None else {}
    found = area.measure(1 if args.quick else args.rounds, **quick, **chosen)
    seconds = round(time.monotonic() - began, 1)
    found = joined(kept, found, measured)
    if hasattr(area, "worst"):
        found |= area.worst(found)
    write_json(args.json, {**found, "seconds": round(kept.get("seconds", 0.0) + seconds, 1)})
    print(f"\n{machine()}, commit {measured}, {seconds} s")
    return 0
