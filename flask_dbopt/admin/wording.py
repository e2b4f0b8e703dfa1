"""Figures as people read them: a number, its unit, and how long ago. No figure is made here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup, escape


@dataclass(frozen=True, slots=True)
class Amount:
    """A number and its unit apart, so that columns of numbers line up."""

    number: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.number} {self.unit}".rstrip()

    def __html__(self) -> Markup:
        unit = Markup('<span class="unit">{}</span>').format(self.unit) if self.unit else ""
        return Markup('<span class="amount">{}{}</span>').format(self.number, unit)


NOTHING = Amount("–")


def ms(value: float | None) -> Amount:
    """A duration given in milliseconds."""
    if value is None:
        return NOTHING
    if value < 1:
        return Amount(f"{value * 1000:.0f}", "µs")
    if value < 1000:
        return Amount(_three(value), "ms")
    if value < 120_000:
        return Amount(_three(value / 1000), "s")
    if value < 7_200_000:
        return Amount(_three(value / 60_000), "min")
    return Amount(_three(value / 3_600_000), "h")


def seconds(value: float | None) -> Amount:
    """A duration given in seconds."""
    return ms(None if value is None else value * 1000)


def count(value: float | None) -> Amount:
    """How many."""
    if value is None:
        return NOTHING
    if abs(value) < 1_000_000:
        return Amount(f"{value:,.0f}")
    return Amount(_three(value / 1e6), "M") if abs(value) < 1e9 else Amount(_three(value / 1e9), "G")


def decimal(value: float | None, unit: str = "") -> Amount:
    """A mean or a rate: three digits that count."""
    return NOTHING if value is None else Amount(_three(value), unit)


def rate(value: float | None) -> Amount:
    """So many a second."""
    return decimal(value, "/s")


def ratio(value: float | None) -> Amount:
    """A part of 1, as a percentage."""
    if value is None:
        return NOTHING
    percent = value * 100
    if percent in (0, 100):
        return Amount(f"{percent:.0f}", "%")
    # 99.96 % is not all of it and 0.04 % is not nothing, and neither must read so
    return Amount("99.9" if percent > 99.9 else "< 0.1" if 0 < percent < 0.1 else f"{percent:.1f}", "%")


def limit(value: float) -> Amount:
    """A ratio that somebody chose, so without digits that nobody wrote."""
    return Amount(f"{value * 100:g}", "%")


def period(value: float) -> Amount:
    """A stretch of seconds that somebody chose: ``24 h``, ``2 s``."""
    for length, unit, least in ((86_400, "days", 172_800), (3600, "h", 3600), (60, "min", 60)):
        if value >= least and value % length == 0:
            return Amount(f"{value / length:,g}", unit)
    return Amount(f"{value:,g}", "s")


def size(value: float | None) -> Amount:
    """Bytes."""
    if value is None:
        return NOTHING
    if value < 1024:
        return Amount(f"{value:,.0f}", "B")
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1000 or unit == "TiB":
            break
    return Amount(_three(value), unit)


def ago(at: float | None, now: float) -> str:
    """``3 min ago``, or ``in 5 h`` for what is still to come."""
    if at is None:
        return "never"
    gap = now - at
    if abs(gap) < 5:
        return "just now"
    return f"{span(gap)} ago" if gap > 0 else f"in {span(-gap)}"


def span(gap: float) -> str:
    """A stretch of seconds in its largest sensible unit."""
    for limit, length, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if gap < limit:
            return f"{gap / length:.0f} {unit}"
    return f"{gap / 86_400:,.0f} days"


def iso(at: float) -> str:
    """For the ``datetime`` attribute."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def clock(at: float) -> str:
    """``22 Nov 14:05 UTC``; the page's script shows the reader's own time zone instead."""
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M UTC").lstrip("0")


def moment(at: float | None, now: float) -> Markup:
    """A time as ``3 min ago``, with the exact one for those who point at it."""
    if at is None:
        return Markup('<span class="quiet">never</span>')
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso(at), clock(at), ago(at, now))


_TOKEN = re.compile(
    r"""(?P<quoted>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|'(?:[^']|'')*')|(?P<word>[A-Za-z_][\w$]*)|(?P<mark>\?\d*|[:@$]\w+)|(?P<rest>\s+|.)""",
    re.DOTALL,
)
_KEYWORDS = frozenset(
    """select from where and or not in is null like glob between exists case when then else end as on using
    join left right full inner outer cross natural group by order having limit offset distinct all union
    intersect except with recursive insert into values update set delete returning replace create unique index
    table view drop alter add begin commit rollback savepoint release pragma explain analyze asc desc collate
    over partition conflict do nothing cast if immediate""".split()
)
_NEW_LINE = frozenset(
    """from where group order having limit union intersect except values set returning join left inner
    cross""".split()
)
_JOIN_WORDS = frozenset(("left", "inner", "cross", "outer", "right", "full", "natural"))


def sql(text: str, *, broken: bool = False) -> Markup:
    """A statement with its keywords marked; ``broken`` puts each clause on a line of its own."""
    out: list[Markup] = []
    depth, before = 0, ""
    for match in _TOKEN.finditer(text.strip()):
        piece, kind = match.group(), match.lastgroup
        if kind == "word" and piece.lower() in _KEYWORDS:
            word = piece.lower()
            joined = word == "join" and before in _JOIN_WORDS
            if broken and depth == 0 and word in _NEW_LINE and out and not joined:
                if out[-1].isspace():
                    out.pop()
                out.append(Markup("\n"))
            out.append(Markup("<b>{}</b>").format(piece))
            before = word
            continue
        depth += {"(": 1, ")": -1}.get(piece, 0)
        out.append(Markup("<i>{}</i>").format(piece) if kind == "mark" else escape(piece))
        before = before if piece.isspace() else ""
    return Markup('<code class="sql">{}</code>').format(Markup("").join(out))


def _three(value: float) -> str:
    """Three digits that count, never in powers of ten."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
