"""Times statements where the connection is not of our class: another database's, or of a ``creator=`` of the app's own.

By the dialect's events, in which one function runs the statement between two looks at the clock. With the engine's
events, one before and one after, SQLAlchemy itself takes some 8 µs more for each statement.

The end of a transaction has an event before it and none after, so there we stand in for two methods of the dialect.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any
from weakref import WeakSet

from flask_dbopt.databases import Database
from flask_dbopt.engines.sqlite.cursor import Cursor
from flask_dbopt.engines.sqlite.footprint import leading_word
from flask_dbopt.engines.sqlite.road import announce, do_without, note, note_end

#: SQLAlchemy's ways to run a statement, each an event and a method of the dialect.
WAYS = ("do_execute", "do_executemany", "do_execute_no_params")
#: Its ways to end a transaction, each a method of the dialect.
ENDINGS = {"do_commit": "COMMIT", "do_rollback": "ROLLBACK"}

#: First words of statements that leave nothing to be committed.
_READING = frozenset("select values table show explain describe desc pragma set use".split())
_CHANGE = re.compile(r"\b(?:insert|update|delete|merge)\b", re.IGNORECASE)


class Timing:
    """For one engine's dialect."""

    def __init__(self, database: Database, dialect: Any) -> None:
        self._road = database.road
        self._dialect = dialect
        self.listeners: dict[str, Callable[..., bool | None]] = {way: partial(self._run, way) for way in WAYS}
        self._stand_ins: dict[str, Callable[[Any], None]] = {}
        self._before: dict[str, Any] = {}
        """What the dialect itself had under their names: None, usually, so that its class's method served."""
        self._at_work: WeakSet[Any] = WeakSet()
        """Loans of connections whose transaction did more than read."""

    def stand_in(self) -> None:
        """Have the ends of transactions pass by here."""
        for way, word in ENDINGS.items():
            self._before[way] = vars(self._dialect).get(way)
            self._stand_ins[way] = partial(self._end, word, getattr(self._dialect, way))
            setattr(self._dialect, way, self._stand_ins[way])

    def step_aside(self) -> None:
        """Leave the dialect as it was; where another has wrapped ours by now, ours goes on and tells nothing."""
        for way, ours in self._stand_ins.items():
            if vars(self._dialect).get(way) is not ours:
                continue
            if self._before[way] is None:
                delattr(self._dialect, way)
            else:
                setattr(self._dialect, way, self._before[way])
        self._at_work.clear()

    def _run(self, way: str, cursor: Any, statement: Any, *rest: Any) -> bool | None:
        """Run the statement; None where that is left to SQLAlchemy, since our own cursor times it."""
        if isinstance(cursor, Cursor):
            return None
        road, text = self._road, _text_of(statement)
        announce(road, text)
        if not _only_reads(text):
            with suppress(AttributeError, TypeError):  # no context, or a loan of SQLAlchemy's own that is none
                self._at_work.add(rest[-1].root_connection.connection)
        fault = None
        start = perf_counter()
        try:
            self._execute(way, cursor, statement, *rest)
        except Exception as error:
            fault = error
            raise
        finally:
            note(road, text, start, -1 if fault else _rows_of(cursor), fault, rest[0] if len(rest) > 1 else None)
            fault = None  # with its traceback it would keep this frame, and the cursor in it
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

    def _end(self, word: str, method: Callable[[Any], None], loan: Any) -> None:
        """End a transaction. One that only read is not told of, as on SQLite, where reading begins none."""
        if loan in self._at_work and self._has_worked(loan):
            note_end(self._road, word, method, loan)
        else:
            method(loan)

    def _has_worked(self, loan: Any) -> bool:
        """Whether there is a transaction to end; what comes after it begins anew."""
        self._at_work.discard(loan)
        try:
            return _is_in_transaction(loan.dbapi_connection)
        except Exception:  # noqa: BLE001  # ours, so not the app's affair
            do_without("the monitor")
            return False


def _text_of(statement: Any) -> str:
    """Some drivers take bytes as well, or objects of their own."""
    if isinstance(statement, str):
        return statement
    return statement.decode(errors="replace") if isinstance(statement, bytes) else str(statement)


def _rows_of(cursor: Any) -> int:
    """As the driver counts them; -1 where it cannot say."""
    try:
        return cursor.rowcount  # type: ignore[no-any-return]
    except Exception:  # noqa: BLE001  # of the driver's, and no affair of the statement, which ran
        do_without("the monitor")
        return -1


def _only_reads(sql: str) -> bool:
    """Whether a statement surely changes nothing, by its words."""
    if sql.startswith(("SELECT", "select")):  # as most do; the long way takes 1 µs
        return True
    word = leading_word(sql)
    return word in _READING or (word == "with" and not _CHANGE.search(sql))


def _is_in_transaction(connection: Any) -> bool:
    """As far as the driver tells without asking its server; one that commits by itself is in none."""
    told = getattr(connection, "in_transaction", None)
    return told if isinstance(told, bool) else getattr(connection, "autocommit", None) is not True
