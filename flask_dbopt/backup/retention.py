"""Which backups stay, and why. Decides only; deleting is the caller's business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flask_dbopt.backup.repository import BackupRecord

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How long backups stay: all for ``days``, then the newest of each week and month for so many."""

    days: float = 30
    weekly: int = 0
    monthly: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one backup, with the reason a person reads."""

    point: BackupRecord
    keep: bool
    reason: str


def plan_retention(points: Sequence[BackupRecord], policy: Policy, now: float) -> tuple[Decision, ...]:
    """One decision for each point, newest first.

    Never removes the newest one, the last one that proved, or one that a kept increment builds on.
    """
    ordered = sorted(points, key=lambda point: (point.taken_at, point.txid), reverse=True)
    reasons: dict[str, str] = {}
    for point in ordered:
        age = (now - point.taken_at) / DAY
        if age <= policy.days:
            reasons[point.id] = f"younger than {policy.days:g} days"
    _keep_newest_of_each(ordered, reasons, policy.weekly, "week", lambda when: when.strftime("%G-W%V"))
    _keep_newest_of_each(ordered, reasons, policy.monthly, "month", lambda when: when.strftime("%Y-%m"))
    if ordered:
        reasons.setdefault(ordered[0].id, "the newest backup")
    proved = [point for point in ordered if point.verified_at is not None]
    if proved:
        reasons.setdefault(proved[0].id, "the last backup that proved")
    _keep_foundations(points, reasons)
    return tuple(
        Decision(point, point.id in reasons, reasons.get(point.id) or f"older than {policy.days:g} days")
        for point in ordered
    )


def _keep_newest_of_each(
    ordered: Sequence[BackupRecord],
    reasons: dict[str, str],
    count: int,
    word: str,
    period: Callable[[datetime], str],
) -> None:
    seen: set[str] = set()
    for point in ordered:
        name = period(datetime.fromtimestamp(point.taken_at, UTC))
        if name not in seen and len(seen) < count:
            seen.add(name)
            reasons.setdefault(point.id, f"the newest of {word} {name}")


def _keep_foundations(points: Sequence[BackupRecord], reasons: dict[str, str]) -> None:
    """An increment is worth nothing without all that lies between it and its snapshot, and that snapshot."""
    needed_by = ""
    for point in sorted(points, key=lambda point: point.txid, reverse=True):
        if needed_by:
            reasons.setdefault(point.id, f"{needed_by} builds on it")
        if point.id in reasons and point.kind == "increment":
            needed_by = needed_by or point.id
        elif point.kind != "increment":
            needed_by = ""
