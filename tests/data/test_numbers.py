"""Numbers that count as the same: the native pass against the expression, and the near step that uses it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.data import numbers
from danlu.data.document import Document
from danlu.data.steps import near

pieces = st.lists(st.sampled_from([b"1", b"22", b".", b",", b"..", b" ", b"a", b"\xe7\x82\xbc", b"0.5"]), max_size=30)


@given(st.lists(pieces.map(b"".join) | st.binary(max_size=40), max_size=5))
def test_native_numbers_are_those_of_the_expression(texts):
    assert numbers.same(texts) == numbers.plain(texts)


def test_pages_that_differ_in_numbers_are_near_when_told_so():
    words = (
        "the invoice of {} has a total of {},50 for {} pieces and was paid on {} in cash by the same client as before"
    )
    texts = [words.format(*range(start, start + 4)) for start in (10, 2000)]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    dropped: list[str] = []
    assert len(list(near.step(documents, lambda document, why: None))) == 2
    kept = near.configured({"numbers": "same"})(documents, lambda document, why: dropped.append(why))
    assert [each.key for each in kept] == ["0"] and dropped == ["100% the same as 0"]
    assert len(list(near.configured({"numbers": "differ"})(documents, lambda document, why: None))) == 2
    with provoke("DL-CFG-002"):
        near.configured({"numbers": "gone"})
