"""Turns a Page into HTML, by templates of our own: the host's filters, context and overrides stay out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flask_dbopt.admin import charts, wording

_HERE = Path(__file__).parent

TABS = (
    ("", "Overview"),
    ("queries", "Queries"),
    ("requests", "Requests"),
    ("indexes", "Indexes"),
    ("pool", "Pool"),
    ("cache", "Cache"),
    ("backups", "Backups"),
    ("alerts", "Alerts"),
    ("audit", "Audit"),
    ("settings", "Settings"),
)

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def render(template: str, figures: Mapping[str, Any]) -> str:
    """The HTML of one template."""
    return _environment().get_template(template).render(figures)


@cache
def static_file(name: str) -> bytes | None:
    """A style sheet, script or icon of ours by name; None for everything else."""
    path = _HERE / "static" / name
    if path.suffix not in KINDS or path.parent != _HERE / "static" or not path.is_file():
        return None
    return path.read_bytes()


@cache
def stamp(name: str) -> str:
    """A few digits of the file's content, so that browsers may keep it and still get the next version."""
    return hashlib.sha256(static_file(name) or b"").hexdigest()[:10]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ago=wording.ago,
        bytes=wording.size,
        count=wording.count,
        decimal=wording.decimal,
        limit=wording.limit,
        moment=wording.moment,
        ms=wording.ms,
        period=wording.period,
        percent=wording.ratio,
        rate=wording.rate,
        seconds=wording.seconds,
        span=wording.span,
        sql=wording.sql,
        words=_words,
    )
    environment.globals.update(tabs=TABS, bar=charts.bar, ring=charts.ring, stamp=stamp, icon=icon)
    return environment


def _words(number: float, one: str, many: str = "") -> str:
    """``1 worker``, ``2 workers``."""
    return f"{wording.count(number)} {one if number == 1 else many or one + 's'}"


_ICONS = {
    "good": '<circle cx="8" cy="8" r="7"/><path d="M4.8 8.2l2.2 2.2 4.2-4.6"/>',
    "warn": '<path d="M8 1.8L15 14.2H1z"/><path d="M8 6.2v3.6M8 11.9v.1"/>',
    "bad": '<circle cx="8" cy="8" r="7"/><path d="M8 4.4v4.2M8 11.3v.1"/>',
    "note": '<circle cx="8" cy="8" r="7"/><path d="M8 7.4v4.2M8 4.7v.1"/>',
    "arrow": '<path d="M3 8h9.5M9 4.2L12.8 8 9 11.8"/>',
}


def icon(name: str) -> Markup:
    """A small line drawing; decoration, so hidden from screen readers."""
    return Markup('<svg class="icon {}" viewBox="0 0 16 16" aria-hidden="true">{}</svg>').format(
        name,
        Markup(_ICONS[name]),  # noqa: S704 - our own constants
    )
