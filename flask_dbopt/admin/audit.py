"""The audit log: who did what lately, and whether the chain of it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_dbopt.admin.desk import Page, Visit
from flask_dbopt.audit.chain import Entry, Verdict, worded
from flask_dbopt.deeds import DEEDS

SHOWN = 100


def show(visit: Visit) -> Page:
    verdict, entries, problem = look(visit)
    return Page(
        "audit",
        "Audit",
        "audit.html",
        {
            "report": visit.report,
            "verdict": verdict,
            "problem": problem,
            "entries": entries,
            "path": visit.optimizer.audit.path,
            "shown": SHOWN,
            "meanings": DEEDS,
            "listed": listed,
        },
        live=False,
        windowed=False,
    )


def look(visit: Visit) -> tuple[Verdict | None, list[Entry], str]:
    """The chain's state, the newest entries, and why there are none."""
    audit = visit.optimizer.audit
    try:
        return audit.glance(), list(audit.entries(SHOWN)), audit.problem
    except OSError as error:
        return None, [], f"{error.strerror or error} ({audit.path})"


def told(visit: Visit) -> dict[str, Any]:
    """The same for the JSON."""
    verdict, entries, problem = look(visit)
    return {
        "intact": verdict is not None and verdict.intact,
        "entries_checked": 0 if verdict is None else verdict.entries,
        "head": None if verdict is None or verdict.head is None else str(verdict.head),
        "faults": [] if verdict is None else [str(fault) for fault in verdict.faults],
        "problem": problem,
        "entries": [each.told() for each in entries],
    }


def listed(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as texts."""
    return [(name, worded(value)) for name, value in about.items()]
