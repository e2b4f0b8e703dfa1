"""What a piece of a statement's text does where it stands: it is a plain value, or it says something itself.

The test: with a harmless word in its place the statement must have the same tokens, and the piece must be one of
them, or lie within one. Decides only; knows nothing of requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from itertools import takewhile

from flask_dbopt.sql.tokens import Token, tokens


class Effect(Enum):
    """What a piece of text does to the statement it stands in."""

    NONE = auto()
    """It is a literal, a name or a part of one."""
    ADDS = auto()
    """It brings operators, words, brackets: more than one token, and each of them whole."""
    BREAKS = auto()
    """It ends the literal it stands in, begins a comment, or ends the statement."""


#: What ends the search for the ORDER BY that a piece may be a part of.
_NOT_ORDERED = frozenset(
    "select distinct from where having limit offset set values on using join union except intersect group case"
    " when".split()
)
#: Without these nothing ends a literal.
_QUOTES = re.compile(r"['\"\\$]")
_INSIDE = frozenset(("text", "quoted", "comment", "torn"))
_BREAKING = frozenset(("comment", "torn"))
_PLAIN = frozenset(("word", "number", "parameter", "text", "quoted", "mark"))
#: What may follow a column in ORDER BY.
_DIRECTIONS = frozenset(("asc", "desc", "nulls", "first", "last", "collate", "nocase", "binary", "rtrim"))
_RESERVED = _NOT_ORDERED | frozenset("order by and or not in is like between as end then else exists".split())


def effect(sql: str, start: int, end: int, own: Sequence[Token] | None = None) -> Effect:
    """What ``sql[start:end]`` does there. ``sql`` in lower case; ``own``: its tokens."""
    piece = sql[start:end]
    if not piece.strip():
        return Effect.NONE
    own = tokens(sql) if own is None else own
    if not _QUOTES.search(piece) and any(
        token.start < start and end < token.end and token.kind == "text" for token in own
    ):
        return Effect.NONE
    # A line break of the piece's own would end a comment: the word in its place comes without.
    lead, trail = " " * piece[0].isspace(), " " * piece[-1].isspace()
    other = tokens(f"{sql[:start]}{lead}a{trail}{sql[end:]}")
    at, close = start + len(lead), start + len(lead) + 1 + len(trail)
    word = next(token for token in other if token.start <= at < token.end)
    touched = [token for token in own if token.start < end and token.end > start]
    same_before = _said(token for token in own if token.end <= start) == _said(
        token for token in other if token.end <= at
    )
    same_after = _said(token for token in own if token.start >= end) == _said(
        token for token in other if token.start >= close and token is not word
    )
    if word.kind in _INSIDE:
        is_inside = len(touched) == 1 and touched[0].kind == word.kind
        return Effect.NONE if is_inside and same_before and same_after else Effect.BREAKS
    if not same_before or not same_after or any(each.kind in _BREAKING or each.text == ";" for each in touched):
        return Effect.NONE if len(touched) == 1 and touched[0].text == ";" else Effect.BREAKS
    return Effect.NONE if _is_value(touched, own, start, end) else Effect.ADDS


def _said(part: Iterator[Token]) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in part]


def _is_value(touched: list[Token], own: Sequence[Token], start: int, end: int) -> bool:
    """Outside of literals: one token, a signed number, a qualified name, a list of numbers, columns to sort by."""
    if len(touched) == 1:
        return touched[0].kind in _PLAIN
    if not touched or touched[0].start < start or touched[-1].end > end:
        return False
    kinds = [token.kind for token in touched]
    texts = [token.text for token in touched]
    if len(touched) == 2 and texts[0] in ("-", "+") and kinds[1] == "number":
        return True
    if _is_name(touched):
        return True
    before = [token for token in own if token.end <= start]
    if _are_numbers(touched):
        return _in_brackets(before)
    return _are_columns(touched) and _is_ordered(before)


def _is_name(part: Sequence[Token]) -> bool:
    """``a`` or ``a.b``, at most three parts."""
    if len(part) not in (1, 3, 5):
        return False
    return all(
        token.text == "." if at % 2 else token.kind == "word" and token.text not in _RESERVED
        for at, token in enumerate(part)
    )


def _are_numbers(part: Sequence[Token]) -> bool:
    return len(part) % 2 == 1 and all(
        token.text == "," if at % 2 else token.kind == "number" for at, token in enumerate(part)
    )


def _in_brackets(before: Sequence[Token]) -> bool:
    """Whether a list begins here that is in brackets, but no row of VALUES: there one more is another column's."""
    behind = list(takewhile(lambda token: token.kind == "number" or token.text == ",", reversed(before)))
    rest = before[: len(before) - len(behind)]
    return len(rest) > 1 and rest[-1].text == "(" and rest[-2].kind == "word" and rest[-2].text != "values"


def _are_columns(part: Sequence[Token]) -> bool:
    """Columns as ORDER BY lists them: names or positions, each perhaps with a direction."""
    item: list[Token] = []
    for token in (*part, Token("mark", ",", 0, 0)):
        if token.text != ",":
            item.append(token)
            continue
        while len(item) > 1 and item[-1].text in _DIRECTIONS:
            item.pop()
        if not (_is_name(item) or (len(item) == 1 and item[0].kind == "number")):
            return False
        item = []
    return True


def _is_ordered(before: Sequence[Token]) -> bool:
    """Whether an ORDER BY list is what goes on here."""
    depth = 0
    for at in range(len(before) - 1, 0, -1):
        text = before[at].text
        if text == ")":
            depth += 1
        elif text == "(":
            depth -= 1
            if depth < 0:
                return False
        elif depth == 0 and text == "by":
            return before[at - 1].text == "order"
        elif depth == 0 and text in _NOT_ORDERED:
            return False
    return False
