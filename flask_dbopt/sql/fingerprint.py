"""The shape of a statement: its text without literals, so that runs which differ in values count as one.

Not a parser: one pass over tokens, right for SQLite's and PostgreSQL's lexical rules, quick enough for a web
process. Text that is no SQL at all has a fingerprint too.
"""

from __future__ import annotations

import re
from functools import lru_cache

from flask_dbopt.sql.tokens import (
    ANY_PARAMETER,
    BLANK,
    COMMENT,
    ESCAPED,
    MARK,
    NAME,
    NUMBER,
    PARAMETER,
    QUOTED,
    STRING,
    TEXT,
    TORN,
)

#: Longer texts are remembered in a small memo of their own, the longest not at all: memory stays bounded.
SHORT, LONG = 2_000, 64_000

_GAP = r"[ \t\n\r\f]*+"
_VALUE = rf"(?>[+-]?{NUMBER}|{ESCAPED}|{STRING}|{PARAMETER}|[Nn][Uu][Ll][Ll](?![\w$]))"
_VALUES = rf"\({_GAP}{_VALUE}{_GAP}(?:,{_GAP}{_VALUE}{_GAP})*+\)"

_TOKEN = re.compile(
    rf"(?P<gap>{BLANK}|{COMMENT})"
    rf"|(?P<list>[Ii][Nn]{_GAP}{_VALUES})"
    rf"|(?P<rows>[Vv][Aa][Ll][Uu][Ee][Ss]{_GAP}(?P<row>{_VALUES})(?:{_GAP},{_GAP}{_VALUES})*+)"
    rf"|(?P<text>{TEXT})|(?P<number>{NUMBER})|(?P<parameter>{ANY_PARAMETER})|(?P<word>{NAME})|(?P<quoted>{QUOTED})"
    rf"|(?P<torn>{TORN})|(?P<mark>{MARK})",
    re.DOTALL,
)
_ONE_VALUE = re.compile(_VALUE)
_ALIAS = re.compile(r"'[A-Za-z_][\w ]{0,60}'")
_ORDINAL_ENDS = re.compile(
    r"\s*+(?:[,;)]|\Z|(?:ASC|DESC|NULLS|LIMIT|HAVING|ORDER|WINDOW|UNION|EXCEPT|INTERSECT|ROWS|RANGE)\b)", re.I
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: After these words (and after operators) an operand follows, so a sign belongs to the number behind it.
_BEFORE_OPERAND = _words(
    "SELECT DISTINCT ALL WHERE AND OR NOT IN IS LIKE GLOB REGEXP MATCH BETWEEN CASE WHEN THEN ELSE BY"
    " HAVING ON SET VALUES LIMIT OFFSET RETURNING ESCAPE DEFAULT FROM ANY SOME ROWS RANGE GROUPS"
)
#: Words that are never a function's or a table's name: a bracket behind them stands apart.
_APART = _BEFORE_OPERAND | _words(
    "AS EXISTS OVER FILTER USING UNION EXCEPT INTERSECT JOIN CONFLICT MATERIALIZED WITH KEY CHECK UNIQUE"
)
_CONSTANTS = frozenset(("NULL", "TRUE", "FALSE"))
_DEFINITIONS = frozenset(("CREATE", "ALTER"))
#: Where an ORDER BY or GROUP BY list has certainly not begun yet, read backwards.
_NO_ORDINALS = _words("SELECT WHERE HAVING LIMIT OFFSET SET VALUES FROM IN ON")


def fingerprint(sql: str) -> str:
    """The statement with every literal and parameter as ``?``, lists collapsed, comments and blanks gone.

    Identifiers stay, double-quoted ones too, and so does what is no value: the 2 of ``ORDER BY 2``, the
    length in ``CAST(x AS CHAR(8))``. SQLite can explain the result of what it could explain before; in
    definitions, where no parameter may stand, literals become NULL. Always text that can be encoded. Never raises.
    """
    if len(sql) <= SHORT:
        return _short(sql)
    return _long(sql) if len(sql) <= LONG else _shape(sql)


@lru_cache(maxsize=4096)
def _short(sql: str) -> str:
    return _shape(sql)


@lru_cache(maxsize=64)
def _long(sql: str) -> str:
    return _shape(sql)


def _shape(sql: str) -> str:
    tokens = _collapsed(_tokens(sql))
    while tokens and tokens[-1] == ";":
        tokens.pop()
    shape = _spaced(tokens)
    # A name with a lone surrogate is no text, which nothing could keep.
    return shape if shape.isascii() else shape.encode(errors="backslashreplace").decode()


def _tokens(sql: str) -> list[str]:
    """The tokens that count, with the values already replaced."""
    out: list[str] = []
    value = "?"
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind == "gap":
            continue
        text = match[0]
        if kind == "word":
            if not out and text.upper() in _DEFINITIONS:
                value = "NULL"
            out.append(text)
        elif kind == "number":
            if _is_structure(out, text, sql, match.end(), definition=value == "NULL"):
                out.append(text)
                continue
            while out and out[-1] in ("-", "+") and _wants_operand(out, len(out) - 2):
                out.pop()
            out.append(value)
        elif kind == "parameter":
            if text == "%s" and not _wants_operand(out, len(out) - 1):
                out += ("%", "s")  # a remainder by the column s
            else:
                out.append("?")
        elif kind == "text" and out and out[-1].upper() == "AS":
            # SQLite takes this string for a column's name, and ORDER BY may use it.
            out.append(f'"{text[1:-1]}"' if _ALIAS.fullmatch(text) else '"alias"')
        elif kind == "text" or kind == "torn":
            out.append(value)
        elif kind == "list":
            out += (text[:2], "(", value, ")")
        elif kind == "rows":
            columns = len(_ONE_VALUE.findall(match["row"]))
            out += (text[:6], "(", *([value, ","] * columns)[:-1], ")")
        else:
            out.append(text)
    return out


def _wants_operand(tokens: list[str], at: int) -> bool:
    """Whether an operand must follow the token at ``at``."""
    if at < 0:
        return True
    token = tokens[at]
    if token[0].isalnum() or token[0] == "_":
        return token.upper() in _BEFORE_OPERAND
    return token not in ("?", ")", "]") and token[0] not in '"`[' and token[0] < "\x80"


def _is_structure(tokens: list[str], text: str, sql: str, end: int, *, definition: bool) -> bool:
    """Whether a number is part of the statement's shape: a column's position or a type's length."""
    if len(text) > 3 or not text.isdecimal() or not tokens:
        return False
    last = tokens[-1].upper()
    if last == "BY" or last == ",":
        if last == "BY" or _in_by_list(tokens):
            return _ORDINAL_ENDS.match(sql, end) is not None
        if len(tokens) < 3 or not tokens[-2].isdecimal():
            return False
        tokens = tokens[:-2][-6:]
    if tokens[-1] != "(" or len(tokens) < 3 or not _is_name(tokens[-2]):
        return False
    if definition and _is_name(tokens[-3]):
        return True
    for token in reversed(tokens[-5:-2]):
        if token.upper() == "AS":
            return True
        if not _is_name(token):
            return False
    return False


def _in_by_list(tokens: list[str]) -> bool:
    """Whether the comma that came last separates the terms of an ORDER BY or GROUP BY."""
    depth = 0
    for part in tokens[-2:-60:-1]:
        if part == ")":
            depth += 1
        elif part == "(":
            depth -= 1
            if depth < 0:
                return False
        elif depth == 0:
            word = part.upper()
            if word == "BY":
                return True
            if word in _NO_ORDINALS:
                return False
    return False


def _is_name(part: str) -> bool:
    return (part[0].isalpha() or part[0] in '_"`[') and part.upper() not in _APART


def _collapsed(tokens: list[str]) -> list[str]:
    """Lists of values to one value, equal rows of VALUES to one row."""
    closing = _brackets(tokens)
    out: list[str] = []
    at, count = 0, len(tokens)
    while at < count:
        part = tokens[at]
        out.append(part)
        at += 1
        if at >= count or tokens[at] != "(" or at not in closing:
            continue
        word = part.upper()
        if word == "IN" and _only_values(tokens, at, closing[at]):
            inner = closing.get(at + 1)
            out += tokens[at : inner + 1] if inner else ("(", "?")
            out.append(")")
            at = closing[at] + 1
        elif word == "VALUES":
            seen: set[tuple[str, ...]] = set()
            while at in closing:
                end = closing[at]
                row = _row(tokens[at : end + 1])
                if row not in seen:
                    if seen:
                        out.append(",")
                    seen.add(row)
                    out += row
                at = end + 1
                if at + 1 < count and tokens[at] == "," and tokens[at + 1] == "(" and at + 1 in closing:
                    at += 1
    return out


def _brackets(tokens: list[str]) -> dict[int, int]:
    """Where each opening bracket is closed."""
    closing: dict[int, int] = {}
    open_ones: list[int] = []
    for at, part in enumerate(tokens):
        if part == "(":
            open_ones.append(at)
        elif part == ")" and open_ones:
            closing[open_ones.pop()] = at
    return closing


def _only_values(tokens: list[str], start: int, end: int) -> bool:
    """Whether only values, or rows of values, stand between two brackets."""
    if end - start < 2:
        return False
    depth = 0
    for at in range(start + 1, end):
        part = tokens[at]
        if part == "(":
            depth += 1
        elif part == ")":
            depth -= 1
        elif part != "?" and part != "," and part.upper() not in _CONSTANTS:
            return False
        if depth > 1:
            return False
    return True


def _row(tokens: list[str]) -> tuple[str, ...]:
    """A row of VALUES in which constants count as values."""
    return tuple(
        "?" if part.upper() in _CONSTANTS and tokens[at - 1] in "(," and tokens[at + 1] in ",)" else part
        for at, part in enumerate(tokens)
    )


def _spaced(tokens: list[str]) -> str:
    """One way of setting blanks, whatever the original's was."""
    parts: list[str] = []
    before = ""
    for part in tokens:
        if not before or before in _TIGHT_AFTER or part in _TIGHT_BEFORE:
            pass
        elif part == "(":
            if not _is_name(before) and before != "(":
                parts.append(" ")
        elif part == "*" and before == "(":
            pass
        else:
            parts.append(" ")
        parts.append(part)
        before = part
    return "".join(parts)


_TIGHT_AFTER = frozenset(("(", ".", "[", "::"))
_TIGHT_BEFORE = frozenset((")", ",", ".", ";", "[", "]", "::"))
