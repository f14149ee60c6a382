"""A model served by several processes, as a person runs it: real processes, one of them killed."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import folder as folders
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.cli.app import main
from danlu.cli.serve import parts_of, serving, starter
from danlu.comm.shm import usable
from danlu.fleet.cores import deal, nodes, nodes_near, prefer_memory_of
from danlu.kernels.step import Piece, Step
from danlu.model.load import spec_of
from danlu.nouns import Card, Fleet, ModelSpec, Plan, Stage
from danlu.plan import text as plans
from danlu.serve.lead import Lead
from danlu.serve.open import Settings, open_engine
from danlu.serve.shared import Part, bind
from danlu.serve.steps import dumps, loads, say

EVERY = range(os.cpu_count() or 1)
shared = pytest.mark.skipif(not usable() or len(EVERY) < 2, reason="needs shared memory and two cores")
numbers = st.lists(st.integers(0, 2**31 - 1), max_size=5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("tiny")
    return path, *folders.write(path)


@pytest.fixture
def cores():
    """All cores of the machine, however few this process was started on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, EVERY)
    yield
    os.sched_setaffinity(0, before)
    torch.set_num_threads(1)


def ranks_of(pid: int) -> list[int]:
    """Processes of the other ranks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent, words = int(path.read_text().rsplit(")", 1)[1].split()[1]), path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"serve_rank" in words:
            found.append(int(path.parent.name))
    return found


def gone(pids: list[int], limit_s: float = 10.0) -> bool:
    deadline = time.monotonic() + limit_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def ask(url: str, **body) -> Request:
    words = {"model": "tiny", "prompt": "To whom", "temperature": 0, **body}
    return Request(f"{url}/v1/completions", json.dumps(words).encode(), {"Content-Type": "application/json"})


@shared
@pytest.mark.procs
def test_two_processes_answer_as_one_and_leave_nothing(tiny, cores):
    path, model, tokenizer = tiny
    with serving(path, "--card", "cpu", "--tp", "2", "--name", "tiny") as server:
        others = ranks_of(server.pid)
        for prompt in ("To whom", "To whom it may concern: a card is lost and the others go on. Nobody", "丹"):
            with urlopen(ask(server.url, prompt=prompt, max_tokens=12), timeout=30) as response:
                said = json.loads(response.read())["choices"][0]["text"]
            assert said == folders.answer(model, tokenizer, tokenizer.encode(prompt), 12)
    assert len(others) == 1 and gone([server.pid, *others])


@contextmanager
def started(path, tmp_path, *words):
    """A server of two ranks as a person starts it; its process, its URL, and whatever it says at the end."""
    report = tmp_path / "ready.json"
    words = ["serve", path, "--port", 0, "--json", report, "--card", "cpu", "--tp", "1:1", "--name", "tiny", *words]
    server = subprocess.Popen([sys.executable, "-m", "danlu.cli", *map(str, words)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        while not report.exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield server, json.loads(report.read_text())["url"]
    finally:
        server.kill()
        server.communicate()


def mended(url: str) -> float:
    with urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("danlu_mended_total "))


def replaced(pid: int, old: int, limit_s: float = 20.0) -> int:
    """The process that took a rank's place."""
    deadline = time.monotonic() + limit_s
    while not (found := [each for each in ranks_of(pid) if each != old]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found[0]


@shared
@pytest.mark.procs
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_answer_goes_on_when_a_rank_dies_or_stands_still(tiny, cores, tmp_path, number):
    path, model, tokenizer = tiny
    want = folders.answer(model, tokenizer, tokenizer.encode("To whom"), 500)
    with started(path, tmp_path) as (server, url):
        (other,) = ranks_of(server.pid)
        with urlopen(ask(url, max_tokens=500, stream=True), timeout=30) as response:
            lines = [response.readline()]
            os.kill(other, number)
            began = time.monotonic()
            lines += response.read().splitlines()
        assert time.monotonic() - began < 15
        said = [json.loads(line[6:])["choices"] for line in lines if line.startswith(b"data: {")]
        assert "".join(choices[0]["text"] for choices in said if choices) == want
        assert mended(url) == 1
        if number == signal.SIGKILL:
            os.kill(replaced(server.pid, other), number)  # now nobody waits for it
            with urlopen(ask(url, max_tokens=5), timeout=30) as response:
                assert json.loads(response.read())["choices"][0]["text"] == folders.answer(
                    model, tokenizer, tokenizer.encode("To whom"), 5)  # fmt: skip
            assert mended(url) == 2
        server.send_signal(signal.SIGTERM)
        said, why = server.communicate(timeout=20)
    assert "2 processes (heads 2:2" in said and server.returncode == 0
    assert "answers go on" in why and "Traceback" not in why
    assert ("is dead" in why and "SIGKILL" in why) if number == signal.SIGKILL else "stopped (state T)" in why


@shared
@pytest.mark.procs
def test_ranks_that_die_again_and_again_end_the_server(tiny, cores, tmp_path):
    with started(tiny[0], tmp_path) as (server, url):
        old = 0
        with urlopen(ask(url, max_tokens=600, ignore_eos=True, stream=True), timeout=30) as response:
            response.readline()
            for _ in range(2):
                os.kill(old := replaced(server.pid, old), signal.SIGKILL)
            rest = response.read().decode()
        assert "DL-RUN-012" in rest and "rank 1 of 2 is dead" in rest and "SIGKILL" in rest
        for _ in range(2):
            os.kill(old := replaced(server.pid, old), signal.SIGKILL)
        _, why = server.communicate(timeout=20)
    assert server.returncode == 70 and "DL-RUN-012 rank 1 of 2 is dead" in why and "Traceback" not in why


@shared
def test_a_rank_that_stands_still_is_named_at_once(tiny, cores):
    path, *_ = tiny
    opened = open_engine(path, Settings(card="cpu", parts=(1, 1), patience_s=0.4), spawn=starter)
    try:
        step = Step([1, 2, 3], [Piece([0], 0, 3)], [2])
        with torch.inference_mode():
            opened.lead(step)
            (other,) = ranks_of(os.getpid())
            os.kill(other, signal.SIGSTOP)
            began = time.monotonic()
            with provoke("DL-RUN-011") as caught:
                opened.lead(step)
            assert time.monotonic() - began < 1.0
            assert "rank 1" in caught.error.what and f"process {other}" in caught.error.why
            opened.lead.mend()
            assert opened.lead(step).shape == (1, opened.spec.vocab)
        (fresh,) = ranks_of(os.getpid())
        assert fresh != other and gone([other])
    finally:
        opened.close()
    assert gone([fresh])


@shared
@pytest.mark.procs
def test_ranks_die_with_the_one_that_serves(tiny, cores):
    path, *_ = tiny
    code = "from danlu.cli.serve import serving\nfrom pathlib import Path\nimport time\n"
    code += f"with serving(Path({str(path)!r}), '--tp', '2', '--card', 'cpu') as s:\n"
    code += "    print(s.pid, flush=True)\n    time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    others = ranks_of(pid)
    os.kill(pid, signal.SIGKILL)
    assert len(others) == 1 and gone(others)
    parent.kill()
    parent.wait()
    parent.stdout.close()


@shared
@pytest.mark.procs
def test_what_another_rank_cannot_load_is_said_here(tiny, cores, monkeypatch):
    monkeypatch.setenv("DANLU_RANK_KEY", "x")
    path, *_ = tiny

    def breaks(job):
        return starter(job.__class__(job.name, (sys.executable, "-c", "raise SystemExit(9)")))

    with provoke("DL-RUN-012") as caught:
        open_engine(path, Settings(card="cpu", parts=(1, 1)), spawn=breaks)
    assert "code 9" in caught.error.why


@shared
def test_a_long_sum_is_the_same_on_many_threads(tiny, cores):
    """600 tokens are two slots of the segment. A rank that comes late, to a turn that is published, changes nothing."""
    path, *_ = tiny
    step = Step([i * 7 % 300 for i in range(600)], [Piece(range(38), 0, 600)], range(600))
    found = []
    for each in (tuple(EVERY[:1]), tuple(EVERY[:2])):
        part = Part(0, str(path), (2, 2), (), each, "fp32", "fp32", "fp32", 38, False)
        lead = Lead(spec_of(path), part, (each, each), starter, 20.0)
        try:
            with torch.inference_mode():
                found.append(lead(step).clone())
                for line in lead._lines.values():
                    threading.Timer(0.2, say, (line, dumps(step))).start()
                found.append(lead._runner.run(step).clone())
        finally:
            lead.close()
    assert len(found[0]) == 600 and all(torch.equal(found[0], each) for each in found)


def test_more_processes_than_cores_are_refused(tiny):
    path, before = tiny[0], os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with provoke("DL-ENV-100") as caught:
            open_engine(path, Settings(card="cpu", parts=(1, 1)), spawn=starter)
    finally:
        os.sched_setaffinity(0, before)
    assert "1 cores, 2 processes" in caught.error.why


@pytest.mark.parametrize(("words", "code"), [("3:1", "DL-CFG-020"), ("3", "DL-CFG-020"), ("0", "DL-CFG-002"),
                                             ("two", "DL-CFG-002")])  # fmt: skip
def test_parts_that_cannot_be_meant(tiny, cores, capsys, words, code):
    assert main(["chat", str(tiny[0]), "--prompt", "x", "--card", "cpu", "--tp", words]) == 2
    assert code in capsys.readouterr().err


def test_parts_are_numbers_or_those_of_a_plan(tmp_path):
    assert [parts_of(text)[0] for text in ("1", "3", "3:1")] == [(1,), (1, 1, 1), (3, 1)]
    spec = ModelSpec("llama", layers=1, hidden=32, heads=4, kv_heads=4, head_dim=8, ffn=64, vocab=97, positions=64)
    cards = tuple(Card(name, "cpu", "any", {"fp32": 1e9}, 2**30, 1e9) for name in ("a", "b"))
    one, units = Stage(("a", "b"), 0, len(spec.units), (3, 1)), len(spec.units)
    two = (Stage(("a",), 0, 2), Stage(("b",), 2, units))
    for name, stages in (("one", (one,)), ("two", two)):
        plan = Plan(spec, Fleet("f", cards), stages, "1f1b", 1, 1, 64)
        (tmp_path / name).write_text(plans.dumps(plan))
    assert parts_of(str(tmp_path / "one")) == ((3, 1), ())
    with provoke("DL-CFG-002"):
        parts_of(str(tmp_path / "two"))


@given(numbers, numbers, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), numbers), max_size=4))
def test_a_step_comes_as_it_was_sent(tokens, wanted, pieces):
    sent = Step(tokens, [Piece(pages, start, stop) for start, stop, pages in pieces], wanted)
    came = loads(dumps(sent))
    assert (list(came.tokens), list(came.wanted)) == (tokens, wanted)
    assert [(p.start, p.stop, list(p.pages)) for p in came.pieces] == [tuple(each) for each in pieces]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_every_core_goes_to_one_rank_and_every_rank_has_one(sizes, shares):
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    near = [range(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]
    if edges[-1] < len(shares):
        return
    dealt = deal(near, shares)
    assert sorted(core for mine in dealt for core in mine) == list(range(edges[-1]))
    assert len(dealt) == len(shares) and all(dealt)
    if len(sizes) == len(shares):
        assert [list(mine) for mine in dealt] == [list(node) for node in near]


def test_nodes_are_read_as_the_kernel_writes_them(tmp_path):
    for name, cpus in (("node0", "0-2,8\n"), ("node1", "3-5\n"), ("node10", "\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(cpus)
    assert nodes(tmp_path, range(1, 9)) == ((1, 2, 8), (3, 4, 5))
    assert nodes(tmp_path / "none", [4, 5]) == ((4, 5),)
    assert nodes_near((0, 8), tmp_path) == (0,) and nodes_near((2, 3), tmp_path) == (0, 1)


@pytest.mark.skipif(platform.machine() != "x86_64" or not nodes_near(EVERY), reason="needs NUMA nodes of x86-64 Linux")
def test_memory_is_asked_for_near_the_cores():
    def asked() -> int:
        """Nodes of this thread's policy, as bits: get_mempolicy(2)."""
        mask = ctypes.c_ulong(0)
        assert ctypes.CDLL(None).syscall(239, None, ctypes.byref(mask), ctypes.c_ulong(65), None, 0) == 0
        return mask.value

    def in_a_thread_of_its_own() -> int:
        before = os.sched_getaffinity(0)
        bind(tuple(before))
        return asked()

    if not prefer_memory_of(nodes_near(EVERY)):
        pytest.skip("the system refuses memory policies here")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(in_a_thread_of_its_own).result()
    assert found == sum(1 << node for node in nodes_near(os.sched_getaffinity(0)))
    torch.set_num_threads(1)
