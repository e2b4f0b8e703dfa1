"""One statement as PostgreSQL can plan it: its placeholders numbered, whatever style they were written in. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NAME = r"[^\W\d][\w$]*+"
_TOKEN = re.compile(
    rf"""
    (?P<gap>\s++|--[^\r\n]*+)
  | (?P<comment>/\*)
  | (?P<text>[eE]'(?:[^'\\]|\\.|'')*+'|(?:[uU]&|[bBxXnN])?'(?:[^']|'')*+'|\$(?P<tag>(?:[^\W\d]\w*+)?)\$.*?\$(?P=tag)\$)
  | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*+")
  | (?P<torn>[eE]?'|"|\$(?:[^\W\d]\w*+)?\$)
  | (?P<placeholder>\?\d*+|%s\b|%\((?P<percent>[^)]*+)\)s|\$(?P<number>\d++)|:(?P<colon>{_NAME}))
  | (?P<word>{_NAME})
  | (?P<figure>\d[\w.]*+|\.\d\w*+)
  | (?P<mark>::|->>|->|\#>>|\#>|\|\||<=|>=|<>|!=|:=|=>|%\s*+%|.)
    """,
    re.VERBOSE | re.DOTALL,
)

_EXPLAINABLE = frozenset({"select", "with", "values", "insert", "update", "delete", "merge"})

# A value follows these words: a question mark behind them is no operator, and they are no type's name.
_BEFORE_VALUE = frozenset(
    "select distinct all where and or not in is like ilike similar to between case when then else by having on set"
    " values limit offset returning escape default from any some rows range groups for zone symmetric using first next"
    " as overlaps both leading trailing placing passing".split()
)
# … and these may follow a whole value.
_AFTER_VALUE = _BEFORE_VALUE | frozenset(
    "end group order window union except intersect join left right full inner cross natural asc desc nulls at over"
    " filter isnull notnull collate row only fetch".split()
)
_ZONED = re.compile(r"(?:time|timestamp) (?:with|without) time zone", re.I)


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Where a value goes."""

    key: str | int
    """Which: its name, or its position from 0."""
    type: str = ""
    """What stood before it, as in ``INTERVAL ?``: PostgreSQL takes only a literal there."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement's text in pieces, without its comments."""

    pieces: tuple[str | Placeholder, ...]

    @property
    def keys(self) -> tuple[str | int, ...]:
        """Each value that is wanted, once, in the order in which they appear."""
        return tuple(dict.fromkeys(piece.key for piece in self.pieces if isinstance(piece, Placeholder)))

    def numbered(self, types: Mapping[int, str]) -> str:
        """With ``$1``, ``$2``, …; ``types`` says by number what PostgreSQL can not tell from where they stand."""
        numbers = {key: number for number, key in enumerate(self.keys, 1)}

        def written(placeholder: Placeholder) -> str:
            number = numbers[placeholder.key]
            return _cast(f"${number}", placeholder.type or types.get(number, ""))

        return self._text(written)

    def bound(self, values: Sequence[Any] | Mapping[str, Any]) -> tuple[str, list[Any]]:
        """With ``%s``, as drivers take it, and the values in that order; ValueError when they do not fit."""
        keys = self.keys
        if isinstance(values, Mapping) or all(isinstance(key, int) for key in keys):
            given: dict[Any, Any] = dict(values if isinstance(values, Mapping) else enumerate(values))
        else:
            given = dict(zip(keys, values, strict=False))
        if len(values) != len(keys) or given.keys() != set(keys):
            raise ValueError(f"it has {len(keys)} placeholder{'' if len(keys) == 1 else 's'}, given were {len(values)}")
        bound: list[Any] = []

        def written(placeholder: Placeholder) -> str:
            bound.append(given[placeholder.key])
            return _cast("%s", placeholder.type)

        return self._text(written, percent="%%"), bound

    def _text(self, written: Callable[[Placeholder], str], percent: str = "%") -> str:
        return "".join(
            written(piece) if isinstance(piece, Placeholder) else piece.replace("%", percent) for piece in self.pieces
        )


def read_statement(sql: str) -> Statement:
    """The one statement in ``sql``; ValueError with the reason when it is none that has a plan."""
    if "\x00" in sql:
        raise ValueError("there is a zero byte in it")
    pieces: list[str | Placeholder] = []
    words: list[str] = []  # what was read so far, but for blanks
    positions = at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None  # noqa: S101  # every character is a mark at least
        text, kind, at = match[0], match.lastgroup, match.end()
        if kind == "comment":
            at = _end_of_comment(sql, at)
        if kind in ("gap", "comment"):
            pieces.append(" ")
            continue
        if words and words[-1] == ";":
            raise ValueError("it is more than one statement")
        words.append(text)
        if kind == "torn":
            raise ValueError("a quoted text in it does not end")
        if text == ";":
            continue
        if kind == "placeholder" and not _is_operator(text, words[:-1], sql, at):
            key: str | int = match["percent"] or match["colon"] or positions
            if text[1:].isdecimal():
                key = int(text[1:]) - 1
            elif isinstance(key, int):
                positions += 1
            pieces.append(Placeholder(key, _typed(words[:-1], pieces)))
        elif kind == "mark" and text[0] == "%":  # doubled for a driver that takes %s
            pieces.append("%")
        else:
            if text in "|&" and words[-2:-1] == ["?"]:  # ?| and ?&, set apart by a fingerprint
                pieces[:] = pieces[: len(pieces) - pieces[::-1].index("?")]
            pieces.append(text)
    first = next((word for word in words if word != "("), "").lower()
    if first not in _EXPLAINABLE:
        raise ValueError("only SELECT, VALUES, INSERT, UPDATE, DELETE and MERGE have a plan")
    return Statement(tuple(pieces))


def _end_of_comment(sql: str, at: int) -> int:
    """Comments nest."""
    depth = 1
    for mark in re.compile(r"/\*|\*/").finditer(sql, at):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    raise ValueError("a comment in it does not end")


def _is_operator(text: str, before: Sequence[str], sql: str, at: int) -> bool:
    """Whether it stands between two values: jsonb's ``?``, or the colon of an array's ``[1:n]``."""
    if (text != "?" and text[0] != ":") or not _ends_value(before):
        return False
    if text[0] == ":":
        return True
    if before[-1].lower() == "interval":
        return False
    after = _TOKEN.match(sql, re.compile(r"\s*+").match(sql, at).end())  # type: ignore[union-attr]
    if after is None:
        return False
    if after["mark"]:
        return after[0] in "(|&"
    return not after["word"] or after[0].lower() not in _AFTER_VALUE


def _ends_value(words: Sequence[str]) -> bool:
    if not words:
        return False
    last = words[-1]
    return last[-1] in ")]?'\"$" or ((last[-1].isalnum() or last[-1] == "_") and last.lower() not in _BEFORE_VALUE)


def _typed(before: Sequence[str], pieces: list[str | Placeholder]) -> str:
    """The type's name that the pieces end in; it is taken off them."""
    count = 0
    if _ZONED.fullmatch(" ".join(before[-4:])):
        count = 4
    elif _ends_value(before) and (before[-1][0].isalpha() or before[-1][0] == "_") and before[-1][-1] != "'":
        count = 1
    for _ in range(count):
        while pieces.pop() == " ":
            pass
    return " ".join(before[-count:]) if count else ""


def _cast(value: str, type_name: str) -> str:
    return f"{value}::{type_name}" if type_name else value
