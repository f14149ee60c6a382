"""Live a model's whole life on an unequal emulated fleet: probe, clean data, plan, train while a card is killed,
quantize to 4 bits, serve over the OpenAI API, and write a report. No accelerator, no account, no model download.

example:
  ./danlu demo
  ./danlu demo --text ~/notes --minutes 10 --json demo.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.cli.demo_story import Served
    from danlu.cli.run_text import Run
    from danlu.nouns import Fleet, ModelSpec, Plan
    from danlu.train.result import Result

MINUTES = 2.5  # of the three it may take; the rest is for slower machines than the forecast knows
SPEEDS = (4.0, 2.0, 2.0)
MEM_GIB = (0.25, 0.16, 0.12)
AFTER_TRAINING_S = 30.0  # export, quantize, serve and report together
START_S = 10.0  # processes of one training run, from nothing to the first step
EVEN_STEPS = 8
VICTIM = 1  # the stage that is killed
PREFIX_CHARS = 4_000
SAID_TOKENS = 60


def arguments(parser: argparse.ArgumentParser) -> None:
    """How long, on which text, and where the results go."""
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"how long it may take (default {MINUTES})")
    parser.add_argument("--text", type=Path, metavar="DIR", help="your own text instead of this machine's documents")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of everything it writes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Live the life, print what happened, leave report.html."""
    from danlu.cli import config, output

    began = time.monotonic()
    base = settings(args)
    text = config.load(None, args.overrides, base=base)
    fresh(text.out)
    figures = live(text, deadline=began + args.minutes * 60, began=began)
    output.write_json(text.out / "demo.json", figures)
    output.write_json(args.json, figures)
    return 0


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The demo as the tree of a run.yaml; flags such as --train.lr change it like any other."""
    return {
        "danlu": 1,
        "out": str(args.out),
        "model": {"layers": 6, "hidden": 128, "heads": 4, "kv_heads": 2, "ffn": 384, "positions": 2048},
        "fleet": {"emulate": list(SPEEDS), "mem_gib": list(MEM_GIB)},
        "data": {"text": [str(args.text)] if args.text else [], "vocab": 2048, "seq": 128, "limit_mb": 12},
        "plan": {"micro_batch": 4, "micro_batches": 8},
        "train": {"lr": 4e-3, "warmup": 8, "save_every": 8, "seed": 1},
    }


def live(run: Run, deadline: float, began: float) -> dict[str, Any]:
    """All stages in turn. Returns the flat JSON. `deadline` and `began` are monotonic seconds."""
    from danlu.cli import demo_story, output, page, prep, wiring
    from danlu.cli.bench import machine

    install = installed_s()
    progress = output.Progress("probe")
    fleet = wiring.fleet_of(run, progress.show)
    progress.done(", ".join(f"{c.name} {c.cores:.2f} cores {output.size(c.mem_bytes)}" for c in fleet.cards))

    data = prep.prepare(run)
    spec = wiring.spec_of(run)
    best, even = plans(run, spec, fleet)
    steps = steps_until(deadline, best, even)
    run = run.model_copy(update={"train": run.train.model_copy(update={"steps": steps})})

    base = measure_even(run, even)
    result = train(run, best)
    figures = quantized(run)
    served = serve(run, run.out / "nf4")

    figures = {
        "cards": [card.name for card in fleet.cards], **data.figures, **demo_story.plan_figures(best, even),
        **demo_story.train_figures(result, base, data), **figures, **demo_story.serve_figures(served),
        "seconds.install": install, "seconds.total": round(time.monotonic() - began, 1),
    }  # fmt: skip
    story = demo_story.tell(best, data, result, served, figures, machine())
    report = run.out / "report.html"
    report.write_text(page.render(story), encoding="utf-8")
    print(demo_story.summary(best, figures, report))
    return figures


REMAINS = ("checkpoints", "logs", "even", "model", "nf4")
RECORDS = (
    "fleet.yaml",
    "config.yaml",
    "job.json",
    "steps.jsonl",
    "events.jsonl",
    "plan.json",
    "report.html",
    "demo.json",
)


def fresh(out: Path) -> None:
    """Forget the training of an earlier demo in this folder and measure anew; text that was cleaned is used again."""
    import shutil

    for name in REMAINS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in RECORDS:
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def installed_s() -> float:
    """Seconds the launcher's installation took; 0 when danlu was installed in another way."""
    import sys

    mark = Path(sys.prefix) / "danlu-seconds"
    return float(mark.read_text()) if mark.exists() else 0.0


