"""The published quality rules: the native pass equals plain Python on any text, and each rule drops what it names."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu import native
from danlu.data import clean, letters, measure, rules
from danlu.data.document import Document, Funnel
from danlu.data.words import words

needs_native = pytest.mark.skipif(not native.runs("ref"), reason="no native library")

PARTS = [
    "a", "Z", "7", " ", "  ", "\n", "\n\n", "\n\n\n", "the", "of", "word", "Don't", "'s", "'", '"', "-", "--",
    "...", "…", ".", "..", "!", "?", ",", ":", ")", "(", "[12]", "[edit]", "[", "]", "{", "#", "•", "e.g.",
    "Dr.", "U.S.", "10MB", "https://a.org/x-y", "x@y.org", "and/or", "cannot", "a=b", "丹", "炉", "的", "。", "，",
    "”", "\r\n", "\x85", "\u2028", "é", "É", "😀", "°", "€", "+", "%", "_", "Terms of Use", "Lorem ipsum",
    "javascript", "\x1c", "one two three.", "\U00020001", "\U00016E98", "foo.Bar", "1-2", "a,b", "::",
]  # fmt: skip
texts = st.one_of(st.lists(st.sampled_from(PARTS), max_size=80).map("".join), st.text(max_size=120))


def same(text: str, ended_lines: bool = True) -> None:
    found = measure.with_native([text.encode()], ended_lines, "text")
    counts, kept = measure.in_python(text, ended_lines)
    assert dict(zip(measure.FIELDS, found.counts[0].tolist(), strict=True)) == dict(
        zip(measure.FIELDS, counts, strict=True)
    )
    assert found.kept[0].decode() == kept


@needs_native
@given(text=texts, ended_lines=st.booleans())
def test_native_counts_equal_python_on_any_text(text, ended_lines):
    same(text, ended_lines)


@needs_native
def test_native_counts_equal_python_on_long_texts():
    rng = random.Random(3)
    for size in (300, 3000, 6000):
        same(" ".join(rng.choices(PARTS, k=size)))
        same("".join(rng.choices(PARTS, k=size)))
    same("one two three four five six seven eight nine ten eleven. " * 60)
    same("the same\n" * 300)


@needs_native
@given(st.lists(texts, min_size=1, max_size=4))
def test_a_row_depends_on_its_text_alone(many):
    together = measure.with_native([text.encode() for text in many], c4="text")
    for number, text in enumerate(many):
        alone = measure.with_native([text.encode()], c4="text")
        np.testing.assert_array_equal(together.counts[number], alone.counts[0])
        assert together.kept[number] == alone.kept[0]


def test_words_are_cut_as_english_tokenizers_cut_them():
    said = "Don't (really) go to https://a.org/x-y, e.g. the well-known U.S. site; it's 10MB... OK?"
    assert words(said) == ["Do", "n't", "(", "really", ")", "go", "to", "https://a.org/x-y", ",", "e.g.", "the", "well",
                           "-", "known", "U.S.", "site", ";", "it", "'s", "10", "MB", "...", "OK", "?"]  # fmt: skip
    assert words("丹炉，炼丹 model。") == ["丹", "炉", "，", "炼", "丹", "model", "。"]


def test_the_classes_are_those_of_python():
    found = letters.of("aZ9 \n.é丹。\U00020001")
    assert [bool(each & letters.ALPHA) for each in found] == [c.isalpha() for c in "aZ9 \n.é丹。\U00020001"]
    assert found[7] & letters.CJK and found[8] & letters.STOP and found[4] & letters.LINE_END


def prose(number: int = 12, seed: int = 1) -> str:
    rng = random.Random(seed)
    some = ["amber", "river", "stone", "calls", "under", "seven", "quiet", "lamps", "build", "north", "paper", "winds"]
    return "\n".join(
        f"{' '.join(rng.choices(some, k=6)).capitalize()} of the {' '.join(rng.choices(some, k=6))} and that."
        for _ in range(number)
    )


HAN = [chr(0x4E00 + number * 37 % 20000) for number in range(500)]
CHINESE = "\n".join(f"{''.join(HAN[line * 40 : line * 40 + 20])}的{''.join(HAN[line * 40 + 20 : line * 40 + 40])}了。"
                    for line in range(12))  # fmt: skip


BROKEN = {
    "gopher_quality.few_words": "Too short to say much.",
    "gopher_quality.short_words": "a b c d the of " * 20,
    "gopher_quality.long_words": "the of " + "incomprehensibilities " * 60,
    "gopher_quality.hashes": prose() + " #" * 60,
    "gopher_quality.ellipses": prose() + " ..." * 60,
    "gopher_quality.bullets": "\n".join("- the word of " + line[:20] for line in prose(30).split("\n")),
    "gopher_quality.cut_lines": "\n".join(prose(1, n) + (".." if n % 2 else "") for n in range(20)),
    "gopher_quality.letters": prose() + " 1234567" * 200,
    "gopher_quality.stop_words": "amber river stone calls under seven quiet lamps " * 9,
    "gopher_repetition.empty": "",
    "gopher_repetition.paragraphs": "\n\n".join(["again"] * 9 + [prose()]),
    "gopher_repetition.paragraph_chars": "\n\n".join([prose(), prose(), *(f"part {n}" for n in range(9))]),
    "gopher_repetition.lines": "menu\n" * 20 + prose(),
    "gopher_repetition.line_chars": prose(4) + "\n" + prose(2) + "\n" + "\n".join(f"{n}" for n in range(20)),
    "gopher_repetition.top_2_gram": " ".join(f"strange attractors {n}" for n in range(99)),
    "gopher_repetition.repeated_5_grams": " ".join(prose(3).replace("\n", f" {n} ") for n in range(3)),
    "c4.lorem_ipsum": prose() + "\nLorem Ipsum dolor sit amet.",
    "c4.curly_bracket": prose() + "\nIt opens { and it ends.",
    "c4.few_sentences": "\n".join(line[:-1] for line in prose().split("\n")),
    "fineweb.unended_lines": "\n".join(line[:-1] for line in prose().split("\n")),
    "fineweb.short_lines": "\n".join(f"Short one {n}." for n in range(20)),
    "fineweb.repeated_lines": prose(9) + "\n" + prose(1),
    "fineweb.list": "\n".join(f"Antidisestablishmentarianism{n}." for n in range(20)) + "\n" * 60,
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_drops_what_it_names_with_value_and_limit(rule):
    name = rule.partition(".")[0]
    funnel = Funnel()
    for sets in ([name], [name, "fineweb" if name != "fineweb" else "gopher_quality"]):  # alone, and in a row
        assert list(clean.pipeline([Document("it", BROKEN[rule])], sets, funnel)) == []
    one, other = funnel.examples[rule]
    assert dict(funnel.dropped) == {rule: 2} and " than " in one and one == other


@pytest.mark.parametrize("text", [prose(), CHINESE], ids=["english", "chinese"])
def test_prose_keeps_every_rule(text):
    funnel = Funnel()
    left = list(clean.pipeline([Document("it", text)], list(rules.SETS), funnel))
    assert [each.text for each in left] == [text], funnel.examples


def test_c4_takes_lines_out_and_its_option_keeps_them():
    text = "Home | Menu\n" + prose() + "\nWe use cookies here, you know.\nPlease enable JavaScript to go on."
    (left,) = clean.pipeline([Document("it", text)], ["c4"], Funnel())
    assert left.text == prose()
    (left,) = clean.pipeline(
        [Document("it", "A menu without end\n" + prose())], [{"c4": {"ended_lines": False}}], Funnel()
    )
    assert left.text == "A menu without end\n" + prose()


@pytest.mark.parametrize("spec", [{"c4": {"lines": 1}}, {"length": 3}, {"c4": {}, "length": None}])
def test_options_that_cannot_be_meant_are_refused(spec):
    with provoke("DL-CFG-002"):
        list(clean.pipeline([], [spec], Funnel()))


def test_without_a_library_python_measures(monkeypatch):
    monkeypatch.setattr(native, "runs", lambda isa: False)
    found = measure.measure([prose().encode(), CHINESE.encode()], c4="text")
    assert found.counts.shape == (2, len(measure.FIELDS)) and found.kept[0].decode() == prose()


SANITIZED = """
import pathlib, random, sys
from danlu import native
library = native.open_library(pathlib.Path(sys.argv[1]))
native.library = lambda: library
sys.path.insert(0, sys.argv[2])
import test_rules
from danlu.data import measure
rng = random.Random(2)
for size in range(120):
    text = "".join(rng.choices(test_rules.PARTS, k=size))
    test_rules.same(text)
    measure.with_native([rng.randbytes(size), text.encode()[: size // 2], b"", b"\\xf0\\x9f" * size], c4="text")
"""


@pytest.mark.procs
@needs_native
def test_the_rules_pass_is_clean_under_sanitizers():
    built = native.build(extra=("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    asked = [native.compiler() or "", "-print-file-name=libasan.so"]
    asan = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", SANITIZED, str(built.path), os.path.dirname(__file__)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@needs_native
@given(st.lists(texts, min_size=1, max_size=4))
def test_c4_is_counted_and_kept_when_asked_for(many):
    whole = measure.with_native([text.encode() for text in many], c4="text")
    counted, without = (measure.with_native([text.encode() for text in many], c4=each) for each in ("counts", "none"))
    own = [name.startswith("c4_") for name in measure.FIELDS]
    np.testing.assert_array_equal(counted.counts, whole.counts)
    np.testing.assert_array_equal(without.counts, np.where(own, 0, whole.counts))
    assert counted.kept == without.kept == []


@given(st.lists(texts, min_size=1, max_size=6), st.lists(st.sampled_from(sorted(rules.SETS)), min_size=1, max_size=4))
def test_many_documents_are_judged_as_each_alone(many, names):
    counts = measure.measure([text.encode() for text in many]).counts
    for found, row in zip(rules.verdicts(names, counts), counts.tolist(), strict=True):
        own = dict(zip(measure.FIELDS, row, strict=True))
        first = next(((name, *broken) for name in names if (broken := rules.verdict(name, own))), None)
        assert found == first
