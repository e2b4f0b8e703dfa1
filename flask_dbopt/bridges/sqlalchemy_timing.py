"""Times statements where the connection is not of our class: another database's, or of a ``creator=`` of the app's own.

By the dialect's events, in which one function runs the statement between two looks at the clock. With the engine's
events, one before and one after, SQLAlchemy itself takes some 8 µs more for each statement.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from flask_dbopt.databases import Database
from flask_dbopt.engines.sqlite.cursor import Cursor
from flask_dbopt.engines.sqlite.road import announce, do_without

#: SQLAlchemy's ways to run a statement, each an event and a method of the dialect.
WAYS = ("do_execute", "do_executemany", "do_execute_no_params")


class Timing:
    """For one engine's dialect."""

    def __init__(self, database: Database, dialect: Any) -> None:
        self._road = database.road
        self._dialect = dialect
        self.listeners: dict[str, Callable[..., bool | None]] = {way: partial(self._run, way) for way in WAYS}

    def _run(self, way: str, cursor: Any, statement: str, *rest: Any) -> bool | None:
        """Run the statement; None where that is left to SQLAlchemy, since our own cursor times it."""
        if isinstance(cursor, Cursor):
            return None
        road = self._road
        announce(road, statement)
        error: str | None = None
        start = perf_counter()
        try:
            self._execute(way, cursor, statement, *rest)
        except Exception as raised:
            error = type(raised).__name__
            raise
        finally:
            self._note(road, start, cursor, statement, error, rest)
        return True

    def _execute(self, way: str, *arguments: Any) -> None:
        """As SQLAlchemy would: by a listener that comes after us, else by the dialect."""
        listeners = getattr(self._dialect.dispatch, way)
        if len(listeners) > 1:
            every = list(listeners)
            for later in every[every.index(self.listeners[way]) + 1 :]:
                if later(*arguments):
                    return
        getattr(self._dialect, way)(*arguments)

    def _note(
        self, road: Any, start: float, cursor: Any, statement: str, error: str | None, rest: tuple[Any, ...]
    ) -> None:
        seconds = perf_counter() - start
        try:
            rows = -1 if error is not None else cursor.rowcount
            record = road.record(statement, seconds, rows, error, False, start)
            if seconds >= road.slow:
                road.sample(record, rest[0] if road.keeps_parameters and len(rest) > 1 else None)
        except Exception:  # noqa: BLE001  # ours, so not the app's affair
            do_without("the monitor")
