"""Work on stores killed by SIGKILL at random moments, begun again, and held against the same work undisturbed."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sys
from collections.abc import Callable
from hashlib import blake2b
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from danlu.cli.bench import load
from danlu.data.prep import prep
from danlu.store.packs import Store

SMALL = load("store/small")
KILLS, QUICK_KILLS = 200, 40
PATIENCE = 12  # kills of one piece of work, which is then let go on to its end
TEXTS = 300
# The process that children are forked from has these, so that a child is killed at its work and not at its imports.
IMPORTED = ["danlu.data.prep", "danlu.data.gather", "danlu.data.loader", "danlu.store.mend", "danlu.cli.spread"]

Start = Callable[[str, Path], BaseProcess]


def measure(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[list[Any]]]:
    """kills, kill_lost, kill_doubled, kill_equal: writing, adding, merging, mending, preparing and loading."""
    start, names = _starter(home)
    wanted, seed = QUICK_KILLS if quick else KILLS, random.randrange(1 << 32)
    rng = random.Random(seed)
    total = {"kills": 0, "kill_lost": 0, "kill_doubled": 0, "kill_equal": True}
    rows: list[list[Any]] = [["seed of the moments", seed, "", ""]]
    for number, name in enumerate(names):
        start(name, home / "whole" / name).join()  # also starts the process that children are forked from
        seconds = SMALL.timed(lambda: start(name, home / "timed" / name).join())  # noqa: B023
        tries, kills = 0, 0
        while total["kills"] + kills < wanted * (number + 1) // len(names):
            out, tries = home / "killed" / f"{name} {tries}", tries + 1
            kills += _killed(lambda: start(name, out), seconds, rng)  # noqa: B023
            lost, doubled, equal = compared(home / "whole" / name, out)
            total["kill_lost"] += lost
            total["kill_doubled"] += doubled
            total["kill_equal"] &= equal
            shutil.rmtree(out)
        total["kills"] += kills
        rows.append([f"{name}: kills, of {tries} tries", kills, "", ""])
    rows += [["records lost", total["kill_lost"], "", ""], ["doubled", total["kill_doubled"], "", ""],
             ["bytes as if undisturbed", "yes" if total["kill_equal"] else "no", "", ""]]  # fmt: skip
    return total, rows


def _starter(home: Path) -> tuple[Start, list[str]]:
    """What starts a piece of work by its name into a folder, and the names."""
    text, small = home / "text", SMALL.Small(TEXTS)
    text.mkdir(parents=True)
    for number in range(TEXTS):
        (text / f"{number}.txt").write_bytes(small.value(number).decode(errors="ignore").encode())
    tokens = prep([text], home / "tokens", vocab=400, limit_bytes=10**8).tokens
    if str(Path(__file__).parent) not in sys.path:
        sys.path.append(str(Path(__file__).parent))  # a child imports what it is to do by its name
    import works

    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(IMPORTED)

    def start(name: str, out: Path) -> BaseProcess:
        out.parent.mkdir(exist_ok=True)
        child = processes.Process(target=works.WORKS[name], args=(text, tokens, out))
        child.start()
        return child

    return start, list(works.WORKS)


def _killed(start: Callable[[], BaseProcess], seconds: float, rng: random.Random) -> int:
    """Kill a piece of work at random moments of its undisturbed time until it ends by itself; how often it was."""
    for kills in range(PATIENCE):
        child = start()
        child.join(rng.uniform(0, seconds))
        if child.exitcode is None:
            child.kill()
            child.join()
        if child.exitcode == 0:
            return kills
        assert child.exitcode == -9, f"the work failed by itself: {child.exitcode}"
    child = start()
    child.join()
    assert child.exitcode == 0, f"the work failed by itself: {child.exitcode}"
    return PATIENCE


def compared(whole: Path, killed: Path) -> tuple[int, int, bool]:
    """Records (batches, documents) missing from `killed` or other than in `whole`, those there twice, equal bytes."""
    missing = again = 0
    for folder in sorted({path.parent for path in whole.rglob("manifest.json")}):
        if next(folder.glob("*.pack"), None):
            truth, store = Store(folder), Store(killed / folder.relative_to(whole))
            right, found = {r.key: r.value for r in truth.scan()}, {r.key: r.value for r in store.scan()}
            missing += sum(found.get(key) != value for key, value in right.items())
            again += store.records - len(found)
            truth.close()
            store.close()
    if (whole / "done.jsonl").exists():
        right_steps, steps = (
            [tuple(json.loads(line)) for line in (folder / "done.jsonl").open()] for folder in (whole, killed)
        )
        missing += len(set(right_steps) - set(steps))
        again += len(steps) - len(set(steps))
    return missing, again, _digests(whole) == _digests(killed)


def _digests(folder: Path) -> dict[str, str]:
    """Of what must be equal: tokens and merged packs; a raw store's packs end where the kill was."""
    merged = list(folder.rglob("*.m???.pack"))
    named = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".bin", ".jsonl") or path.name == "tokenizer.json"
    }
    named["merged"] = b"".join(p.read_bytes() for p in sorted(merged, key=lambda path: path.name.split(".m")[1]))
    return {name: blake2b(data).hexdigest() for name, data in named.items()}
