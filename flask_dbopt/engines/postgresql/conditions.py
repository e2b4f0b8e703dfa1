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
    rf"(?P<literal>'(?:[^']|'')*')(?:{_TYPE})?"
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
    text = " AND ".join(map(_unwrapped, _parts(_unwrapped(text), " AND ")))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def listed(node: Mapping[str, Any], key: str) -> str:
    """``lang, freq DESC``: the columns of a sort or a group, without their table's name if there is only one."""
    text = ", ".join(_unwrapped(_NOISE.sub(_plain, part)) for part in node.get(key, ()))
    if len({match["source"] for match in _QUALIFIED.finditer(text)}) == 1:
        text = _QUALIFIED.sub("", text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _plain(match: re.Match[str]) -> str:
    if match["pattern"]:
        return f" {_PATTERNS[match['pattern']]} "
    return match["literal"] or match["column"] or "?"


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


def _unwrapped(text: str) -> str:
    """Without brackets around the whole; those around alternatives stay."""
    while text.startswith("("):
        closed = next((at for at, depth in _levels(text) if not depth), None)
        if closed != len(text) - 1 or len(_parts(text[1:-1], " OR ")) > 1:
            break
        text = text[1:-1]
    return text
