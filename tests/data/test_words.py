"""Words are cut as spaCy's English tokenizer cuts them, and the native pass cuts the same ones.

What is recorded here, spaCy 3.8 said; `danlu bench data --only words` asks it anew, over much more text.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu import native
from danlu.data import measure
from danlu.data.address import is_address
from danlu.data.irregular import irregular
from danlu.data.words import spans, words

SAID = [  # ¦ where one word ends and the next begins without a blank
    "I ca¦n't¦, he wo¦n't and they¦'d¦'ve said¦: it¦'s Bob¦'s¦, let¦’s go¦; do¦nt¦! Can¦not¦? gon¦na i¦d i¦m",
    'Dr. Smith (¦Ph.D.¦) of the U.S. met Mr. X. on Jan. 3 at 10¦a.m. or 5¦pm¦, e.g. in a. b. and C.',
    "well¦:) hello:-¦( (: <3 xD (^_^) :'( >.< 8) foo¦:)) ._. ¯\\(ツ)/¯ ok¦):",
    'hello¦:¦) ) a ( o¦: x :-) : ) what¦:))) :)',
    'see https://a.org/x-y?q=1#z¦, www.example.com¦. mail x.y@z.org¦; http://10.0.0.1¦/¦p 8.8.8.8:80 '
    '192.168.0.1:8080¦/¦x a.b',
    'ftp://user:pw@host.co:21/p (¦docs.python.org/3¦) file.txt foo¦.¦Bar a¦,¦b x¦=¦y x¦:¦y 1:2 http://x',
    '10¦km 5.5¦m² 3¦km/h 20¦°¦C 25¦°¦C¦. 7¦% 12¦kg¦, 3¦MB¦. 99¦+ $¦5 US$¦10 10¦US$ A$¦3 5¦€ €¦5 £¦3¦m 1,000.50 '
    '2¦-¦3 x^2 3¦*¦4 2¦^¦-1 -8 +3 +¦x',
    "rock¦-¦n¦-¦roll --no¦-¦pager a¦--¦b a¦---¦b a¦–¦b a¦—¦b 1¦-¦-2 foo¦-¦don't and/or w/o km¦/¦h either¦/¦or ~x "
    "a¦~¦b",
    "'¦tis ''¦quoted¦'' “¦it¦’s¦” ‘s 'em 'cause rock'n'roll O'Reilly¦'s y'¦all c'm¦on ma'am o'clock doin' Goin’",
    'wait¦... what¦…… no¦.. .5 ...¦x x¦...¦y U.S.A. a.m. 1¦. 2¦.¦) end¦.¦) END¦. eNd¦. x¦_¦. %¦. ²¦. -¦.',
    '<¦p class="a b">Hi &¦amp¦; bye</p¦> {¦{¦x¦}¦} [¦1¦] #¦tag @me #¦#¦x *¦bold¦* _¦it¦_ `¦code¦` \\n a\\tb <space>',
    "Straße¦, größer¦. C’est l’été¦; aujourd'hui¦. Он сказал¦: «¦да¦»¦. 5¦км 10¦Мб¦. ΑΒΓ.δε Ж.Ж x.¦Я",
    '☃¦\ufe0fsnow 😀¦😃¦x 👍¦🏽 🇩¦🇪 🥲new ©¦2020 a¦™¦b ° § 5 =¦x =¦=¦y + +¦+ C++ c++11 i++ |¦. a|b',
    'ไทยคำ สวัสดี.ครับ हिन्दी¦। नमस्ते¦,¦दोस्त עברית¦,¦שלום עִבְרִית العربية¦، 5¦كم ǅ.ǅ ﬁ.ﬁ Ｆｕｌｌ．Ｗ',
    'tab\tand\xa0nbsp\u2028line\x0bend \x1c x  y   z\r\nz',
]  # fmt: skip
PARTS = [
    *sorted(irregular()), " ", " ", "  ", "\n", "\xa0", "\u0301", "\U00020001", "\U000e0067",
    *"word Word WORD 12 's ’s . .. … …… , : - -- --- —— ~ / = + ^ ( ) < > | _ ° C € US$ % ² km µm кг é Ж 😀 ǅ".split(),
    *"ไทย a.org http:// @ 10.0.0.1 8.8.8.8 :80 /p?q 丹炉 。".split(),
]  # fmt: skip
texts = st.lists(st.sampled_from(PARTS), max_size=24).map("".join)


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_words_are_those_that_spacy_cuts(said):
    assert words(said.replace("¦", "")) == said.replace("¦", " ").split()


@pytest.mark.skipif(not native.runs("ref"), reason="no native library")
@given(texts)
def test_the_native_pass_cuts_the_same_words(text):
    counts, kept = measure.in_python(text)
    found = measure.with_native([text.encode()], c4="text")
    assert found.counts[0].tolist() == counts and found.kept[0].decode() == kept


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One.  Two", 2),
        ("One.  ! Two", 3),
        ("One. ! Two", 2),
        ("One.\t! Two", 3),
        ('One. "Two" three', 2),
        ("He. . .", 1),
    ],
)
def test_blanks_in_a_row_begin_a_sentence_as_spacy_has_it(line, count):
    assert measure.sentences(line) == count


def test_digits_of_any_script_are_a_citation():
    kept = measure.measure(["A line that ends.[१२] Another one ends.[٣]".encode()], c4="text").kept
    assert kept == [b"A line that ends. Another one ends."]


@given(st.one_of(texts, st.text(max_size=60)))
def test_words_stand_in_order_and_leave_out_only_blanks(text):
    found = spans(text)
    assert all(a < b <= c < d for (a, b), (c, d) in zip(found, found[1:], strict=False))
    assert "".join(text[a:b] for a, b in found) == "".join(text.split())


def test_every_irregular_word_is_cut_by_rote_alone_and_behind_a_bracket():
    for chunk, cut in irregular().items():
        assert tuple(words(chunk)) == cut and "".join(cut) == chunk
        assert words(f"«{chunk}") == ["«", *cut]


WHOLE = "a.org http://a.org:80/x?y#z me@a-b.co.uk 1.2.3.4 1.2.3.4:8080/x a@b@c.de x+y://a.de ä.de 172.32.0.1".split()
SPLIT = (
    "a.o a.Org .org a..org -a.org a_.org 10.1.2.3 172.16.0.1 192.168.1.2 1.2.3.255 1.2.003.4 0.2.3.4 a.org:8 "
    "a.org:123456 a.org. h://a.org a.org|"
).split()


@pytest.mark.parametrize("text", [*WHOLE, f"{'a' * 64}.org", *SPLIT, f"{'a' * 65}.org", f"a.{'b' * 64}"])
def test_an_address_is_one_word(text):
    assert is_address(text) is (text in WHOLE or text == f"{'a' * 64}.org")
    cut = measure.measure([f"{text}-x".encode(), f"<{text}".encode()]).counts[:, measure.FIELD["words"]].tolist()
    assert cut == [len(words(f"{text}-x")), len(words(f"<{text}"))]
