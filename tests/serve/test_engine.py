"""The engine answers everybody, right, whatever runs beside; and tells everybody when it cannot."""

from __future__ import annotations

import queue
import random
from dataclasses import replace

import pytest
import torch
from provoke import provoke
from small import SPEC, decoder, engine, greedy

from danlu.serve.asks import Accepted, Ask, End, Failed, Said
from danlu.serve.engine import Engine
from danlu.serve.pages import PAGE
from danlu.serve.sample import Sampling

GREEDY = Sampling(0.0)


class Listener:
    """Collects the events of one request."""

    def __init__(self, engine: Engine, ask: Ask) -> None:
        self.events: queue.SimpleQueue = queue.SimpleQueue()
        self.name = engine.submit(ask, self.events.put)

    def wait(self):
        """The next event; nothing the engine does may take longer."""
        return self.events.get(timeout=20)

    def answer(self) -> tuple[list[int], End]:
        tokens = []
        while True:
            match self.wait():
                case Said(_, pick):
                    tokens.append(pick.token)
                case End() as end:
                    return tokens, end
                case Failed(error):
                    raise error


@pytest.fixture(params=["modules", "native"])
def started(request):
    engines = []

    def start(model=None, **options):
        made = engine(model or decoder(), **{"native": request.param == "native", **options})
        engines.append(made)
        made.start()
        return made

    yield start
    for each in engines:
        each.stop(0.0)
        each.join(10)
        assert not each._thread.is_alive()


def some_prompts(count: int, seed: int = 1) -> list[list[int]]:
    rng = random.Random(seed)
    shared = [rng.randrange(97) for _ in range(40)]
    own = [[rng.randrange(97) for _ in range(rng.randint(1, 50))] for _ in range(count)]
    return [shared[: rng.choice([0, 20, 40])] + tail for tail in own]


