"""Cursors whose statements take the road: timed on their way, and answered by the cache where it can.

``Cursor`` keeps the driver's fetch methods in C, because a Python ``fetchone`` doubles the cost of a row. When the
cache answers, the cursor changes its class to ``Replay``, which has fetch methods of its own, and back again at the
next statement.
"""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from flask_dbopt.engines.sqlite.road import (
    Answer,
    Description,
    Road,
    announce,
    do_without,
    note,
    note_fault,
    note_slow,
    notice,
    run,
)
from flask_dbopt.engines.sqlite.statements import may_alter

if TYPE_CHECKING:
    from flask_dbopt.engines.sqlite.connection import Connection
    from flask_dbopt.engines.sqlite.limits import Limits

_Row = sqlite3.Row
_execute = sqlite3.Cursor.execute
_fetchone = sqlite3.Cursor.fetchone
_fetchmany = sqlite3.Cursor.fetchmany
_fetchall = sqlite3.Cursor.fetchall
_next = sqlite3.Cursor.__next__
_driver_description = sqlite3.Cursor.description.__get__
_driver_lastrowid = sqlite3.Cursor.lastrowid.__get__


class Cursor(sqlite3.Cursor):
    """A cursor whose statements are timed, and whose SELECTs may be answered by the cache.

    What goes wrong in the rooms on its road is told, and the app's statement goes on without them.
    """

    __slots__ = ("_made_by", "_parameters", "_position", "_record", "_replayed")

    _record: list[Any] | None
    _parameters: Any
    """Of the statement that runs, where slow ones are kept with them."""
    _replayed: Answer
    _made_by: Any
    """The row factory that made the rows it replays: None or ``sqlite3.Row``."""
    _position: Iterator[Any]

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        return run(self, self.connection, sql, parameters)  # type: ignore[arg-type]  # a cast would cost 50 ns

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor:
        return self._timed(sqlite3.Cursor.executemany, sql, parameters)

    def executescript(self, sql_script: str, /) -> Cursor:
        return self._timed(sqlite3.Cursor.executescript, sql_script)

    def _timed(self, method: Callable[..., Any], sql: str, *arguments: Any) -> Cursor:
        """Run what the cache has no part in."""
        connection = cast("Connection", self.connection)
        road = connection._road
        connection.check_thread()
        announce(road, sql)
        if not arguments and isinstance(sql, str) and may_alter(sql):  # a script: its first word does not tell
            connection.note_altering(sql)
        if arguments and connection._precede is not None:
            connection._precede(connection, sql)
        self._record = None
        if connection._limits is not None:
            connection._limits.begin()
        start = perf_counter()
        try:
            method(self, sql, *arguments)
        except Exception as error:
            note_fault(self, connection, sql, start, error)
            raise
        if connection._limits is not None:
            connection._limits.pause()
        note(road, sql, start, self.rowcount)
        if connection._turn is not None:
            connection.settle()
        return self

    def fetchall(self) -> list[Any]:
        try:
            record = self._record
        except AttributeError:  # the app made this cursor by itself, and ran nothing yet
            return _fetchall(self)
        if record is None:
            return _fetchall(self)
        self._record = None
        start = perf_counter()
        rows = _fetchall(self)
        before = record[1]
        seconds = record[1] = before + (perf_counter() - start)
        if record[2] < 0:
            record[2] = len(rows)
            road: Road = self.connection._road  # type: ignore[attr-defined]
            if seconds > road.notable:
                notice(self, road, record, before)
        return rows

    def _read_within(self, limits: Limits, ticket: Answer | None, sql: str, parameters: Any) -> Cursor:
        """A statement with limits ran: what follows of it counts as well."""
        try:
            if ticket is not None:
                self._fill(ticket, sql, parameters)
        except sqlite3.Error as error:
            raise limits.explain(error) from error
        limits.pause()
        if limits.seconds is not None and self.__class__ is Cursor:
            self.__class__ = Timed
        return self

    def _may_replay(self) -> bool:
        """The app's own cursor class keeps its own ways of fetching."""
        return self.__class__ is Cursor

    def _serve(self, answer: Answer, rows: tuple[Any, ...], sql: str) -> Cursor:
        """A hit. The driver's part of the cursor lets go of what it had half read, and refuses if it was closed.

        Afterwards the driver's own description is the right one, or None.
        """
        if self.lastrowid is None:  # it ran nothing yet
            _fetchone(self)
        else:
            _execute(self, _heading(answer.description))
        try:
            cast("Connection", self.connection)._road.record(sql, 0.0, len(rows), None, True, perf_counter())
        except Exception:  # noqa: BLE001
            do_without("the monitor")
        return _begin_replay(self, answer, rows)

    def _fill(self, ticket: Answer, sql: str, parameters: Any) -> Cursor:
        """Read the rows of a SELECT that just ran, offer them to the cache, and let the app read them from there."""
        description = cast(Description, self.description)
        start = perf_counter()
        try:
            rows = _raw(self, ticket.max_rows + 1)
        except Exception:  # noqa: BLE001
            # A converter or text factory raised, perhaps for a row that the app will not even fetch: let it find out.
            _execute(self, sql, parameters)
            return self
        record = self._record
        if record is not None:
            record[1] += perf_counter() - start
        try:
            ticket.keep(rows, description)  # also when it has too many: the cache remembers not to ask again soon
        except Exception:  # noqa: BLE001
            do_without("the cache")
        if len(rows) > ticket.max_rows:
            return _begin_replay(self, cast(Answer, _Ran(description)), _and_onward(self, rows, record))
        if record is not None:
            record[2] = len(rows)
            note_slow(self, record)
        return _begin_replay(self, cast(Answer, _Ran(description)), rows)


