"""Steps for pages of the web: adverts, personal data, languages, shared lines, test sets, shares of sources."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.data import clean
from danlu.data.document import Document, Funnel, original
from danlu.data.encode import held_out
from danlu.data.steps import html, language, pii
from danlu.data.steps.ads import CHINESE, ENGLISH, is_ad


def through(steps, *texts: str, keys: str = "abcdefghij") -> tuple[list[Document], Funnel]:
    funnel = Funnel()
    documents = [Document(key, text) for key, text in zip(keys, texts, strict=False)]
    return list(clean.pipeline(documents, steps, funnel)), funnel


PROSE = "The river was high that morning, and nobody had told the miller of it.\n" * 3
ZH = "那天早上河水很高，没有人告诉磨坊主这件事，他还在睡觉。\n" * 3


@pytest.mark.parametrize(
    "line", ["Click here to BUY NOW!", "  Subscribe to our newsletter", "扫码关注我们的公众号", "全场包邮，限时优惠"]
)
def test_an_advert_goes_and_the_text_around_it_stays(line):
    (left,), _ = through(["ads"], f"{PROSE}{line}\n{ZH}")
    assert left.text == PROSE + ZH and left.meta["ads"] == 1
    assert through(["ads"], "\n".join([line] * 9))[1].dropped == {"ads": 1}


def test_prose_that_mentions_an_advert_stays():
    said = (
        f"He told them at length how the words 'click here' had come to stand under every notice, {'and so on, ' * 9}."
    )
    assert not is_ad(said) and through(["ads"], said)[0][0].text == said
    assert all("||" not in each and not each.endswith("|") for each in (ENGLISH, CHINESE))


MASKED = {
    "Write to jane.doe+x@mail.example.org, please.": "Write to <EMAIL>, please.",
    "from 192.168.0.17 and 10.0.0.256 or v1.2.3.4.5": "from <IP> and 10.0.0.256 or v1.2.3.4.5",
    "card 4111 1111 1111 1111, not 4111 1111 1111 1112": "card <CARD>, not 4111 1111 1111 1112",
    "身份证11010519491231002X，不是110105194912310021。": "身份证<ID>，不是110105194912310021。",
    "手机13812345678，电话010-12345678": "手机<PHONE>，电话<PHONE>",
    "call +49 30 1234567 or (212) 555-0187": "call <PHONE> or <PHONE>",
    "0123456789 2026-11-21 3.14159 1234567890123": "0123456789 2026-11-21 3.14159 1234567890123",
}


@pytest.mark.parametrize("text", MASKED)
def test_personal_data_is_masked_and_other_numbers_stay(text):
    assert pii.masked(text)[0] == MASKED[text]


def test_masks_are_counted_in_the_document():
    (left, other), _ = through(["pii"], "a@b.org and c@d.org", "nothing")
    assert left.meta == {"masked": 2} and other.meta == {}


@given(st.text(alphabet="0123456789 -@.abXx+()", max_size=200))
def test_masking_twice_changes_nothing(text):
    once, _ = pii.masked(text)
    assert pii.masked(once)[0] == once


@given(st.lists(st.integers(0, 9), min_size=12, max_size=18))
def test_exactly_one_check_digit_makes_a_card(digits):
    number = "".join(map(str, digits))
    right = [last for last in "0123456789" if pii.is_card(number + last)]
    assert len(right) == (1 if len(set(number + right[0] if right else number)) > 1 else 0)


SAID = {
    "en": "The house stood at the end of the road, and it was not the one that she had been told of.",
    "de": "Das Haus stand am Ende der Straße, und es war nicht das, von dem man ihr erzählt hatte.",
    "fr": "La maison était au bout de la route, et ce n'était pas celle dont on lui avait parlé dans le train.",
    "es": "La casa estaba al final de la calle, y no era la que le habían dicho en el tren por la noche.",
    "zh": "房子在路的尽头，不是别人告诉她的那一座。",
    "ja": "その家は道の終わりにあって、彼女が聞いていたものではなかった。",
    "ru": "Дом стоял в конце дороги, и это был не тот, о котором ей говорили.", "ko": "그 집은 길 끝에 있었다.",
    "und": "x = [3, 4, 5]; z = x[0] ** 2; print(sum(x), len(x), max(x), z)",
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_language_is_known_by_its_script_or_its_small_words(name):
    assert language.guess(SAID[name])[0] == name


def test_only_the_wanted_languages_stay():
    left, funnel = through([{"language": ["en", "zh"]}], *SAID.values())
    assert [each.meta["language"] for each in left] == ["en", "zh"] and funnel.dropped == {"language": len(SAID) - 2}


def test_lines_that_many_share_go_from_the_later_ones():
    head = "Licensed to the Foundation under one or more agreements.\n"
    texts = [f"{head}Of number {n} there is this much to be said, and it is its own.\n{PROSE}"[:200] for n in "123456"]
    left, funnel = through(["shared_lines"], *texts)
    assert [head in each.text for each in left] == [True] * 3
    assert funnel.dropped == {"shared_lines": 3}


def test_what_a_test_set_says_is_not_learned(tmp_path):
    rng = random.Random(1)
    words = [f"w{n}" for n in rng.sample(range(9999), 300)]
    question = " ".join(words[:30])
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": question, "choices": ["a", "b"]}) + "\n")
    han = [chr(0x4E00 + n) for n in rng.sample(range(9999), 60)]
    (tmp_path / "zh.txt").write_text("".join(han))
    steps = [{"decontaminate": {"tests": [str(tmp_path)], "words": 13}}]
    inside, short = " ".join([*words[100:150], *words[5:18], *words[60:99]]), " ".join([*words[100:150], *words[5:17]])
    left, funnel = through(steps, inside, short, f"前文{''.join(han[9:30])}后文", "".join(han[9:21]))
    assert [each.key for each in left] == ["b", "d"]
    assert funnel.examples["decontaminate"][0] == "a: 13 words in a row stand in a test set, limit 12"


few_words = st.text("ab", min_size=15, max_size=60)


@settings(max_examples=40)
@given(st.lists(few_words, min_size=1, max_size=3), few_words, st.integers(5, 9))
def test_words_that_stand_apart_in_a_test_set_make_no_run(tests, words, length):
    """Of two words every run of five is soon somewhere; what counts is the whole run."""
    known = {test[at : at + length] for test in tests for at in range(len(test) - length + 1)}
    stands = any(words[at : at + length] in known for at in range(len(words) - length + 1))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tests.jsonl"
        file.write_text(json.dumps([" ".join(test) for test in tests]))
        left, _ = through([{"decontaminate": {"tests": str(file), "words": length}}], " ".join(words))
    assert bool(left) != stands


def test_sources_are_mixed_by_weight_and_copies_are_held_out_together():
    keys = [f"{source}/{n}" for source in ("books", "forum", "other") for n in range(400)]
    funnel = Funnel()
    documents = [Document(key, "text") for key in keys]
    left = list(clean.pipeline(documents, [{"mix": {"books": 2, "forum": 0.5}}], funnel))
    counts = {source: sum(each.key.startswith(source) for each in left) for source in ("books", "forum", "other")}
    assert counts["books"] == 800 and counts["other"] == 400 and 150 < counts["forum"] < 250
    assert len({each.key for each in left}) == len(left) and funnel.dropped["mix"] == 400 - counts["forum"]
    held = held_out({each.key: 1000 for each in left})
    assert held and held == {original(key) for key in held}


BAD = [{"language": ["klingon"]}, "language", {"decontaminate": {"tests": []}}, {"decontaminate": ["/absent/test.txt"]},
       {"mix": {"books": -1}}, "mix", {"decontaminate": {"tests": ["x"], "words": 2}}]  # fmt: skip


@pytest.mark.parametrize("spec", BAD)
def test_options_that_cannot_be_meant_are_refused(spec):
    with provoke("DL-CFG-002"):
        through([spec], "text")


def test_an_empty_test_set_is_refused(tmp_path):
    with provoke("DL-CFG-002"):
        through([{"decontaminate": [str(tmp_path)]}], "text")


PAGE = f"""<!DOCTYPE html><html><head><title>River</title></head><body>
<nav><a href="/">Home</a> <a href="/m">Menu</a></nav>
<article><h1>The river</h1>{"".join(f"<p>{line} Part {n}.</p>" for n, line in enumerate(PROSE.splitlines()))}</article>
<footer>Imprint</footer></body></html>"""


def test_a_page_becomes_its_article_and_a_text_stays():
    pytest.importorskip("trafilatura")
    (page, text), funnel = through(["html"], PAGE, PROSE, "<html><body></body></html>")
    assert "nobody had told the miller" in page.text and "Menu" not in page.text and "<p>" not in page.text
    assert text.text == PROSE and funnel.dropped == {"html": 1}


def test_a_page_is_known_by_how_it_begins():
    assert html.is_page(Document("a", PAGE)) and html.is_page(Document("b", "<!-- x -->\n<html>"))
    assert not html.is_page(Document("c", PROSE)) and not html.is_page(Document("d", "The tag <html> begins a page."))


def test_without_trafilatura_a_page_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with provoke("DL-ENV-001"):
        through(["html"], PAGE)
