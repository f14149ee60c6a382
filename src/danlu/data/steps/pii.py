"""Personal data is masked: e-mail and IP addresses, telephone and card numbers, Chinese identity numbers.

Card numbers are those whose check digit is right (Luhn, ISO/IEC 7812-1), identity numbers those of GB 11643-1999 (a
date and an ISO 7064 MOD 11-2 check character), so that other long numbers stay. Every pattern reads a text once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from danlu.data.document import Document, Drop

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,5}(?![\w-])", re.ASCII
)
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IP = re.compile(rf"(?<![\w.]){_BYTE}(?:\.{_BYTE}){{3}}(?![\w]|\.\d)", re.ASCII)
_CHINESE_ID = re.compile(
    r"(?<!\d)[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\dXx])", re.ASCII
)
_CARD = re.compile(
    r"(?<![\d.])(?:\d{13,19}|\d{4}([ -])(?:\d{4}\1){2}\d{1,7}|\d{4}([ -])\d{6}\2\d{5})(?![\d])", re.ASCII
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}"  # Chinese mobile
    r"|0\d{2,3}-\d{7,8}"  # Chinese landline
    r"|\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # international
    r"|(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4})(?![\w-]|\.\d)",  # North American
    re.ASCII,
)


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Drops nothing; `masked` in a document's meta counts what was taken out."""
    for document in documents:
        text, count = masked(document.text)
        yield replace(document, text=text, meta={**document.meta, "masked": count}) if count else document


def masked(text: str) -> tuple[str, int]:
    """The text with <EMAIL>, <ID>, <CARD>, <PHONE>, <IP> in place of what they name, and how many there were."""
    total = 0
    if "@" in text:
        text, total = _EMAIL.subn("<EMAIL>", text)
    for pattern, mark, holds in _NUMBERS:
        text, count = _replaced(pattern, mark, holds, text)
        total += count
    return text, total


def _replaced(pattern: re.Pattern[str], mark: str, holds: Callable[[str], bool], text: str) -> tuple[str, int]:
    count = 0

    def change(found: re.Match[str]) -> str:
        nonlocal count
        right = holds(found[0])
        count += right
        return mark if right else found[0]

    return pattern.sub(change, text), count


def is_card(number: str) -> bool:
    """Whether the check digit of a card number is right (Luhn)."""
    digits = [int(each) for each in number if each.isdigit()][::-1]
    total = sum(digits[::2]) + sum(sum(divmod(2 * each, 10)) for each in digits[1::2])
    return total % 10 == 0 and len(set(digits)) > 1


def is_chinese_id(number: str) -> bool:
    """Whether the check character of a Chinese identity number is right (ISO 7064 MOD 11-2)."""
    total = sum(int(each) * pow(2, 17 - place, 11) for place, each in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


_NUMBERS: tuple[tuple[re.Pattern[str], str, Callable[[str], bool]], ...] = (
    (_CHINESE_ID, "<ID>", is_chinese_id), (_CARD, "<CARD>", is_card), (_PHONE, "<PHONE>", bool), (_IP, "<IP>", bool),
)  # fmt: skip
