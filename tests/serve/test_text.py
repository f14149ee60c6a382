"""What is shown of an answer does not depend on how its text arrived."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danlu.serve.text import Reply

texts = st.text("ab", max_size=20)
stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def cut(text: str, stops: list[str]) -> str:
    """The plain version: up to the first stop string that is complete."""
    for end in range(len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            return text[: end - max(map(len, done))]
    return text


@given(texts, stops, st.lists(st.integers(0, 20), max_size=6))
def test_any_pieces_show_the_same(text, stops, cuts):
    reply = Reply(stops)
    bounds = [0, *sorted(min(each, len(text)) for each in cuts), len(text)]
    shown = ""
    for start, stop in zip(bounds, bounds[1:], strict=False):
        shown += reply.push(text[start:stop])
        assert cut(text, stops).startswith(shown), "something was shown that a stop string takes back"
    shown += reply.flush()
    assert shown == cut(text, stops)
    assert reply.stopped == (cut(text, stops) != text)


@given(texts)
def test_without_stop_strings_nothing_is_held_back(text):
    assert Reply(()).push(text) == text
