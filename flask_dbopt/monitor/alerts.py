"""Which rules are broken, raised once, resolved once. Decides only; telling people is the caller's business."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule was broken for one subject (a statement, a database); ``resolved_at`` None: it still is."""

    rule: str
    subject: str
    message: str
    value: float
    threshold: float
    raised_at: float
    resolved_at: float | None = None
