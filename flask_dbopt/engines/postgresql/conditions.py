"""PostgreSQL's conditions and columns as a person would write them: without casts, doubled brackets and ``$1``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: A longer condition is cut.
LONGEST = 120

_TYPE = (
    r'::(?:character varying|double precision|bit varying|time(?:stamp)? with(?:out)? time zone|"[^"]+"|[a-z_][\w.]*)'
    r"(?:\(\d+(?:,\d+)?\))?(?:\[\])?"
)
_NOISE = re.compile(
    r"'(?P<number>-?\d+(?:\.\d+)?)'::(?:smallint|integer|bigint|numeric|real|double precision)\b(?!\[)"
    rf"|(?P<literal>'(?:[^']|'')*')(?:{_TYPE})?"
    rf"|(?P<parameter>\(\$\d+\){_TYPE}|\$\d+(?:{_TYPE})?)"
    r"|\((?P<column>[\w.]+)\)::text\b"  # varchar, which PostgreSQL compares as text
    r"| (?P<pattern>!?~~\*?) "
)
_PATTERNS = {"~~": "LIKE", "!~~": "NOT LIKE", "~~*": "ILIKE", "!~~*": "NOT ILIKE"}
_QUALIFIED = re.compile(r'(?P<source>"[^"]+"|[^\W\d]\w*)\.(?=["\w])')


def condition(node: Mapping[str, Any], key: str, alias: str | None = None) -> str:
    """``text = ? AND freq > ?``; empty when the node has none.

    The columns of its own table, which may have an ``alias``, stand without its name.
    """
    text = _NOISE.sub(_plain, node.get(key, ""))
    alias = alias or node.get("Alias")
    if alias:
        own = {alias, f'"{alias}"'}
        text = _QUALIFIED.sub(lambda match: "" if match["source"] in own else match[0], text)
    return _cut(_joined(text))


def listed(node: Mapping[str, Any], key: str) -> str:
    """``lang, freq DESC``: the columns of a sort or a group, without their table's name if there is only one."""
    text = ", ".join(_term(_NOISE.sub(_plain, part)) for part in node.get(key, ()))
    if len({match["source"] for match in _QUALIFIED.finditer(text)}) == 1:
        text = _QUALIFIED.sub("", text)
    return _cut(text)


def _plain(match: re.Match[str]) -> str:
    if match["pattern"]:
        return f" {_PATTERNS[match['pattern']]} "
    return match["number"] or match["literal"] or match["column"] or "?"


def _levels(text: str) -> Iterator[tuple[int, int]]:
    """Each position that is not within quotes, and how many brackets are open behind it."""
    depth, quoted = 0, False
    for at, char in enumerate(text):
        if char == "'":
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, ")": -1}.get(char, 0)
            yield at, depth


def _parts(text: str, separator: str) -> list[str]:
    """Taken apart at a separator that stands in no brackets."""
    cuts = [at for at, depth in _levels(text) if not depth and text.startswith(separator, at)]
    starts = [0, *(at + len(separator) for at in cuts)]
    return [text[start:end] for start, end in zip(starts, [*cuts, len(text)], strict=True)]


def _closing(text: str) -> int:
    """Where the bracket is closed that the text begins with; -1 when it begins with none."""
    return next((at for at, depth in _levels(text) if not depth), -1) if text.startswith("(") else -1


def _joined(text: str, within: str = "") -> str:
    """With brackets only where AND and OR meet, and around parts of neither."""
    while text and _closing(text) == len(text) - 1:
        text = text[1:-1]
    for word in (" OR ", " AND "):
        parts = _parts(text, word)
        if len(parts) > 1:
            joined = word.join(_joined(part, word) for part in parts)
            return f"({joined})" if within not in ("", word) else joined
    return text


def _term(text: str) -> str:
    """``(lower(text)) DESC`` without the brackets."""
    closing = _closing(text)
    return text if closing < 0 else text[1:closing] + text[closing + 1 :]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
