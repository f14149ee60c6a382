"""Web pages become text: the article without its menus, by trafilatura, which is kept for just that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from danlu.data.document import Document, Drop
from danlu.errors import MissingPackage

_PAGE = re.compile(r"\s*(?:<\?xml[^>]*>|<!--.*?-->|\s)*<(?:!doctype html|html|head|body)[\s>]", re.I | re.S)


def is_page(document: Document) -> bool:
    """Whether a document is a web page rather than a text: it begins like one."""
    return _PAGE.match(document.text[:4096]) is not None


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Replace pages by their text; drop those that have none. Raises MissingPackage at the first page."""
    for document in documents:
        if not is_page(document):
            yield document
            continue
        try:
            import trafilatura
        except ImportError as error:
            raise MissingPackage(
                "the step html needs trafilatura", why=str(error), fix="pip install 'danlu[html]'"
            ) from error
        text = trafilatura.extract(document.text, include_comments=False, include_tables=True, favor_recall=True)
        if text:
            yield replace(document, text=text, meta={**document.meta, "html": len(document.text)})
        else:
            drop(document, f"a page of {len(document.text)} characters without an article")
