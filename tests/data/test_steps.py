"""Each filter drops what it names and leaves what people wrote."""

from __future__ import annotations

import base64
import inspect
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu import plugins
from danlu.data import clean
from danlu.data.document import Document, Funnel, from_record, to_record
from danlu.data.steps.normalise import normal

ENGLISH = "\n".join(f"Line {word}: it tells how {word} was found, lost and found again by its owner." for word in
                    ("amber", "basalt", "cobalt", "dolomite", "emerald", "fluorite"))  # fmt: skip
CHINESE = "".join(chr(0x4E00 + number * 37 % 20000) for number in range(300)) + "。\n"
CODE = inspect.getsource(random)


def dropped_by(name: str, text: str) -> list[str]:
    """Why the step drops the text; empty if it stays."""
    found: list[str] = []
    step = plugins.load("danlu.data.steps", name).step
    left = list(step([Document("it", text)], lambda document, why: found.append(why)))
    assert len(left) + len(found) == 1
    return found


JUNK = {
    "length": "too short",
    "alphabetic": "0123 4567, " * 60,
    "symbols": "<td>a</td>{b}=[c]" * 40,
    "long_words": base64.b64encode(bytes(range(256)) * 4).decode(),
    "repeated_lines": "Home | Products | Contact\n" * 20 + ENGLISH,
}


@pytest.mark.parametrize("name", JUNK)
def test_a_rule_drops_its_junk_with_a_number(name):
    (why,) = dropped_by(name, JUNK[name])
    assert any(character.isdigit() for character in why)


@pytest.mark.parametrize("name", [name for name in clean.STEPS if name != "normalise"])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE, CODE], ids=["english", "chinese", "code"])
def test_what_people_wrote_stays(name, text):
    assert dropped_by(name, text) == []


def test_every_used_step_exists_and_an_unknown_one_is_named():
    assert set(clean.STEPS) <= set(plugins.names("danlu.data.steps"))
    with provoke("DL-CFG-004"):
        list(clean.pipeline([], ["lenght"], Funnel()))


@given(st.text())
def test_normal_form_is_reached_at_once(text):
    assert normal(normal(text)) == normal(text)


def test_normal_form_knows_manuals_dos_and_terminals():
    assert normal("\ufeffN\bNA\bAME\r\n  two  \n\n\n\n\n\n\x1b[1mbold\x1b[0m e\u0301\f") == "NAME\n  two\n\n\nbold é\n"


def test_exact_duplicates_go_whatever_blanks_stand_around():
    funnel = Funnel()
    documents = [Document("a", ENGLISH), Document("b", f"\n{ENGLISH}  \n"), Document("c", CHINESE)]
    assert [d.key for d in clean.pipeline(documents, ["normalise", "exact"], funnel)] == ["a", "c"]
    assert funnel.dropped == {"exact": 1} and "b: the same text as a" in funnel.examples["exact"]


@given(st.text(min_size=1), st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_a_document_is_its_record(key, text, meta):
    assert from_record(*to_record(Document(key, text, meta))) == Document(key, text, meta)
