"""Texts whose words are hard to cut, from a seed: faces, addresses, units, contractions, other scripts, anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from danlu.cli.bench import load
from danlu.data import letters
from danlu.data.irregular import irregular

Make = Callable[[np.random.Generator], str]  # one chunk, without a blank in it
SIGNS = (
    ". , : ; ! ? ( ) [ ] { } < > ' \" - -- --- – — … .. ... / \\ | _ # * & % $ € £ + ^ = ~ @ ° ² µ ` ´ ‘ ’ “ ” « » § ©"
).split()
LATIN = (
    "Straße größer Übermut naïve déjà été garçon œuvre l’été aujourd'hui d'accord qu'il Noël z.B. usw. Nr. Œdipe C’est"
).split()
CYRILLIC = (
    "Он сказал, что дом Жёлтый И.И. кг т.е. Москва-река «да» объём Ёж семь.Восемь подъезд Україна їжак ѓаво"
).split()
OTHERS = (
    "ΑΒΓ.δε καλημέρα नमस्ते हिन्दी। ไทยคำ שלום עִבְרִית العربية، كتاب 한국어 조선말. ქართული Ǆ ǅx ﬁn Ｆｕｌｌ ħ ʔa".split()
)
FACES = "😀 👍🏽 🇩🇪 ❤️ 🥲 ☃ ™ 🏴\U000e0067\U000e0062 :) ;-) :-P xD <3 :'( (^_^) o.O -_- ^^ T_T >:( =]".split()
UNITS = "km m² m/s kg µg MB GB TB T K % °C °F. km/h кг см³ Мб mph Pa ha in ft am a.m. pm p.m. th x".split()
HOSTS = (
    "example.org www.a-b.co.uk docs.python.org a.b Foo.Bar x_y.net 8.8.8.8 192.168.0.1 10.0.0.1 localhost ä.de "
    "a.Org 1.2.3.255"
).split()
MATHS = (
    "x^2 y_1 3*10 10^-3 a+b a-b ≤ ∑ ∫f α∈ℝ 1/2 x=y x:=y f(x) [0,1) {1,2} |x| n! a<b a>b 2-1 -1 +3 ±5 √2 10e-3 i++ C++"
).split()


def _one(rng: np.random.Generator, of: Sequence[str]) -> str:
    return of[int(rng.integers(len(of)))]


_file = functools.cache(load)  # a file read again would make its tables again


def _word(rng: np.random.Generator) -> str:
    found: str = _file("parts/corpora").english().some(rng, 1)[0]
    return found


def _chat(rng: np.random.Generator) -> str:
    return "".join(_one(rng, (_word(rng), _one(rng, FACES), _one(rng, SIGNS))) for _ in range(rng.integers(1, 4)))


def _address(rng: np.random.Generator) -> str:
    before = _one(rng, ("", "", "http://", "https://", "ftp://", "x+y://", "h://", "mailto:", "me@", "u:p@", "(", "<"))
    behind = _one(rng, ("", "", ":80", ":8", "/", "/p-q/r.html", "?q=1&x", "#top", "/a:b", "/a=b", "@x"))
    return before + _one(rng, HOSTS) + behind + _one(rng, ("", "", ".", ",", ")", ">", "..", "'s"))


def _amount(rng: np.random.Generator) -> str:
    number = f"{rng.random() * 10 ** rng.integers(0, 5):.{rng.integers(0, 3)}f}"
    number = _one(rng, (number, number.replace(".", ","), str(rng.integers(1, 13)), f"{rng.integers(1, 9)},000"))
    before = _one(rng, ("", "", "$", "€", "US$", "-", "+", "~", "(", "#"))
    return before + number + _one(rng, ("", *UNITS, *SIGNS, "C$", "₽"))


def _of(words: Sequence[str]) -> Make:
    """One to three of the words, or signs, in a row."""

    def make(rng: np.random.Generator) -> str:
        return "".join(_one(rng, words if rng.random() < 0.66 else SIGNS) for _ in range(rng.integers(1, 4)))

    return make


def _anything(rng: np.random.Generator) -> str:
    """Characters of all scripts but those that Chinese and Japanese are written with, of which each is a word here."""
    found = (chr(each) for each in rng.integers(0x21, _one(rng, (0x7F, 0x250, 0x3000, 0x20000)), rng.integers(1, 9)))
    text = "".join(each for each in found if not "\ud800" <= each <= "\udfff")
    return text if not (letters.of(text) & letters.CJK).any() else "x"


KINDS: dict[str, Make] = {
    "words and faces": _chat, "irregular words": _of(tuple(irregular())), "addresses": _address, "amounts": _amount,
    "formulas": _of(MATHS), "German and French": _of(LATIN), "Cyrillic": _of(CYRILLIC), "other scripts": _of(OTHERS),
    "any characters": _anything,
}  # fmt: skip


def texts(kind: str, seed: int, count: int, chunks: int = 200) -> list[str]:
    """So many texts of a kind, of so many chunks each, with a blank or a line end between them."""
    rng = np.random.default_rng([seed, *kind.encode()])
    return ["".join(KINDS[kind](rng) + _one(rng, " " * 14 + "\n") for _ in range(chunks)) for _ in range(count)]
