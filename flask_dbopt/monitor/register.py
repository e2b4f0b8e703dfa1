"""What alerts remember between two looks and past a restart: themselves, who silenced them, what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask_dbopt.monitor import schema
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.monitor.books import Books

#: How many names a measure may have, such as the tables of all databases.
MOST_NAMES = 1_000
#: How many alerts that were resolved are kept.
MOST_RESOLVED = 1_000

#: A series of measurements: (unix seconds, value), the oldest first.
Series = tuple[tuple[float, float], ...]


class Register:
    """The pages of the books that alerts have to themselves."""

    def __init__(self, books: Books) -> None:
        self._books = books

    # --- alerts ---

    def alerts(self) -> list[Alert]:
        """Every alert that is kept, the newest first."""
        return self._alerts(schema.READ_ALERTS)

    def standing(self) -> list[Alert]:
        """Those that are not resolved, the newest first."""
        return self._alerts(schema.READ_STANDING)

    def _alerts(self, statement: str) -> list[Alert]:
        parts = self._books.read(lambda ledger: ledger.rows(statement))
        found = {alert.id: alert for part in parts for alert in (Alert(*row) for row in part)}
        return sorted(found.values(), key=lambda alert: -alert.raised_at)

    def save(self, alert: Alert, now: float) -> None:
        """Keep an alert, or its later state."""
        row = (alert.rule, alert.subject, alert.message, alert.value, alert.threshold)
        self._books.change(now, (schema.ADD_ALERT, [(*row, alert.raised_at, alert.resolved_at)]))

    def thin(self, now: float) -> None:
        """Forget resolved alerts, but for the latest ones."""
        self._books.change(now, (schema.KEEP_ALERTS, [(MOST_RESOLVED,)]))

    # --- notes: small facts by kind and name ---

    def notes(self, kind: str) -> dict[str, Any]:
        """Everything noted of one kind, by its name."""
        latest: dict[str, tuple[float, str]] = {}
        for part in self._books.read(lambda ledger: ledger.rows(schema.READ_NOTES, (kind,))):
            for name, at, value in part:
                latest[name] = max((at, value), latest.get(name, (at, value)))
        return {name: json.loads(value) for name, (_, value) in latest.items()}

    def note(self, kind: str, name: str, value: Any, now: float) -> None:
        """Keep a fact in JSON's types; the same name replaces."""
        self._books.change(now, (schema.ADD_NOTE, [(kind, name, now, json.dumps(value))]))

    def forget(self, kind: str, name: str, now: float) -> None:
        """As if it had not been noted."""
        self._books.change(now, (schema.DROP_NOTE, [(kind, name)]))

    # --- measurements ---

    def series(self, kind: str, since: float = 0.0) -> dict[str, Series]:
        """What was measured of one kind after ``since``, by name."""
        found: dict[str, dict[float, float]] = {}
        for part in self._books.read(lambda ledger: ledger.rows(schema.READ_MEASURES, (kind, since))):
            for name, at, value in part:
                found.setdefault(name, {})[at] = value
        return {name: tuple(sorted(points.items())) for name, points in found.items()}

    def measure(self, kind: str, values: Mapping[str, float], now: float, *, keep: float) -> None:
        """Add one measurement of each name, and drop what is older than ``keep`` seconds, or of the future."""
        rows = [(kind, name, now, value) for name, value in list(values.items())[:MOST_NAMES]]
        self._books.change(now, (schema.DROP_MEASURES, [(kind, now - keep, now)]), (schema.ADD_MEASURE, rows))
