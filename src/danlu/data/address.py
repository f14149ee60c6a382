"""Addresses that are one word, whatever signs are in them: http://a.org/x-y, mail@host.org, docs.python.org/3.

The form is that of Diego Perini's expression (gist 729294), as spaCy uses it: a scheme and a user may stand in front of
a host, a port and a path behind it. A host is a name with a dot, or a public IPv4 address. Digits are those of ASCII.
csrc/rules/address.h must equal this file.
"""

from __future__ import annotations

import re

from danlu.data import letters
from danlu.data.letters import ALPHA, DIGIT, LOWER

_NAME, _LAST_NAME = 64, 63  # longest label, longest one behind the last dot
_HOST = re.compile(r"([^:/?#@]*+)(?::[0-9]{2,5})?(?=[/?#]|\Z)")
_OCTETS = tuple(re.compile(each) for each in (
    "[1-9][0-9]?|1[0-9][0-9]|2[01][0-9]|22[0-3]", "1?[0-9]{1,2}|2[0-4][0-9]|25[0-5]",
    "1?[0-9]{1,2}|2[0-4][0-9]|25[0-5]", "[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-4]",
))  # fmt: skip
_PRIVATE = re.compile(r"10|127|169\.254|192\.168|172\.(?:1[6-9]|2[0-9]|3[01])")


def is_address(text: str) -> bool:
    """Whether a text without blanks is an address. Cost: one look at each character, or a few."""
    if "." not in text:
        return False
    starts = [0]
    scheme = text.find("://")
    if scheme >= 2 and all(sign in "+-._" or _class(sign) & (ALPHA | DIGIT) for sign in text[:scheme]):
        starts.append(scheme + 3)
    users = (at.end() for at in re.finditer("(?<=.)@", text, re.S))
    return any(_is_host(text, i) for i in (*starts, *users))


def _class(sign: str) -> int:
    return int(letters.of(sign)[0])


def _is_host(text: str, begin: int) -> bool:
    """Whether a host stands there, and behind it at most a port and a path."""
    found = _HOST.match(text, begin)
    return found is not None and (_is_name(found[1]) or _is_number(found[1]))


def _is_name(host: str) -> bool:
    *labels, last = host.split(".")
    return bool(labels) and all(map(_is_label, labels)) and 2 <= len(last) <= _LAST_NAME and all(
        _class(sign) & LOWER for sign in last
    )  # fmt: skip


def _is_label(label: str) -> bool:
    return 1 <= len(label) <= _NAME and _inner(label[0]) and _inner(label[-1]) and all(
        sign in "_-" or _inner(sign) for sign in label
    )  # fmt: skip


def _inner(sign: str) -> bool:
    return "\xa1" <= sign <= "\uffff" or (sign.isascii() and sign.isalnum())


def _is_number(host: str) -> bool:
    octets = host.split(".")
    fits = len(octets) == 4 and all(form.fullmatch(octet) for form, octet in zip(_OCTETS, octets, strict=True))
    return fits and not any(_PRIVATE.fullmatch(".".join(octets[:n])) for n in (1, 2))
