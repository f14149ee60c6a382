"""Which language a text is in: by its script, and where many share one, by the small words every sentence has.

The small-word method is Grefenstette's (1995, "Comparing two language identification schemes"): few words suffice for
texts of more than a few sentences, and nothing has to be downloaded. `language: [en, zh]` keeps those; code has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from danlu.data.document import Document, Drop, Step
from danlu.errors import BadValue

SEEN = 20_000  # characters looked at
LEAST_SCRIPT = 0.3  # of the letters, for a script to name the language
LEAST_WORDS = 0.08  # of the words that must be small words; English prose has 0.3, code 0.03
LEAST_DIFFERENT = 3  # small words; variables of code are called y and z, too
UNKNOWN = "und"  # ISO 639-3: undetermined
SMALL = {
    "en": "the of and to in is that it was for with as are this be by not or from at which have has you an but can if",
    "de": "der die und das den von zu ist nicht mit dem des sich ein eine auf für auch es im als wird sind oder",
    "fr": "le la les de des et est une un dans que qui pour pas sur au avec ne se ce par plus sont cette ou mais vous",
    "es": "el los las de que y en un una es por con para no del al se lo como más pero su sus está son o este también",
    "it": "il di che è la e un una per non in con del della sono i le gli da come anche più si al nel alla ma questo",
    "pt": "o os as de que e em um uma é por com para não do da dos das se no na como mais mas ao foi são ou pelo",
    "nl": "de het een en van is dat in te op zijn met voor niet aan er die ook als door naar maar om bij wordt worden",
    "pl": "w i na z do nie się jest to że o po jak za od dla przez ale lub są tym tego być może oraz które",
    "sv": "och att det som en på är av för med den till inte ett om har de vi kan var från eller men så här",
    "tr": "ve bir bu için ile da de olarak çok daha olan gibi en ne kadar sonra ya değil her ama veya var",
    "vi": "và của là các có trong được cho không một với những người này đã khi từ để ra như cũng về hay",
    "id": "yang dan di dengan untuk dari ini itu dalam tidak pada ke adalah akan oleh juga atau bisa karena ada",
}
_SMALL = {name: frozenset(words.split()) for name, words in SMALL.items()}
_WORD = re.compile(r"[^\W\d_]+")
_SCRIPTS = {  # in the order they are asked: Japanese and Korean texts have Han characters too
    "ja": "\u3041-\u309f\u30a1-\u30fa", "ko": "\uac00-\ud7a3", "zh": "\u4e00-\u9fff\u3400-\u4dbf",
    "ru": "\u0400-\u04ff", "ar": "\u0600-\u06ff", "hi": "\u0900-\u097f", "th": "\u0e01-\u0e5b",
    "el": "\u0370-\u03ff", "he": "\u05d0-\u05ea",
}  # fmt: skip
_IN_SCRIPT = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}
KNOWN = (*SMALL, *_SCRIPTS)


def guess(text: str) -> tuple[str, float]:
    """ISO 639-1 code of a text's language and the share that speaks for it; "und" where nothing reaches its limit."""
    part = text[:SEEN]
    words = _WORD.findall(part.lower())
    letters = sum(map(len, words))
    if not letters:
        return UNKNOWN, 0.0
    if not part.isascii():
        shares = {name: len(found.findall(part)) / letters for name, found in _IN_SCRIPT.items()}
        if shares["ja"] > 0.1 and shares["ja"] + shares["zh"] > LEAST_SCRIPT:
            return "ja", shares["ja"] + shares["zh"]
        best = max(shares, key=shares.__getitem__)
        if shares[best] >= LEAST_SCRIPT:
            return best, shares[best]
    counts = Counter(words)
    shares = {name: sum(counts[each] for each in small) / len(words) for name, small in _SMALL.items()
              if len(small & counts.keys()) >= LEAST_DIFFERENT}  # fmt: skip
    if not shares:
        return UNKNOWN, 0.0
    best = max(shares, key=shares.__getitem__)
    return (best, shares[best]) if shares[best] >= LEAST_WORDS else (UNKNOWN, shares[best])


def configured(options: Any) -> Step:
    """`language: [en, zh]`: what is in another language goes. `und` keeps code and tables too. Raises BadValue."""
    wanted = frozenset([options] if isinstance(options, str) else options or ())
    if not wanted or not wanted <= {*KNOWN, UNKNOWN}:
        raise BadValue(
            "language needs codes it knows",
            why=f"it was given {options!r}; it knows {', '.join(KNOWN)} and und",
            fix="language: [en, zh]",
        )

    def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            language, share = guess(document.text)
            if language in wanted:
                yield replace(document, meta={**document.meta, "language": language})
            else:
                drop(document, f"language {language} ({share:.0%} speaks for it), wanted {', '.join(sorted(wanted))}")

    return step
