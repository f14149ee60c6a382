"""`danlu serve` and `danlu chat` as a person runs them: real processes, real signals."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import folder as folders
import pytest
import torch
from provoke import provoke

from danlu.cli.app import main
from danlu.cli.serve import serving
from danlu.serve.port import listen

pytestmark = pytest.mark.procs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("tiny")
    return path, *folders.write(path)


def danlu(*words) -> list[str]:
    return [sys.executable, "-m", "danlu.cli", *map(str, words)]


def post(url: str, body: dict) -> dict:
    ask = Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(ask, timeout=30) as response:
        return json.loads(response.read())


def ended(pid: int, limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def test_serving_answers_and_leaves_nothing_behind(tiny):
    path, model, tokenizer = tiny
    with serving(path, "--serve.max_seqs", "2", "--name", "other") as server:
        body = {"model": "other", "prompt": "To whom", "max_tokens": 12, "temperature": 0}
        want = folders.answer(model, tokenizer, tokenizer.encode("To whom"), 12)
        assert post(server.url, body)["choices"][0]["text"] == want
    assert ended(server.pid)
    parts = urlsplit(server.url)
    listen(parts.hostname, parts.port).close()


def test_a_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with provoke("DL-RUN-101") as caught, serving(tmp_path):
        pass
    assert "ended with code 5" in str(caught.error) or "ended with code 2" in str(caught.error)
    assert "DL-" in caught.error.why


def test_a_server_dies_with_its_parent(tiny):
    path, *_ = tiny
    code = "from danlu.cli.serve import serving\nfrom pathlib import Path\nimport time\n"
    code += f"with serving(Path({str(path)!r})) as s:\n    print(s.pid, flush=True)\n    time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ended(pid)


def test_ctrl_c_ends_a_busy_server_with_code_0(tiny, tmp_path):
    path, *_ = tiny
    report = tmp_path / "ready.json"
    server = subprocess.Popen(danlu("serve", path, "--port", 0, "--json", report), stdout=subprocess.PIPE, text=True)
    try:
        while not report.exists():
            assert server.poll() is None
            time.sleep(0.02)
        url = json.loads(report.read_text())["url"]
        body = {"model": path.name, "prompt": "x", "max_tokens": 600, "ignore_eos": True, "stream": True}
        ask = Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(ask, timeout=30) as response:
            response.readline()
            server.send_signal(signal.SIGINT)
            said, _ = server.communicate(timeout=20)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    assert f"{url}/v1" in said and "curl" in said and "KV" in said and "weights" in said


def test_a_used_port_ends_with_code_4_before_the_model_is_read(tiny):
    path, *_ = tiny
    with listen("127.0.0.1", 0) as ear:
        ended = subprocess.run(
            danlu("serve", path, "--port", ear.getsockname()[1]),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert ended.returncode == 4
    assert "DL-MEM-003" in ended.stderr and f"kill {os.getpid()}" in ended.stderr and "Traceback" not in ended.stderr


def test_one_shot_chat_equals_transformers(tiny, capsys):
    path, model, tokenizer = tiny
    messages = [{"role": "user", "content": "Which card is lost?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    words = ["--prompt", "Which card is lost?", "--max-tokens", "12", "--temperature", "0", "--card", "cpu"]
    assert main(["chat", str(path), *words]) == 0
    assert capsys.readouterr().out == folders.answer(model, tokenizer, ids, 12) + "\n"


def test_a_conversation_goes_on_until_its_input_ends(tiny, capsys, monkeypatch):
    path, *_ = tiny
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nAgain\n" + "long " * 400 + "\nLast\n"))
    assert main(["chat", str(path), "--max-tokens", "5", "--seed", "1", "--card", "cpu"]) == 0
    said = capsys.readouterr()
    assert said.out.count("> ") == 6
    assert "DL-DATA-101" in said.err and "forgotten" in said.err


def test_no_model_and_no_folder_are_said(tmp_path, capsys):
    for words in (["serve"], ["serve", f"{tmp_path}/nothing"], ["chat", str(tmp_path), "--temperature", "7"]):
        assert main(words) == 2
        assert "DL-CFG-002" in capsys.readouterr().err


def test_a_card_this_machine_has_not_is_refused(tiny, capsys):
    path, *_ = tiny
    assert main(["chat", str(path), "--card", "banana", "--prompt", "hi"]) == 2
    assert "no card 'banana'" in capsys.readouterr().err
