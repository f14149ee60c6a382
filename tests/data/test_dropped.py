"""The list of dropped documents stays bounded: a sample by name, the counts of all, and a verdict on any document."""

from __future__ import annotations

from test_parts import STEPS, fill

from danlu.data import clean, why
from danlu.data.prep import Prepared, prep


def made(text, out) -> Prepared:
    return prep([text], out, vocab=400, limit_bytes=10**8, steps=STEPS)


def test_of_a_large_store_a_sample_of_the_drops_is_listed_and_all_are_counted(tmp_path, monkeypatch):
    text = fill(tmp_path / "text", 200)
    every = made(text, tmp_path / "all")
    monkeypatch.setattr(clean, "LISTED", 100)
    some = made(text, tmp_path / "some")
    assert (some.dropped, some.docs_kept) == (every.dropped, every.docs_kept)
    whole, listed = (list(why.drops(tmp_path / name)) for name in ("all", "some"))
    assert len(whole) == sum(every.dropped.values()) > len(listed) > 0
    assert listed == [each for each in whole if each in listed]  # the same lines, in the same order
    unlisted = next(each["key"] for each in whole if each not in listed)
    assert why.fate(tmp_path / "some", unlisted).rule == why.UNLISTED
    assert why.fate(tmp_path / "some", listed[0]["key"]).rule == listed[0]["rule"]
