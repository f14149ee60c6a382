"""English words that no rule of `words.py` cuts right: contractions, abbreviations with a dot, faces made of signs.

These are the single exceptions of spaCy's English tokenizer, as facts in an order of our own: only those that its rules
for signs would cut otherwise. A contraction is known with an apostrophe, with a typographic one and without, in small
letters and with a capital: "don't", "Don’t" and "dont" are two words each.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

# Words, and what may follow each of them: "~" stands between two words.
_CONTRACTIONS = (
    ("i", "'m 'm~a 've"),
    ("you we they", "'ve 're"),
    ("he she it", "'s"),
    ("i you he she it we they", "'ll 'll~'ve 'd 'd~'ve"),
    ("who what when where why how there", "'s 're 've"),
    ("these those", "'re 've"),
    ("that this", "'s"),
    ("who what when where why how there that this these those", "'ll 'll~'ve 'd 'd~'ve"),
    ("could might must should would", "'ve"),
    ("ca could do does did had may might must need ought sha should wo would", "n't n't~'ve"),
    ("ai are is was were have has dare", "n't"),
    ("not", "'ve"),
)
_CAPITAL_TOO = "can~not gon~na got~ta let~'s c'm~on"
_AS_THEY_STAND = "y'~all y~all how~'d~'y How~'d~'y °~C~. °~F~. °~K~."
_PLAIN = frozenset(  # what would be one, but for the apostrophe that it lacks; "hell" is a word
    word for each in "ill its hell shell shed were well whore".split() for word in (each, each.capitalize())
)
_NO_G = "doin goin havin lovin nothin nuthin ol somethin"  # and an apostrophe
_CUT_SHORT = "'bout 'Cause 'cause 'Cos 'cos 'Coz 'coz 'Cuz 'cuz 'd 'em 'll 'nuff 're 'S 's ‘S ‘s ''"
_DOTTED = (
    "Adm Ak Ala Apr Ariz Ark Aug Bros Calif Co Colo Conn Corp Dec Del Dr E.g Feb Fla Ga Gen Gov I.e Ia Id Ill Inc Ind "
    "Jan Jr Jul Jun Kan Kans Ky La Ltd Mar Mass Md Messrs Mich Minn Miss Mo Mont Mr Mrs Ms Mt Neb Nebr Nev Nov Oct "
    "Okla Ore Pa Ph.D Prof Rep Rev Sen Sep Sept St Tenn Va Wash Wis a.m co e.g i.e p.m v.s vs ä ö ü"
)
_EYES, _NOSES, _MOUTHS = ":", ("", "-"), ") )) ))) ( (( ((( ] } / | P p O o 0 * 3 > X x D".split()
_FACES = (
    ":1 :() :o) :') :'-) :'( :'-( ;) ;-) ;D ;-D 8) 8-) 8-D =) =( =[ =] =/ =| =3 =D >:( >:o (: (-: (; (-; (-8 (= (o: "
    "): )-: [: [-: [= ]= ._. <.< >.< >.> ;_; o.O (^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) (ಠ_ಠ) "
    "(╯°□°）╯︵┻━┻ ><(((*> ¯\\(ツ)/¯"
)
_SIGNS = '<3 <33 <333 </3 <space> \\") and/or w/o'


@functools.cache
def irregular() -> Mapping[str, tuple[str, ...]]:
    """What stands between two blanks, or is left of it, and the words it is."""
    found: dict[str, tuple[str, ...]] = {}
    for spelled in _spelled():
        for each in (spelled, spelled.replace("'", "’")):
            found[each.replace("~", "")] = tuple(each.split("~"))
    return {chunk: cut for chunk, cut in found.items() if chunk not in _PLAIN}


def _spelled() -> Iterator[str]:
    """Each of them with an upright apostrophe, "~" between its words."""
    for whole, ends in _CONTRACTIONS:
        for word in whole.split():
            for end in ends.split():
                for each in (f"{word}~{end}", f"{word}~{end}".replace("'", "")):
                    yield from (each, each.capitalize())
    for each in _CAPITAL_TOO.split():
        yield from (each, each.capitalize())
    yield from _AS_THEY_STAND.split()
    yield from (f"{each}'" for word in _NO_G.split() for each in (word, word.capitalize()))
    yield from _CUT_SHORT.split()
    yield from (f"{each}." for each in [*_DOTTED.split(), *map(chr, range(ord("a"), ord("z") + 1))])
    yield from (f"{hour}~{half}" for hour in range(1, 13) for half in ("am", "a.m.", "pm", "p.m."))
    yield from (_EYES + nose + mouth for nose in _NOSES for mouth in _MOUTHS)
    yield from _FACES.split()
    yield from _SIGNS.split()
