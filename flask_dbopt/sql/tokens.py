"""The words of SQL: one lexicon, right for SQLite's and PostgreSQL's rules, for whoever reads a statement by tokens."""

from __future__ import annotations

import re
from typing import NamedTuple

# Every repetition is possessive (``*+``): no text, however hostile, makes a match go back over itself.
# Letters, digits, _, $ and all beyond ASCII, said by what they are not: a set that reaches beyond the first 65,536
# characters takes re milliseconds to compile, and this one is in a dozen places.
NAME = r"[^\x00-@\[-^`{-\x7f][^\x00-\#%-/:-@\[-^`{-\x7f]*+"
STRING = r"(?:[xXbBnN]|[uU]&)?'[^']*+(?:''[^']*+)*+'?+"
ESCAPED = r"[eE]'(?:[^'\\]|\\.|'')*+'?+"
DIGITS = r"0[xX][0-9a-fA-F_]++|(?:[0-9][0-9_]*+(?:\.[0-9_]*+)?+|\.[0-9][0-9_]*+)(?:[eE][+-]?[0-9]++)?+"
NUMBER = rf"(?:{DIGITS})[\w$]*+"
PARAMETER = rf"(?:\?[0-9]*+|\$[0-9]++|[:@\#$]{NAME})"

BLANK = r"[ \t\n\r\f]++"
COMMENT = r"--[^\n]*+|/\*.*?(?:\*/|\Z)"
TEXT = rf"{ESCAPED}|{STRING}|\$(?P<tag>(?:[A-Za-z_]\w*+)?)\$.*?(?:\$(?P=tag)\$|\Z)"
ANY_PARAMETER = rf"{PARAMETER}|%s\b|%\(\w++\)s"
QUOTED = r'"[^"]*+(?:""[^"]*+)*+"|`[^`]*+(?:``[^`]*+)*+`|(?<![\w$"\])])\[(?=[^\d\'\]])[^\]\[\'"]*+\]'
TORN = r'["`].*'
MARK = r"->>|->|<>|!=|<=|>=|==|\|\||<<|>>|::|."

_TOKEN = re.compile(
    rf"(?P<blank>{BLANK})|(?P<comment>{COMMENT})|(?P<text>{TEXT})|(?P<number>{NUMBER})|(?P<parameter>{ANY_PARAMETER})"
    rf"|(?P<word>{NAME})|(?P<quoted>{QUOTED})|(?P<torn>{TORN})|(?P<mark>{MARK})",
    re.DOTALL,
)


class Token(NamedTuple):
    """One word of a statement: what it is, and where it stands."""

    kind: str
    """comment, text, number, parameter, word, quoted, torn (a literal without an end) or mark."""
    text: str
    start: int
    end: int


def tokens(sql: str) -> list[Token]:
    """Every token but blanks, in order. Never raises: text that is no SQL has tokens too."""
    return [
        Token(_kind(match), match[0], match.start(), match.end())
        for match in _TOKEN.finditer(sql)
        if match.lastgroup != "blank"
    ]


def _kind(match: re.Match[str]) -> str:
    kind = str(match.lastgroup)
    if kind == "text" and not _is_closed(match[0]):
        return "torn"
    return kind


def _is_closed(literal: str) -> bool:
    if literal[0] == "$":
        tag = literal[: literal.index("$", 1) + 1]
        return len(literal) >= 2 * len(tag) and literal.endswith(tag)
    opening = literal.index("'")
    if len(literal) == opening + 1 or literal[-1] != "'":
        return False
    inner = literal[opening + 1 : -1]
    if literal[0] in "eE":
        inner = inner.replace("\\\\", "").replace("\\'", "")
        return inner.count("'") % 2 == 0 and not inner.endswith("\\")
    return inner.count("'") % 2 == 0
