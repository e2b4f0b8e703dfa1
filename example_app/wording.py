"""How figures are written for people: template filters, and the bounds of what people may type."""

from __future__ import annotations

import unicodedata
from urllib.parse import urlencode

from flask import Flask, request

LONGEST = 60


def clean(text: str | None) -> str:
    """What somebody typed, as our words are written: composed, lower case, single spaces, not endless."""
    return " ".join(unicodedata.normalize("NFC", text or "").lower().split())[:LONGEST]


def escape_like(text: str) -> str:
    """Text that LIKE takes literally (with ``ESCAPE '\\'``)."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def grouped(number: float) -> str:
    """1234567 as 1,234,567."""
    return f"{number:,.0f}"


def per_million(value: float) -> str:
    """A rate people can read at any size."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def one_in(value: float) -> str:
    """How many words you read, on average, until you meet this one."""
    words = 1_000_000 / value if value else 0
    digits = max(0, len(str(int(words))) - 2)
    return f"{round(words, -digits):,.0f}"


def band(zipf: float) -> str:
    """The Zipf scale in words."""
    if zipf >= 6:
        return "everywhere"
    if zipf >= 5:
        return "very common"
    if zipf >= 4:
        return "common"
    if zipf >= 3:
        return "uncommon"
    return "rare"


def with_page(number: int) -> str:
    """This page's address with another page number."""
    return "?" + urlencode({**request.args.to_dict(), "page": number})


def page_number() -> int:
    """The page asked for; anything unreadable is the first."""
    return min(max(request.args.get("page", 1, type=int), 1), 100_000)


def init_app(app: Flask) -> None:
    app.jinja_env.filters.update(grouped=grouped, per_million=per_million, one_in=one_in, band=band)
    app.jinja_env.globals.update(with_page=with_page)
