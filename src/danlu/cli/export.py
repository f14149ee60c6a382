"""Write a Hugging Face folder from a run's snapshot; transformers, danlu serve and danlu quantize load it.

RUN is the run's folder (its newest whole snapshot is taken) or one snapshot in it.

example:
  danlu export runs/run model
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu export`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or RUN/checkpoints/step-...")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; an older one of danlu is replaced")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="element type of the weights")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer; default: the one the run learned by")
    parser.add_argument("--json", type=Path, help="write what was done as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Export, and say what came out."""
    from danlu.cli.config import parse_overrides
    from danlu.cli.output import size, write_json

    parse_overrides(args.overrides)
    done = export_run(args.run, args.out, dtype=args.dtype, tokenizer=args.tokenizer)
    print(f"{args.out}: {done['export.family']}, {done['export.params']:,} parameters in {args.dtype}, "
          f"{size(done['export.bytes'])}, from step {done['export.step']}")  # fmt: skip
    write_json(args.json, done)
    return 0


def export_run(run: Path, out: Path, *, dtype: str = "fp32", tokenizer: Path | None = None) -> dict[str, Any]:
    """Write the newest snapshot of a run (or the one that `run` names) as a model folder.

    dtype      "fp32" or "bf16"
    tokenizer  folder with tokenizer.json; None for the one of the tokens the run learned by, where it is found
    Returns the command's JSON. Raises DamagedSnapshot, UnreadablePlan, NoSuchTensor, DiskFull, BadValue.
    """
    import torch

    from danlu import families
    from danlu.model.export import export
    from danlu.model.load import of_numpy
    from danlu.store import checkpoint

    began = time.monotonic()
    folder, step = _snapshot(run)
    spec = _plan(folder).model
    arrays = checkpoint.load(folder / "checkpoints", step, families.shapes(spec))
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    tensors = {name: of_numpy(array).to(kind) for name, array in arrays.items()}
    export(tensors, spec, out, tokenizer or _tokenizer(folder))
    written = sum(path.stat().st_size for path in out.iterdir())
    return {
        "export.step": step, "export.family": spec.family, "export.params": spec.params, "export.bytes": written,
        "export.seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip


def _snapshot(run: Path) -> tuple[Path, int]:
    """The run's folder and the step to export. Raises DamagedSnapshot if there is none that is whole."""
    from danlu.errors import DamagedSnapshot
    from danlu.store import checkpoint

    if run.name.startswith("step-") and run.name.removeprefix("step-").isdigit():
        return run.parent.parent, int(run.name.removeprefix("step-"))
    step = checkpoint.latest(run / "checkpoints")
    if step is None:
        raise DamagedSnapshot(
            "there is no whole snapshot",
            where=str(run / "checkpoints"),
            why=f"of {len(checkpoint.steps(run / 'checkpoints'))} snapshots none can be read",
            fix="name the `out` folder of a run: danlu export runs/run OUT",
        )
    return run, step


def _plan(run: Path) -> Any:
    """The plan the run was trained by. Raises UnreadablePlan."""
    from danlu.errors import UnreadablePlan
    from danlu.plan import text

    path = run / "plan.json"
    try:
        return text.loads(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadablePlan(
            "the run has no readable plan",
            where=str(path),
            why=str(error),
            fix="name the `out` folder of a run, with its plan.json and checkpoints",
        ) from error


def _tokenizer(run: Path) -> Path | None:
    """The tokenizer of the tokens the run learned by, said aloud when it is missing."""
    from danlu.events import fallback
    from danlu.train import job

    places = [run / "tokens"]
    if (path := run / "job.json").exists():
        places.append(job.loads(path.read_text(encoding="utf-8"), str(path)).tokens)
    for place in places:
        if (place / "tokenizer.json").exists():
            return place
    fallback("export.tokenizer", f"{places[-1]} has no tokenizer.json, so the folder has none: give --tokenizer")
    return None
