"""Answer over the OpenAI API: /v1/chat/completions, /v1/completions, /v1/models; also /health, /ready and /metrics.

MODEL is a Hugging Face folder or one that `danlu quantize` wrote. Requests with a common beginning share its KV pages.
Ctrl-C lets running answers end for a few seconds, then stops.

example:
  danlu serve runs/demo/nf4 --port 8000
  danlu serve runs/demo/nf4 --tp 2
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.errors import BadValue, ServerNotReady

if TYPE_CHECKING:
    from danlu.cli.run_text import Run
    from danlu.launch.local import Process
    from danlu.nouns import Job
    from danlu.serve.open import Opened, Settings

GRACE_S = 3.0  # for answers under way when the server is asked to stop


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is computed; `danlu chat` has the same."""
    parser.add_argument("folder", nargs="?", type=Path, metavar="MODEL", help="model folder (default: model.path)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="run.yaml; its section serve is read")
    parser.add_argument(
        "--dtype",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="element type of the computation (default: as the weights are stored)",
    )
    parser.add_argument(
        "--precision",
        choices=["int8", "bf16", "int16", "fp32"],
        default="int8",
        help="of products with 4-bit weights on a CPU; int16 is 50 times closer to the weights and half as fast, bf16 "
        "lies between them on a CPU that has it",
    )
    parser.add_argument("--card", default="auto", help="cpu, or an accelerator as torch names it")
    parser.add_argument(
        "--kv",
        choices=("auto", "int8"),
        default="auto",
        help="of keys and values on a CPU: int8 takes a quarter of fp32's memory, half of bf16's",
    )
    parser.add_argument(
        "--tp",
        default="1",
        metavar="N|A:B|PLAN",
        help="processes that share the model on a CPU, one per NUMA node: how many, their parts, or a plan's stage",
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, where, and under which name."""
    model_arguments(parser)
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any free one (default: serve.port)")
    parser.add_argument("--name", help="name of the model in the API (default: its folder's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="once ready, write url and sizes as flat JSON")
    parser.add_argument("--stop-on-eof", action="store_true", help="stop when standard input closes")


def share_cores() -> None:
    """Let OpenMP threads that wait sleep instead of spin; only works before torch is loaded.

    Spinning threads take the cores from the HTTP thread and from everybody else: on two cores with four busy processes
    one step of eight sequences took 550 ms, sleeping 30 ms (10 M parameters, fp32).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def model_folder(args: argparse.Namespace, run: Run) -> Path:
    """The model folder that was asked for. Raises BadValue if there is none."""
    folder: Path | None = args.folder or run.model.path
    if folder is None:
        raise BadValue(
            "no model to serve",
            where="command line",
            why="neither MODEL nor model.path is given",
            fix=f"danlu {sys.argv[1] if len(sys.argv) > 1 else 'serve'} path/to/model",
        )
    if not folder.is_dir():
        raise BadValue(
            f"{folder} is not a folder",
            where="MODEL",
            why="a model is a folder with config.json in it",
            fix=f"ls {folder.parent}",
        )
    return folder


def settings_of(args: argparse.Namespace, run: Run) -> Settings:
    """The engine's settings from configuration and flags."""
    from danlu.serve.open import Settings

    kv_bytes = int(run.serve.kv_gib * 2**30)
    return Settings(run.serve.max_seqs, run.serve.max_waiting, kv_bytes, run.serve.context, args.dtype, args.card,
                    args.precision, args.kv, *parts_of(args.tp), run.serve.patience_s)  # fmt: skip


def parts_of(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How much each process computes, and its whole experts where that is said.

    "2" is two alike, "3:1" thrice as much by the first, a file a plan's stage.
    Raises BadValue, and what plan.text.loads raises.
    """
    if text.isdecimal() and int(text) > 0:
        return (1,) * int(text), ()
    if all(part.isdecimal() and int(part) > 0 for part in text.split(":")):
        return tuple(map(int, text.split(":"))), ()
    path = Path(text)
    if not path.is_file():
        raise BadValue(f"{text!r} says no parts", where="--tp", why="it is no number of processes, no A:B and no file",
                       fix="--tp 2, --tp 3:1 or --tp plan.json")  # fmt: skip
    from danlu.plan import text as plans

    stages = plans.loads(path.read_text(encoding="utf-8"), text).stages
    if len(stages) > 1:
        raise BadValue(
            f"{text} has {len(stages)} stages",
            where="--tp",
            why="processes that serve share every layer",
            fix="give the parts themselves: --tp 3:1",
        )
    return stages[0].shares or (1,), stages[0].experts


def starter(job: Job) -> Process:
    """Start a rank; what it warns of goes to our own standard error."""
    from danlu.launch import local

    return local.spawn(job)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, SIGTERM or, if asked so, the end of standard input."""
    from danlu.cli import config
    from danlu.serve.port import listen

    began = time.monotonic()
    share_cores()
    text = config.load(args.config, args.overrides)
    folder = model_folder(args, text)
    port = text.serve.port if args.port is None else args.port
    if not 0 <= port <= 65535:
        raise BadValue(f"{port} is no port", where="--port", why="ports are 0 to 65535", fix="--port 0")
    with closing(listen(text.serve.host, port)) as ear:  # before the model is loaded: a used port is known at once
        from danlu.cli.doctor import memory_bytes
        from danlu.cli.output import write_json
        from danlu.serve.api import make_app
        from danlu.serve.open import open_engine
        from danlu.serve.server import Server

        every = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
        with closing(open_engine(folder, settings_of(args, text), memory_bytes()[1], starter)) as opened:
            name = args.name or folder.resolve().name
            server = Server(make_app(opened.engine, opened.voice, name), opened.engine, ear)
            stop = _stop_event(args.stop_on_eof)
            server.start()
            try:
                if opened.lead is not None and every:
                    server.spread(every)
                ready_s = time.monotonic() - began
                print(_welcome(opened, text, server.url, name, ready_s), flush=True)
                write_json(args.json, _sizes(opened, server.url, name, ready_s))
                while not stop.wait(0.2) and opened.failure() is None:
                    pass
                failure = opened.failure()
            finally:
                server.stop(GRACE_S)
    if failure is not None:
        raise failure
    print("stopped", file=sys.stderr)
    return 0


def _sizes(opened: Opened, url: str, name: str, ready_s: float) -> dict[str, Any]:
    """What --json writes."""
    return {
        "url": url,
        "model": name,
        "pid": os.getpid(),
        "seconds.ready": ready_s,
        "weight_bytes": opened.weight_bytes,
        "kv_bytes": opened.kv_bytes,
        "context": opened.engine.context,
        "dtype": opened.dtype,
        "card": opened.card,
        "native": opened.native,
        "processes": 1 if opened.lead is None else opened.lead.size,
    }


def _stop_event(on_eof: bool) -> threading.Event:
    """Set by the first SIGINT or SIGTERM (the second one does not wait), or by the end of standard input."""
    stop = threading.Event()

    def asked(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, asked)
    signal.signal(signal.SIGTERM, asked)
    if on_eof:

        def wait() -> None:
            while os.read(0, 4096):
                pass
            stop.set()

        threading.Thread(target=wait, name="eof", daemon=True).start()
    return stop


def _how(opened: Opened) -> str:
    if opened.lead is not None:
        return f"natively by {opened.lead}"
    return "natively" if opened.native else f"in {opened.dtype} by torch"


def _welcome(opened: Opened, text: Run, url: str, name: str, ready_s: float) -> str:
    from danlu.cli.output import size, span

    talk = {"messages": [{"role": "user", "content": "Hello!"}]} if opened.chats else {"prompt": "Hello"}
    path = "/v1/chat/completions" if opened.chats else "/v1/completions"
    body = json.dumps({"model": name, **talk, "max_tokens": 64, "stream": True})
    return (
        f"{name} answers at {url}/v1 (ready in {span(ready_s)})\n"
        f"  weights  {size(opened.weight_bytes)} in memory of {opened.card}, computed {_how(opened)}\n"
        f"  KV       {size(opened.kv_bytes)} in memory of {opened.card}, {opened.pages} pages, used as needed; "
        f"{size(opened.engine.stats.kv_token_bytes)} a token\n"
        f"  context  {opened.engine.context} tokens; {text.serve.max_seqs} sequences at once, "
        f"{text.serve.max_waiting} may wait\n\n"
        f"curl -N {url}{path} -H 'Content-Type: application/json' -d '{body}'\n"
    )


@dataclass(frozen=True, slots=True)
class Serving:
    """A server in a process of its own: where it answers, under which name, and its process id."""

    url: str
    model: str
    pid: int


@contextmanager
def serving(folder: Path, *words: str, limit_s: float = 120.0) -> Iterator[Serving]:
    """Serve `folder` in a child process for the length of the block, on any free port of this host.

    words  more of `danlu serve`'s command line
    The child ends with the block, and by itself if this process dies (its standard input closes).
    Raises ServerNotReady, with the end of its log, if it is not ready after `limit_s` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="danlu-serve-") as room:
        report, log = Path(room) / "ready.json", Path(room) / "log"
        argv = [sys.executable, "-m", "danlu.cli", "serve", str(folder), "--port", "0", "--stop-on-eof",
                "--json", str(report), *words]  # fmt: skip
        with log.open("wb") as out:
            child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT)
        try:
            _await_ready(child, report, log, limit_s)
            said = json.loads(report.read_text(encoding="utf-8"))
            yield Serving(said["url"], said["model"], child.pid)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(GRACE_S + 5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _await_ready(child: subprocess.Popen[bytes], report: Path, log: Path, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not report.exists():
        ended = child.poll() is not None
        if ended or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
            why = f"it ended with code {child.returncode}" if ended else f"it was not ready after {limit_s:.0f} s"
            fix = " ".join(map(str, child.args)) if isinstance(child.args, list) else str(child.args)
            raise ServerNotReady(
                "the server did not start", where=f"process {child.pid}", why=f"{why}; it said: {said}", fix=fix
            )
        time.sleep(0.02)
