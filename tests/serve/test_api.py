"""OpenAI's own client, raw HTTP and broken bodies against a real server on a free port."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import urlopen

import folder as folders
import openai
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke
from small import greedy

from danlu.cli.client import complete
from danlu.model.load import load
from danlu.model.quantize import quantize
from danlu.serve.api import make_app
from danlu.serve.open import Settings, open_engine
from danlu.serve.port import listen
from danlu.serve.server import Server
from danlu.serve.shapes import check_model
from danlu.tokens import Tokenizer

PAGE = 16


@contextmanager
def served(path, **settings):
    opened = open_engine(path, Settings(kv_bytes=2**22, dtype="fp32", card="cpu", **settings))
    ear = listen("127.0.0.1", 0)
    server = Server(make_app(opened.engine, opened.voice, "tiny"), opened.engine, ear)
    server.start()
    try:
        yield server
    finally:
        server.stop(0.0)
        assert ear.fileno() == -1


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def tiny(request, tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp(request.param)
    model, tokenizer = folders.write(path, request.param)
    with served(path) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield path, model, tokenizer, server, client


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    folders.write(path)
    with served(path) as server:
        yield path, server


def metric(server, name: str) -> float:
    with urlopen(f"{server.url}/metrics") as response:
        rows = [line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line.startswith(name)]
    return sum(float(value) for _, value in rows)


def wait_until(condition, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_completions_equal_transformers(tiny):
    _, model, tokenizer, server, client = tiny
    prompts = ["To whom", folders.TEXT, "丹炉里的火", folders.TEXT * 3 + "Nobody"]
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        want = folders.answer(model, tokenizer, ids, 24)
        got = client.completions.create(model="tiny", prompt=prompt, max_tokens=24, temperature=0)
        assert got.choices[0].text == want
        assert got.usage.prompt_tokens == len(ids) and got.usage.completion_tokens <= 24
        assert got.choices[0].finish_reason in ("length", "stop") and got.object == "text_completion"
        by_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=24, temperature=0)
        assert by_ids.choices[0].text == want
        assert by_ids.usage.prompt_tokens_details.cached_tokens == (len(ids) - 1) // PAGE * PAGE


def test_chat_equals_transformers_whole_and_streamed(tiny):
    _, model, tokenizer, _, client = tiny
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which card is lost?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    want = folders.answer(model, tokenizer, ids, 30)
    whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=30, temperature=0)
    assert whole.choices[0].message.content == want and whole.choices[0].message.role == "assistant"
    assert whole.usage.prompt_tokens == len(ids)
    parts = [{"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]}]
    stream = client.chat.completions.create(
        model="tiny",
        messages=parts + messages[1:],
        max_completion_tokens=30,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == want
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == (len(ids) - 1) // PAGE * PAGE
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks[:-1])


def test_many_at_once_equal_one_by_one(tiny):
    _, _, _, server, client = tiny
    prompts = [folders.TEXT[: 7 * i + 3] for i in range(24)]

    def one(prompt):
        return client.completions.create(model="tiny", prompt=prompt, max_tokens=20, temperature=0).choices[0].text

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(one, prompts))
    assert together == [one(prompt) for prompt in prompts]
    several = client.completions.create(model="tiny", prompt=prompts[:8], max_tokens=20, temperature=0)
    assert [choice.text for choice in sorted(several.choices, key=lambda c: c.index)] == together[:8]
    assert metric(server, "danlu_pages_taken") == 0


def test_models_and_health(tiny):
    *_, server, client = tiny
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    for path in ("health", "ready"):
        with urlopen(f"{server.url}/{path}") as response:
            assert response.status == 200


def test_probabilities_are_reported(tiny):
    *_, client = tiny
    got = client.completions.create(model="tiny", prompt="To whom", max_tokens=5, temperature=0, logprobs=3)
    said = got.choices[0].logprobs
    assert len(said.tokens) == len(said.token_logprobs) == got.usage.completion_tokens
    assert [max(top.values()) for top in said.top_logprobs] == said.token_logprobs
    messages = [{"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=5, logprobs=True, top_logprobs=2)
    assert all(len(each.top_logprobs) == 2 for each in chat.choices[0].logprobs.content)


def test_stop_strings_and_seeds(tiny):
    *_, client = tiny

    def say(**options):
        return client.completions.create(model="tiny", prompt="To whom", max_tokens=40, **options).choices[0]

    whole = say(temperature=0)
    stop = whole.text[5:8]
    cut = say(temperature=0, stop=[stop, "never said"])
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish_reason == "stop"
    assert say(seed=3).text == say(seed=3).text != say(seed=4).text


def test_a_client_that_leaves_frees_its_pages(tiny):
    *_, server, client = tiny
    cancelled = metric(server, "danlu_cancelled_total")
    stream = client.completions.create(
        model="tiny", prompt="To whom", max_tokens=600, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    wait_until(lambda: metric(server, "danlu_cancelled_total") == cancelled + 1)
    assert metric(server, "danlu_pages_taken") == 0
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as plain:  # not streamed: nothing was answered yet
        body = json.dumps({"model": "tiny", "prompt": "To whom", "max_tokens": 600, "ignore_eos": True}).encode()
        plain.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        wait_until(lambda: metric(server, "danlu_running") == 1)
    wait_until(lambda: metric(server, "danlu_cancelled_total") == cancelled + 2)
    assert metric(server, "danlu_pages_taken") == 0 and metric(server, "danlu_running") == 0


def test_errors_have_openais_shape(tiny):
    *_, client = tiny
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="x")
    assert missing.value.code == "model_not_found" and "tiny" in missing.value.message
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="tiny", prompt=[1] * 700)
    assert long.value.code == "context_length_exceeded" and "640" in long.value.message and "700" in long.value.message
    hello = [{"role": "user", "content": "Hello"}]
    for field, value in (
        ("n", 2),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.5),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="tiny", messages=hello, **{field: value})
        assert refused.value.param == field
    with pytest.raises(openai.BadRequestError) as role:
        client.chat.completions.create(model="tiny", messages=[{"role": "wizard", "content": "x"}])
    assert role.value.type == "invalid_request_error" and role.value.param == "messages"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt="")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt=[0, 10**6])
    accepted = client.chat.completions.create(
        model="tiny", messages=hello, max_tokens=1, n=1, user="me", extra_body={"something_new": {"a": 1}}
    )
    assert accepted.choices


def test_metrics_count_what_happened(llama):
    _, server = llama
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with client:
        for _ in range(2):
            client.completions.create(
                model="tiny", prompt=[5] * 100, max_tokens=4, temperature=0, extra_body={"ignore_eos": True}
            )
    assert metric(server, "danlu_prompt_tokens_total") >= 200
    assert metric(server, "danlu_hit_tokens_total") >= 96
    assert metric(server, "danlu_answer_tokens_total") >= 8
    assert metric(server, "danlu_first_token_seconds_count") >= 2
    assert metric(server, "danlu_next_token_seconds_count") >= 6
    assert metric(server, 'danlu_requests_total{path="/v1/completions",status="200"}') >= 2


def test_too_many_requests_are_told_when_to_come_back(llama):
    path, _ = llama
    with served(path, max_seqs=1, max_waiting=1) as server:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 600, "stream": True, "ignore_eos": True}
        open_connections = []
        statuses = []
        for _ in range(3):
            connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            open_connections.append((connection, response))
            statuses.append(response.status)
        assert statuses == [200, 200, 429]
        assert int(response.headers["Retry-After"]) >= 1
        assert json.loads(response.read())["error"]["type"] == "rate_limit_exceeded"
        for connection, answer in open_connections:
            answer.close()
            connection.close()


def test_a_stopping_server_ends_streams_and_frees_its_port(llama):
    path, _ = llama
    with served(path) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(
            model="tiny", prompt="x", max_tokens=600, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stopping = threading.Thread(target=server.stop, args=(0.0,))
        stopping.start()
        with pytest.raises(openai.APIError):
            list(stream)
        client.close()
        stopping.join(20)
        assert not stopping.is_alive()
        parts = urlsplit(server.url)
        listen(parts.hostname, parts.port).close()


def test_a_used_port_names_who_has_it():
    import os

    with listen("127.0.0.1", 0) as ear, provoke("DL-MEM-003") as caught:
        listen("127.0.0.1", ear.getsockname()[1])
    assert str(os.getpid()) in str(caught.error)
    with provoke("DL-CFG-002"):
        listen("no.such.host.invalid", 0)


def test_settings_that_cannot_be_are_refused(llama):
    path, _ = llama
    with provoke("DL-CFG-002"):
        open_engine(path, Settings(context=10**6))
    with provoke("DL-MEM-001"):
        open_engine(path, Settings(kv_bytes=1000))
    with provoke("DL-MEM-001"):
        open_engine(path, Settings(kv_bytes=2**40, card="cpu"), free_bytes=2**30)


def test_a_quantized_folder_answers_as_its_own_weights_say(llama, tmp_path):
    path, _ = llama
    quantize(path, tmp_path / "nf4")
    small = open_engine(tmp_path / "nf4", Settings(card="cpu"))
    assert small.weight_bytes < open_engine(path, Settings(card="cpu")).weight_bytes / 2
    ids = list(range(1, 50))
    want = greedy(load(tmp_path / "nf4").requires_grad_(False), ids, 12)
    with served(tmp_path / "nf4", precision="int16") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        got = client.completions.create(
            model="tiny", prompt=ids, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}
        )
        client.close()
    assert got.choices[0].text == Tokenizer(path).decode(want)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["tiny", "user", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "name"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
fields = st.sampled_from([
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed",
    "stop", "stream", "stream_options", "n", "logprobs", "top_logprobs", "logit_bias", "best_of", "echo", "tools",
    "response_format", "user",
])  # fmt: skip
valid = {"model": "tiny", "prompt": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
bodies = st.one_of(
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(fields, json_values, max_size=4).map(lambda body: json.dumps({**valid, **body}).encode()),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"model": "tiny", "prompt": "\\ud800"}',
            b'{"prompt": 1e999, "model": "\\udfff"}',
            b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        ]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    bodies, st.sampled_from(["/v1/completions", "/v1/chat/completions"]),
    st.sampled_from(["application/json", "text/plain"]),
)  # fmt: skip
def test_no_body_is_our_fault(llama, body, path, kind):
    _, server = llama
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    try:
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        text = response.read()
        assert response.status < 500, text
        if response.status != 200:
            error = json.loads(text)["error"]
            assert error["message"] and error["type"] == "invalid_request_error"
    finally:
        connection.close()


def test_a_model_that_is_not_served_is_named(llama):
    _, server = llama
    with provoke("DL-DATA-102") as caught:
        check_model("other", "tiny")
    assert "other" in str(caught.error) and "tiny" in str(caught.error)
    with provoke("DL-RUN-001") as refused:
        complete(server.url, "other", "x", 2)
    assert "404" in str(refused.error)


def test_unknown_routes_and_methods(llama):
    _, server = llama
    for path, status in (("/v1/nothing", 404), ("/v1/completions", 405), ("/v1/models/other", 404)):
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == status and json.loads(response.read())["error"]["message"]
        connection.close()
