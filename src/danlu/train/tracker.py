"""The curves of a run at Weights & Biases: an adapter over the step log, for people who look there.

Nothing of danlu needs it: step log, TensorBoard events and the pages of `danlu runs` are written without an account.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.errors import BadValue, MissingPackage
from danlu.train import history

POLL_S = 2.0  # between looks at the log of a run that still goes
CURVES = ("loss", "norm", "lr", "seconds")


def send(folder: Path, project: str) -> Iterator[int]:
    """Send the steps of a run to `project`, and go on with those it writes until it is done or has stopped.

    Yields the newest step sent. A run is one run there too, however often it is sent: what it has is not sent again.
    WANDB_MODE=offline keeps everything in FOLDER/wandb. Raises MissingPackage, BadValue without a login, and what
    reading a run raises.
    """
    try:
        import wandb
    except ImportError as error:
        raise MissingPackage("the adapter needs wandb", why=str(error), fix="pip install 'danlu[wandb]'") from error
    run = history.read(folder)
    try:
        there = wandb.init(
            project=project, name=run.name, id=_identity(run), resume="allow", dir=str(folder), config=_config(run),
            settings=wandb.Settings(silent=True),
        )  # fmt: skip
    except wandb.errors.Error as error:
        raise BadValue(
            "Weights & Biases refused the run",
            why=str(error).splitlines()[0],
            fix="wandb login, or WANDB_MODE=offline danlu runs send ...",
        ) from error
    with there:
        sent = there.step - 1 if there.resumed else 0
        while True:
            going = run.state(time.time()) == "running"
            for line in run.steps:
                if line["step"] > sent:
                    there.log({name: line[name] for name in CURVES if name in line}, step=line["step"])
                    sent = line["step"]
            yield sent
            if not going:
                return
            time.sleep(POLL_S)
            run = history.read(folder)


def _identity(run: history.History) -> str:
    """The same for a run wherever and whenever it is sent from."""
    began = run.steps[0]["t"] if run.steps else 0
    return hashlib.blake2b(f"{run.name} {began}".encode(), digest_size=8).hexdigest()


def _config(run: history.History) -> dict[str, Any]:
    plan = run.plan
    return {
        "family": plan.model.family, "parameters": plan.model.params, "layers": plan.model.layers,
        "cards": [card.name for card in plan.fleet.cards], "emulated": bool(run.emulated), "schedule": plan.schedule,
        "micro_batch": plan.micro_batch, "micro_batches": plan.micro_batches, "seq": plan.seq,
        "forecast_step_s": plan.forecast.step_s if plan.forecast else None,
    }  # fmt: skip
