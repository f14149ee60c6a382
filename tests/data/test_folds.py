"""Letters that count as the same: the native pass against the reference, and the near step that uses it."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from danlu.data import folds, letters
from danlu.data.document import Document
from danlu.data.steps import near

broken = st.sampled_from(
    [b"\xe7\x82", b"\xc3", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
)
pieces = st.lists(st.text(max_size=8).map(str.encode) | broken | st.just(b"plain words "), max_size=6).map(b"".join)


@given(st.lists(pieces, max_size=5))
def test_native_letters_are_those_of_the_reference(texts):
    assert folds.same(texts) == folds.plain(texts)


def test_every_character_is_what_the_reference_makes_of_it():
    every = [chr(code).encode() for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert folds.same(every) == folds.plain(every)
    rows = [b"".join(every[at : at + 64]) for at in range(0x3000, len(every), 64)]  # characters of a kind go together
    assert folds.same([*rows, b"".join(rows)]) == folds.plain([*rows, b"".join(rows)])
    assert max(len(after) / len(before) for before, after in zip(every, folds.same(every), strict=True)) <= folds.GROWS
    assert folds.forms()[:, 0][folds.forms()[:, 0] != folds.SELF].max() < folds.ROOM


@given(st.text(st.characters(max_codepoint=letters.CHARACTERS - 1, exclude_categories=("Cs",))))
def test_case_and_diacritics_are_gone(text):
    (found,) = folds.same([text.encode()])
    left = [each for each in found.decode() if each >= "\x80"]
    assert not any(unicodedata.category(each) == "Mn" and each >= "\u0300" for each in left)
    assert not set(left) & set(letters.SIGNS)


def test_pages_that_differ_in_accents_and_signs_are_near_when_told_so():
    words = "le {} été passé à l’école de la forêt était une vraie fête pour élèves et maîtres réunis près du chêne {}"
    plain = "le {} ete passe a l ecole de la foret etait une vraie fete pour eleves et maitres reunis pres du chene {}"
    documents = [Document(str(at), text.format("grand", "vert")) for at, text in enumerate((words, plain))]
    assert len(list(near.step(documents, lambda document, why: None))) == 2
    kept = near.configured({"letters": "same"})(documents, lambda document, why: None)
    assert [each.key for each in kept] == ["0"]
