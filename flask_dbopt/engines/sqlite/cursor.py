"""Cursors whose statements take the road: timed on their way, and answered by the cache where it can.

``Cursor`` keeps the driver's fetch methods in C, because a Python ``fetchone`` doubles the cost of a row. When the
cache answers, the cursor changes its class to ``Replay``, which has fetch methods of its own, and back again at the
next statement.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, cast

from flask_dbopt.engines.protocol import Identity
from flask_dbopt.engines.sqlite.statements import Kind, kind_of

if TYPE_CHECKING:
    from flask_dbopt.engines.sqlite.connection import Connection

Description = tuple[tuple[Any, ...], ...]


class Answer(Protocol):
    """What a look-up gives: kept rows, or (``rows`` is None) a ticket to keep the rows of this run."""

    rows: tuple[Any, ...] | None
    description: Description | None
    max_rows: int

    def begin(self) -> Any: ...

    def keep(self, rows: Sequence[Any], description: Description) -> Any: ...


class Road(Protocol):
    """What happens before and after each statement; the hall makes one for each database."""

    look: Callable[[str, Any, Any, Identity | None], Answer | None] | None
    """``look(sql, parameters, factories, identity)``; None where there is no cache."""

    learn: Callable[..., Any]
    """``learn(sql, seconds, seconds told before)``: what a SELECT cost, for the cache to judge its worth."""

    record: Callable[[str, float, int, str | None, bool], list[Any]]
    """``record(sql, seconds, rows, error, cached)``; the record may still grow while its rows are fetched."""


_execute = sqlite3.Cursor.execute
_fetchmany = sqlite3.Cursor.fetchmany
_fetchall = sqlite3.Cursor.fetchall
_SELECT, _ALTERING = Kind.SELECT, Kind.ALTERING


class Cursor(sqlite3.Cursor):
    """A cursor whose statements are timed, and whose SELECTs may be answered by the cache."""

    __slots__ = ("_position", "_record", "_replayed")

    _record: list[Any] | None
    _replayed: Answer
    _position: Iterator[Any]

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        connection = cast("Connection", self.connection)
        road = connection._road
        if connection._owner is not None and connection._owner != get_ident():
            connection.check_thread()
        kind = kind_of(sql)
        ticket = None
        if kind is _SELECT:
            look = road.look
            if (
                look is not None
                and not connection._bypasses
                and self.__class__ is Cursor  # the app's own cursor class keeps its own ways of fetching
                and not connection.in_transaction
            ):
                factories = (self.row_factory, connection.text_factory, connection._detect_types)
                answer = look(sql, parameters, factories, connection._identity)
                if answer is not None:
                    if answer.rows is not None:
                        self._record = road.record(sql, 0.0, len(answer.rows), None, True)
                        return _begin_replay(self, answer, answer.rows)
                    if connection.is_idle():  # else this SELECT would see the snapshot of a half-read cursor
                        ticket = answer
                        ticket.begin()
        elif kind is _ALTERING:
            connection.note_altering(sql)
        start = perf_counter()
        try:
            _execute(self, sql, parameters)
        except Exception as error:
            self._record = None
            road.record(sql, perf_counter() - start, -1, type(error).__name__, False)
            raise
        seconds = perf_counter() - start
        self._record = road.record(sql, seconds, self.rowcount, None, False)
        if kind is _SELECT and road.look is not None:
            if ticket is not None:
                return _fill(self, ticket)
            road.learn(sql, seconds)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor:
        return self._timed(sqlite3.Cursor.executemany, sql, parameters)

    def executescript(self, sql_script: str, /) -> Cursor:
        return self._timed(sqlite3.Cursor.executescript, sql_script)

    def _timed(self, run: Callable[..., Any], sql: str, *arguments: Any) -> Cursor:
        """Run what the cache has no part in."""
        connection = cast("Connection", self.connection)
        road = connection._road
        connection.check_thread()
        if kind_of(sql) is _ALTERING:
            connection.note_altering(sql)
        self._record = None
        start = perf_counter()
        error = None
        try:
            run(self, sql, *arguments)
        except Exception as raised:
            error = type(raised).__name__
            raise
        finally:
            road.record(sql, perf_counter() - start, -1 if error else self.rowcount, error, False)
        return self

    def fetchall(self) -> list[Any]:
        record = self._record
        if record is None:
            return _fetchall(self)
        self._record = None
        start = perf_counter()
        rows = _fetchall(self)
        before = record[1]
        seconds = record[1] = before + (perf_counter() - start)
        if record[2] < 0:
            record[2] = len(rows)
            road = cast("Connection", self.connection)._road
            if road.look is not None:
                road.learn(record[0], seconds, before)
        return rows


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
        factory = self.row_factory
        return row if factory is None or factory is sqlite3.Row else factory(self, row)

    def fetchone(self) -> Any:
        return next(self, None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        size = self.arraysize if size is None else size
        rows = []
        for _ in range(size):
            try:
                rows.append(next(self))
            except StopIteration:
                break
        return rows

    def fetchall(self) -> list[Any]:
        cast("Connection", self.connection).check_open()
        factory = self.row_factory
        if factory is None or factory is sqlite3.Row:
            return list(self._position)
        return [factory(self, row) for row in self._position]


def _begin_replay(cursor: Cursor, answer: Answer, rows: Iterable[Any]) -> Cursor:
    cursor._replayed = answer
    cursor._position = iter(rows)
    cursor.__class__ = Replay
    return cursor


def _end_replay(cursor: Cursor) -> Cursor:
    cursor.__class__ = Cursor
    cursor._record = None
    return cursor


class _Ran:
    """The description of rows that were read for the cache, whether it kept them or not."""

    __slots__ = ("description",)

    def __init__(self, description: Description) -> None:
        self.description = description


def _fill(cursor: Cursor, ticket: Answer) -> Cursor:
    """Read the rows of a SELECT that just ran, offer them to the cache, and let the app read them from there.

    Rows are kept as the driver made them: a row factory of the app's own is applied anew for each reader, so that no
    reader can alter what the next one gets.
    """
    description = cast(Description, cursor.description)
    record = cast("list[Any]", cursor._record)
    factory = cursor.row_factory
    if factory is not sqlite3.Row:
        cursor.row_factory = None
    start = perf_counter()
    try:
        rows = _fetchmany(cursor, ticket.max_rows + 1)
    finally:
        cursor.row_factory = factory
    record[1] += perf_counter() - start
    ticket.keep(rows, description)  # also when it has too many: the cache remembers not to ask again soon
    if len(rows) <= ticket.max_rows:
        record[2] = len(rows)
        return _begin_replay(cursor, cast(Answer, _Ran(description)), rows)
    return _begin_replay(cursor, cast(Answer, _Ran(description)), _and_onward(cursor, rows))


def _and_onward(cursor: Cursor, rows: list[Any]) -> Iterator[Any]:
    """The rows already read, then the rest from the database, as the driver makes them."""
    yield from rows
    while more := _raw(cursor):
        yield from more


def _raw(cursor: Cursor) -> list[Any]:
    factory = cursor.row_factory
    if factory is not sqlite3.Row:
        cursor.row_factory = None
    try:
        return _fetchmany(cursor, 256)
    finally:
        cursor.row_factory = factory