class Timed(Cursor):
    """The same cursor while it reads rows of a statement that may take so long and no longer."""

    __slots__ = ()

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        self.__class__ = Cursor  # type: ignore[assignment]
        return self.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        self.__class__ = Cursor  # type: ignore[assignment]
        return self.executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        self.__class__ = Cursor  # type: ignore[assignment]
        return self.executescript(sql_script)

    def __next__(self) -> Any:
        return self._within(_next)

    def fetchone(self) -> Any:
        return self._within(_fetchone)

    def fetchmany(self, *size: Any, **named: Any) -> Any:
        return self._within(_fetchmany, *size, **named)

    def fetchall(self) -> Any:
        return self._within(Cursor.fetchall)

    def _within(self, fetch: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        limits = cast("Connection", self.connection)._limits
        if limits is None:
            return fetch(self, *arguments, **keywords)
        limits.resume()
        try:
            return fetch(self, *arguments, **keywords)
        except sqlite3.Error as error:
            told = limits.explain(error)
            if told is error:
                raise
            try:
                raise told from error
            finally:
                del told  # with its traceback it would keep this frame, and the connection in it
        finally:
            limits.pause()


class Replay(Cursor):
    """The same cursor while it reads kept rows; past the kept ones it reads on from the database."""

    __slots__ = ()

    @property
    def description(self) -> Any:
        return self._replayed.description

    @property
    def rowcount(self) -> int:
        """As the driver's after a SELECT."""
        return -1

    @property
    def lastrowid(self) -> int | None:
        """As the driver's: of the connection's last INSERT, whatever ran since."""
        if _driver_lastrowid(self) is None:
            _execute(self, _heading(self._replayed.description))
        return cast("int | None", _driver_lastrowid(self))

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        return _end_replay(self).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        return _end_replay(self).executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        return _end_replay(self).executescript(sql_script)

    def close(self) -> None:
        _end_replay(self).close()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        cast("Connection", self.connection).check_open()
        row = next(self._position)
        return row if self.row_factory is self._made_by else _remake(self, row)

    def fetchone(self) -> Any:
        return next(self, None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """As the driver's, for which 0 and less mean all."""
        size = self.arraysize if size is None else operator.index(size)
        rows = []
        for row in self:
            rows.append(row)
            if len(rows) == size:
                break
        return rows

    def fetchall(self) -> list[Any]:
        cast("Connection", self.connection).check_open()
        if self.row_factory is self._made_by:
            return list(self._position)
        return [_remake(self, row) for row in self._position]


def _begin_replay(cursor: Cursor, answer: Answer, rows: Iterable[Any]) -> Cursor:
    cursor._made_by = _Row if cursor.row_factory is _Row else None
    cursor._replayed = answer
    cursor._position = iter(rows)
    cursor.__class__ = Replay
    return cursor


def _end_replay(cursor: Cursor) -> Cursor:
    cursor.__class__ = Cursor
    cursor._record = None
    return cursor


def _remake(cursor: Cursor, row: Any) -> Any:
    """A kept row as the row factory that the cursor has now makes it."""
    factory = cursor.row_factory
    if factory is None:
        return tuple(row)
    if _driver_description(cursor) is None:
        # ``sqlite3.Row`` and whatever is made of it read the names where only the driver can write them.
        _execute(cursor, _heading(cursor._replayed.description))
    return factory(cursor, tuple(row))


_headings: dict[int, tuple[Any, str]] = {}


def _heading(description: Any) -> str:
    """A statement without rows that has this description."""
    known = _headings.get(id(description))
    if known is not None:  # and alive, so that nothing else can have its id
        return known[1]
    names = ", ".join('NULL AS "{}"'.format(column[0].replace('"', '""')) for column in description)
    if len(_headings) >= 256:
        _headings.clear()
    _headings[id(description)] = description, f"SELECT {names} WHERE 0"
    return _headings[id(description)][1]


class _Ran:
    """The description of rows that were read for the cache, whether it kept them or not."""

    __slots__ = ("description",)

    def __init__(self, description: Description) -> None:
        self.description = description


def _and_onward(cursor: Cursor, rows: list[Any], record: list[Any] | None) -> Iterator[Any]:
    """The rows already read, then the rest from the database, as the driver makes them; timed to the end."""
    yield from rows
    count = len(rows)
    while True:
        start = perf_counter()
        more = _raw(cursor, 256)
        count += len(more)
        if record is not None:
            record[1] += perf_counter() - start
        if not more:
            break
        yield from more
    if record is not None:
        record[2] = count
        note_slow(cursor, record)


def _raw(cursor: Cursor, count: int) -> list[Any]:
    """The next rows as they are kept: without the app's own row factory."""
    factory = cursor.row_factory
    if factory is not _Row:
        cursor.row_factory = None
    try:
        return _fetchmany(cursor, count)
    finally:
        cursor.row_factory = factory
