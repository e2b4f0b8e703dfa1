"""The forms in which a value of a request may come to stand in a statement: decoded, escaped, cut, tidied."""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, unquote_plus

#: Longer values are looked for as they are.
LONGEST = 10_000
_MOST_FORMS, _MOST_PIECES = 24, 24
#: A piece that is shorter than this stands in too many statements.
_SHORTEST_PIECE = 4
#: A beginning or end of a value tells by its length, or by being half of the value.
_SHORTEST_PART = 16

#: What ends a literal or begins a comment.
HARD = re.compile(r"['\"`\\]|--|/\*")

_ESCAPES = re.compile(r"(?:\\u|%u)([0-9a-f]{4})|\\x([0-9a-f]{2})", re.IGNORECASE)
_HEX = re.compile(r"(?:0x|x')?((?:[0-9a-f]{2}){3,})'?", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_BLANKS = re.compile(r"\s{2,}|[\t\r\n\f\v]")
_FILTERED = re.compile(r"union|select|insert|update|delete|drop|from|where|or|and|--|;|/\*|\*/", re.IGNORECASE)
_WORTH_FILTERING = re.compile(r"union|select|insert|update|delete|drop|--|/\*", re.IGNORECASE)
_WORD = re.compile(r"\w+|-?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Forms:
    """What to look for in a statement in lower case."""

    whole: tuple[str, ...]
    pieces: tuple[str, ...] = ()
    """Parts of a value with quotes and the like in it, as an app that splits it would use them."""
    cut: tuple[str, ...] = ()
    """Forms that may stand there without their beginning or their end …"""
    ends: tuple[str, ...] = ()
    """… and the shortest beginnings and ends of theirs that tell."""


def forms(value: str) -> Forms | None:
    """The forms of one value; None for a single word or number, which changes no statement."""
    if _is_word(value):
        decoded = tuple(dict.fromkeys(form.lower() for form in _decoded(value) if not _is_word(form)))
        return Forms(decoded) if decoded else None
    if len(value) > LONGEST:
        lower = value.lower()
        cut = (lower,) if HARD.search(value) else ()
        return Forms(tuple(dict.fromkeys((lower, lower.strip()))), (), cut, _ends(cut))
    found: dict[str, None] = {value: None}
    for form in _read(value):
        found.setdefault(form)
    plain = tuple(found)
    for form in plain:
        for written in _written(form):
            found.setdefault(written)
    whole = tuple(dict.fromkeys(form.lower() for form in list(found)[:_MOST_FORMS] if form and not form.isspace()))
    whole = tuple(form for form in whole if form == value.lower() or not _is_word(form))
    if not any(map(HARD.search, plain)):
        return Forms(whole)
    return Forms(whole, tuple(_pieces(plain)), whole, _ends(whole))


def _is_word(value: str) -> bool:
    return _WORD.fullmatch(value) is not None


def _read(value: str) -> Iterator[str]:
    """As an app may decode or tidy it."""
    yield value.strip()
    if value[0] in "+-":
        yield value[1:]
    if "%" in value or "+" in value:
        once = unquote_plus(value)
        yield once
        yield unquote(value)
        if "%" in once:
            yield unquote_plus(once)
    if "&" in value:
        yield html.unescape(value)
    if not value.isascii():
        yield unicodedata.normalize("NFKC", value)
        yield unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode()
    if "\\" in value or "%u" in value.lower():
        yield _ESCAPES.sub(lambda match: chr(int(match[1] or match[2], 16)), value)
        yield value.replace("\\", "")
    if _WORTH_FILTERING.search(value):
        yield _FILTERED.sub("", value)  # as a filter that can be outwitted leaves it
    if "\x00" in value:
        yield value.replace("\x00", "")
    if _BLANKS.search(value):
        yield " ".join(value.split())
    yield from _decoded(value)


def _decoded(value: str) -> Iterator[str]:
    """The text that a value in hexadecimal or base64 digits stands for."""
    if len(value) < 6 or len(value) > LONGEST:
        return
    match = _HEX.fullmatch(value)
    if match is not None:
        yield from _as_text(bytes.fromhex(match[1]))
    if len(value.rstrip("=")) % 4 != 1 and _BASE64.fullmatch(value):
        standard = value.rstrip("=").translate(_URL_SAFE)
        try:
            yield from _as_text(base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True))
        except binascii.Error:
            return


_URL_SAFE = str.maketrans("-_", "+/")


def _as_text(data: bytes) -> Iterator[str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if text.isprintable():
        yield text


def _written(form: str) -> Iterator[str]:
    """As an app may write it into a literal, or clean it of quotes."""
    if "'" in form:
        yield form.replace("'", "''")
        yield form.replace("'", "\\'")
        yield form.replace("'", "")
    if '"' in form:
        yield form.replace('"', '""')
        yield form.replace('"', '\\"')
        yield form.replace('"', "")
    if "\\" in form:
        yield form.replace("\\", "\\\\")
    if "%" in form or "_" in form:
        yield form.replace("%", "\\%").replace("_", "\\_")


def _pieces(plain: tuple[str, ...]) -> Iterator[str]:
    seen: set[str] = set()
    for form in plain:
        for separator in (None, ",", "|", "&"):
            parts = form.split(separator, _MOST_PIECES)
            if len(parts) == 1:
                continue
            for part in parts:
                piece = part.strip().lower()
                if piece not in seen and len(piece) >= _SHORTEST_PIECE and HARD.search(piece):
                    seen.add(piece)
                    yield piece
                    if len(seen) >= _MOST_PIECES:
                        return


def _ends(cut: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for form in cut:
        size = _least(form)
        found.setdefault(form[:size])
        found.setdefault(form[-size:])
    return tuple(found)


def _least(form: str) -> int:
    """The letters that make a beginning or an end of it tell."""
    return max(_SHORTEST_PIECE, min(_SHORTEST_PART, (len(form) + 1) // 2))


def longest_part(form: str, text: str) -> str:
    """The longest beginning or end of ``form`` that stands in ``text``; empty where that is not much of it."""
    size = max(_common(form, text, from_start=True), -_common(form, text, from_start=False), key=abs)
    if abs(size) < _least(form):
        return ""
    return form[:size] if size > 0 else form[size:]


def _common(form: str, text: str, *, from_start: bool) -> int:
    low, high = 0, len(form)
    while low < high:  # what is there with n letters is there with fewer
        middle = (low + high + 1) // 2
        if (form[:middle] if from_start else form[-middle:]) in text:
            low = middle
        else:
            high = middle - 1
    return low
