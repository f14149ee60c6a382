"""A card that does not come back is left out: the others go on by a plan of their own, from the last snapshot."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from provoke import provoke
from test_cli_train import FLAGS
from train_jobs import ARGV, a_job
from train_world import fleet

from danlu.cli.app import main
from danlu.fleet import text
from danlu.launch.nursery import Nursery
from danlu.plan import text as plan_text
from danlu.store import checkpoint
from danlu.train import owner

pytestmark = pytest.mark.procs


@contextmanager
def broken_card(out: Path, card: str, after: int) -> Iterator[None]:
    """Kill every process that says it runs on a card, once the run has taken so many steps."""
    over, seen = threading.Event(), set()

    def kill() -> None:
        steps = out / "steps.jsonl"
        while not over.wait(0.005) and not (steps.exists() and steps.read_bytes().count(b"\n") >= after):
            pass
        while not over.wait(0.005):
            for log in out.glob("logs/*.log"):
                for pid in re.findall(rf"on card {card}, process (\d+)", log.read_text()):
                    if pid not in seen:
                        seen.add(pid)
                        os.kill(int(pid), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_card_whose_rank_dies_again_and_again_is_named(tmp_path):
    nursery = Nursery(["danlu.train.rank"])
    with broken_card(tmp_path, "card1", 5), provoke("DL-RUN-016") as caught:
        owner.run(a_job(tmp_path, steps=10_000), ARGV, nursery.spawn)
    nursery.close()
    assert caught.error.cards == ("card1",) and f"died {owner.AWAY} times" in caught.error.why
    assert checkpoint.latest(tmp_path / "checkpoints") % 4 == 0


def test_a_run_goes_on_without_a_card_that_stays_away(tmp_path, capsys):
    """Losses are those of a run that never lost it: the batches are the same, and so is the model."""
    text.dump(fleet(0.25, 0.25, 0.25), tmp_path / "fleet.yaml")
    (tmp_path / "text").mkdir()
    for path in Path(owner.__file__).parent.glob("*.py"):
        (tmp_path / "text" / path.name).write_text(path.read_text())
    words = [*FLAGS, "--data.text", f"[{tmp_path / 'text'}]", "--fleet.path", str(tmp_path / "fleet.yaml")]
    words += ["--train.steps", "20"]
    assert main(["train", *words, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "run"
    more = ["--data.tokens", str(tmp_path / "whole" / "tokens"), "--json", str(tmp_path / "said.json")]
    with broken_card(out, "card1", 7):
        assert main(["train", *words, *more, "--out", str(out)]) == 0
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["fault.away"] == [["card1"]] and 0 < said["fault.replan_s"] < 60
    assert "card1 stayed away: planned anew" in capsys.readouterr().out
    plan = plan_text.loads((out / "plan.json").read_text())
    assert sorted(card for stage in plan.stages for card in stage.cards) == ["card0", "card2"]
    curves = [[json.loads(line) for line in (each / "steps.jsonl").read_text().splitlines()]
              for each in (tmp_path / "whole", out)]  # fmt: skip
    assert [each["step"] for each in curves[1]] == list(range(1, 21))
    np.testing.assert_allclose(*([each["loss"] for each in curve] for curve in curves), rtol=1e-4)