def test_answers_side_by_side_equal_answers_alone(started):
    prompts = some_prompts(12)
    want = [greedy(decoder(), prompt, 20) for prompt in prompts]
    running = started()
    listeners = [Listener(running, Ask(tuple(prompt), 20, GREEDY)) for prompt in prompts]
    assert [listener.answer()[0] for listener in listeners] == want
    alone = [Listener(running, Ask(tuple(prompt), 20, GREEDY)).answer() for prompt in prompts]
    assert [tokens for tokens, _ in alone] == want
    assert all(end.cached == (len(prompt) - 1) // PAGE * PAGE for (_, end), prompt in zip(alone, prompts, strict=True))
    assert running.stats.pages_taken == 0 and running.stats.ended == 24


def test_sequences_that_gave_their_pages_up_answer_the_same(started):
    prompts = some_prompts(6, seed=5)
    running = started(pages=9, max_seqs=4)
    listeners = [Listener(running, Ask(tuple(prompt), 50, GREEDY)) for prompt in prompts]
    want = [greedy(decoder(), prompt, 50) for prompt in prompts]
    assert [listener.answer()[0] for listener in listeners] == want
    assert running.stats.preempted > 0


def test_a_window_shorter_than_the_prompt(started):
    model = decoder(replace(SPEC, window=9))
    running = started(model)
    (prompt,) = some_prompts(1, seed=3)
    assert Listener(running, Ask(tuple(prompt), 30, GREEDY)).answer()[0] == greedy(model, prompt, 30)


def test_a_seed_gives_the_same_answer_in_any_company(started):
    ask = Ask((1, 2, 3), 20, Sampling(1.0, seed=11))
    alone, _ = Listener(started(), ask).answer()
    crowded = started()
    others = [Listener(crowded, Ask(tuple(prompt), 20, Sampling(1.0))) for prompt in some_prompts(5)]
    again, _ = Listener(crowded, ask).answer()
    assert again == alone
    for other in others:
        other.answer()


def test_an_answer_ends_at_end_token_stop_string_or_length(started):
    want = greedy(decoder(), [5, 6, 7], 30)
    fourth = want[3]
    assert fourth not in want[:3]
    tokens, end = Listener(started(ends=(fourth,)), Ask((5, 6, 7), 30, GREEDY)).answer()
    assert (tokens, end.reason, end.answer) == (want[:4], "stop", 4)
    tokens, end = Listener(started(ends=(fourth,)), Ask((5, 6, 7), 30, GREEDY, ignore_end=True)).answer()
    assert (tokens, end.reason) == (want, "length")
    listener = Listener(started(), Ask((5, 6, 7), 30, GREEDY, stop=(f" {fourth} ",)))
    text = ""
    while not isinstance(event := listener.wait(), End):
        text += event.text if isinstance(event, Said) else ""
    assert text + event.text == " ".join(map(str, want[:3])) and event.reason == "stop"


def test_a_cancelled_request_frees_its_pages_and_says_no_more(started):
    running = started()
    listener = Listener(running, Ask((1, 2, 3), None, GREEDY))
    assert isinstance(listener.wait(), Accepted)
    assert isinstance(listener.wait(), Said)
    running.cancel(listener.name)
    Listener(running, Ask((9,), 1, GREEDY)).answer()  # comes behind the cancel
    assert running.stats.pages_taken == 0 and running.stats.cancelled == 1
    while not listener.events.empty():
        assert isinstance(listener.wait(), Said)


def test_prompts_that_cannot_be_read_are_refused(started):
    running = started()
    with provoke("DL-DATA-100"):
        running.submit(Ask(()), print)
    with provoke("DL-DATA-100"):
        running.submit(Ask((1, 97)), print)
    with provoke("DL-DATA-101") as caught:
        running.submit(Ask((1,) * 500, 20), print)
    assert "512" in str(caught.error) and "520" in str(caught.error) and "8 tokens" in str(caught.error)


def test_a_full_queue_says_when_to_come_back(started):
    running = started(max_seqs=1, max_waiting=1)
    listeners = [Listener(running, Ask((1, 2), 400, GREEDY)) for _ in range(4)]
    with provoke("DL-MEM-100"):
        for listener in reversed(listeners):
            if isinstance(event := listener.wait(), Failed):
                raise event.error
    assert event.error.retry_after_s >= 1


def test_a_failing_decoder_is_told_to_everyone_and_nobody_hangs(started):
    model = decoder(replace(SPEC, positions=300))
    running = started(model, max_seqs=2, native=False)
    listeners = [Listener(running, Ask((1, 2), 250, GREEDY)) for _ in range(4)]
    assert isinstance(listeners[0].wait(), Accepted)
    runs, model._runs = model._runs, [torch.nn.Linear(3, 3)]
    for listener in listeners:
        with provoke("DL-RUN-100"):
            listener.answer()
    model._runs = runs
    with provoke("DL-RUN-100"):
        Listener(running, Ask((1, 2), 5, GREEDY)).answer()
    assert running.failure is not None


def test_weights_that_are_no_numbers_fail_the_answer_not_the_engine(started):
    model = decoder(replace(SPEC, positions=301))
    running = started(model)
    with torch.no_grad():
        model.embed.weight[5] = float("nan")
    with provoke("DL-RUN-100") as caught:
        Listener(running, Ask((1, 5), 3, GREEDY)).answer()
    assert "finite" in str(caught.error)
    assert len(Listener(running, Ask((1, 6), 3, GREEDY)).answer()[0]) == 3


def test_stopping_lets_answers_end_or_says_so(started):
    running = started()
    short, long = Listener(running, Ask((1, 2), 5, GREEDY)), Listener(running, Ask((1, 3), 400, GREEDY))
    assert isinstance(short.wait(), Accepted) and isinstance(long.wait(), Accepted)
    running.stop(30.0)
    with provoke("DL-RUN-100"):
        Listener(running, Ask((1, 2), 5, GREEDY)).answer()
    assert len(short.answer()[0]) == 5 and len(long.answer()[0]) == 400
    running.join(10)
    assert not running._thread.is_alive()