def plans(run: Run, spec: ModelSpec, fleet: Fleet) -> tuple[Plan, Plan]:
    """The best split and the even one, each with its forecast."""
    from danlu.cli import output, wiring

    progress = output.Progress("plan")
    best = wiring.plan_of(run, spec, fleet)
    even = wiring.plan_of(run.model_copy(update={"plan": run.plan.model_copy(update={"split": "even"})}), spec, fleet)
    assert best.forecast is not None and even.forecast is not None
    layers = "/".join(f"{count:g}" for count in best.layers_per_stage)
    ours, theirs = output.span(best.forecast.step_s), output.span(even.forecast.step_s)
    progress.done(f"layers {layers}, forecast {ours} a step; even split {theirs}")
    return best, even


def steps_until(deadline: float, best: Plan, even: Plan) -> int:
    """Training steps that the forecast fits into the time left."""
    assert best.forecast is not None and even.forecast is not None
    left = deadline - time.monotonic() - AFTER_TRAINING_S - 2 * START_S - EVEN_STEPS * even.forecast.step_s
    return max(24, min(5000, int(left / best.forecast.step_s)))


def measure_even(run: Run, even: Plan) -> Result:
    """A few steps by the even split, to have its step time measured and not only forecast."""
    from danlu.cli.train_run import train_run

    few = {
        "out": run.out / "even",
        "data": run.data.model_copy(update={"tokens": run.out / "tokens"}),
        "train": run.train.model_copy(update={"steps": EVEN_STEPS, "save_every": EVEN_STEPS}),
    }
    return train_run(run.model_copy(update=few), even, name="even split")


def train(run: Run, plan: Plan) -> Result:
    """The real training; in its middle one card's process is killed."""
    from danlu.cli.train_run import train_run
    from danlu.fault.drill import Drill

    every = run.train.save_every
    between_snapshots = run.train.steps // 2 // every * every + every // 2
    return train_run(run, plan, drills=(Drill(VICTIM, between_snapshots),))


def quantized(run: Run) -> dict[str, Any]:
    """Export the trained model and quantize it; figures of quality before and after."""
    from danlu.cli.export import export_run
    from danlu.cli.quantize import quantize_folder

    export_run(run.out, run.out / "model")
    return quantize_folder(run.out / "model", run.out / "nf4", run.out / "tokens", run.data.seq)


def serve(run: Run, folder: Path) -> Served:
    """Serve the quantized model and stream two answers that share a long beginning."""
    from danlu.cli import client, output
    from danlu.cli.demo_story import Served
    from danlu.cli.serve import serving

    progress = output.Progress("serve")
    prefix = held_out_text(run)
    with serving(folder) as server:
        progress.show(f"{server.url}/v1 is ready", force=True)
        ask = {"temperature": 0.7, "seed": 1}
        client.complete(server.url, server.model, "warm", 4)
        cold = client.complete(server.url, server.model, prefix + "\n\nThis ", SAID_TOKENS, **ask)
        warm = client.complete(server.url, server.model, prefix + "\n\nThe ", SAID_TOKENS, **ask)
    progress.done(
        f"first token {output.span(cold.first_s)} cold, {output.span(warm.first_s)} with {warm.cached_tokens} of "
        f"{warm.prompt_tokens} prompt tokens cached"
    )
    return Served(cold, warm, SAID_TOKENS)


def held_out_text(run: Run) -> str:
    """Text the model has not seen in training, as long as the shared prefix should be."""
    from danlu.data.loader import Loader
    from danlu.tokens import Tokenizer

    held = Loader(run.out / "tokens", seq=run.data.seq, batch=1, seed=0, split="held")
    tokenizer = Tokenizer(run.out / "tokens")
    text = "".join(tokenizer.decode(held.batch_at(i)[0].tolist()) for i in range(min(16, held.windows)))
    return text[:PREFIX_CHARS]
