"""The road of one statement: past the guard, the writers' line and the cache to the driver, and past the recorder.

What goes wrong in the rooms on this road is told, and the app's statement goes on without them.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Container, Sequence
from math import inf
from threading import get_ident
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from flask_dbopt.engines.sqlite.statements import Kind, kind_of
from flask_dbopt.errors import StatementRefused

if TYPE_CHECKING:
    from flask_dbopt.engines.sqlite.connection import Connection
    from flask_dbopt.engines.sqlite.cursor import Cursor

log = logging.getLogger("flask_dbopt")

#: Statements that are remembered, and how long a text may be.
_MOST_KNOWN, _LONGEST_KNOWN = 4096, 10_000

_Row = sqlite3.Row
_execute = sqlite3.Cursor.execute
_SELECT, _ALTERING = Kind.SELECT, Kind.ALTERING

Description = tuple[tuple[Any, ...], ...]


class Answer(Protocol):
    """What a look-up gives: kept rows, or (``rows`` is None) a ticket to keep the rows of this run."""

    rows: tuple[Any, ...] | None
    description: Description | None
    max_rows: int

    def begin(self) -> Any: ...

    def keep(self, rows: Sequence[Any], description: Description) -> Any: ...


class Road:
    """Who stands beside it, for one database. As it is made here nobody does; the hall lets the rooms in."""

    def __init__(self) -> None:
        self.ordinary: set[str] = set()
        """SELECTs that want nothing but to be timed: not looked up, cleared by the guard, seen before."""
        self.notable = inf
        """Seconds from which on a run of such a one is looked at all the same, for the cache or as a slow one."""
        self.look: Callable[..., Any] | None = None
        """``look(sql, parameters, factories, identity)``; None where there is no cache."""
        self.worthy: Container[str] = ()
        """The statements that are looked up at all."""
        self.learn: Callable[[str, float, float], object] = _nothing
        """``learn(sql, seconds, seconds told before)``: what a SELECT cost, for the cache to judge its worth."""
        self.record: Callable[..., list[Any]] = _unrecorded
        """``record(sql, seconds, rows, error, cached, started)``; it may still grow while its rows are fetched."""
        self.places: Container[str] = _Everything()
        """The statements of which it is known where in the app they come from."""
        self.sight: Callable[[str], object] = _nothing
        """``sight(sql)``: a statement is to run that is not in ``places``."""
        self.slow = inf
        """Seconds from which on a run is slow."""
        self.sample: Callable[[list[Any], Any], object] = _nothing
        """``sample(record, parameters)``: a slow one just ran."""
        self.keeps_parameters = False
        """Whether ``sample`` wants parameters."""
        self.inspect: Callable[[str], bool] | None = None
        """The guard's word on a statement, True if it holds for ever; it raises to refuse. None: no guard."""
        self.cleared: set[str] = set()
        """The statements it need not be asked about."""


class _Everything:
    """Contains whatever is asked for."""

    def __contains__(self, sought: object) -> bool:
        return True


def _unrecorded(*record: Any) -> list[Any]:
    return list(record)


def _nothing(*_: Any) -> None: ...


def run(cursor: Cursor, connection: Connection, sql: str, parameters: Any) -> Cursor:
    """Execute one statement as the driver does, and do for the rooms what they want of it.

    This is the shortest way, for what most statements are; all others take ``_run_with_care``.
    """
    try:
        is_ordinary = sql in connection._ordinary
    except TypeError:  # no string: the driver's own error follows
        is_ordinary = False
    if not is_ordinary or (connection._owner is not None and connection._owner != get_ident()):
        return _run_with_care(cursor, connection, sql, parameters)
    road = connection._road
    start = perf_counter()
    try:
        _execute(cursor, sql, parameters)
    except Exception as error:
        note_fault(cursor, connection, sql, start, error)
        raise
    seconds = perf_counter() - start
    try:
        cursor._record = record = road.record(sql, seconds, -1, None, False, start)
    except Exception:  # noqa: BLE001
        cursor._record = None
        do_without("the monitor")
    else:
        if seconds > road.notable:
            notice(cursor, road, record, 0.0)
    return cursor


def _run_with_care(cursor: Cursor, connection: Connection, sql: str, parameters: Any) -> Cursor:
    """Guard, turns, cache: whatever a statement may want that is not known to be an ordinary one."""
    road = connection._road
    if connection._owner is not None and connection._owner != get_ident():
        connection.check_thread()
    announce(road, sql)
    precede = connection._precede
    if precede is not None and not precede(connection, sql):
        precede = None
    kind = kind_of(sql)
    ticket: Answer | None = None
    if kind is _SELECT:
        if (
            road.look is not None
            and sql in road.worthy
            and not connection._bypasses
            and cursor._may_replay()
            and not connection.in_transaction
        ):
            answer = _look(cursor, connection, road.look, sql, parameters)
            if answer is not None and answer.rows is not None:
                return cursor._serve(answer, answer.rows, sql)
            ticket = answer
    elif kind is _ALTERING:
        connection.note_altering(sql)
    if road.keeps_parameters:
        cursor._parameters = parameters
    limits = connection._limits
    if limits is not None:
        limits.begin()
    start = perf_counter()
    try:
        _execute(cursor, sql, parameters)
    except Exception as error:
        note_fault(cursor, connection, sql, start, error)
        raise
    seconds = perf_counter() - start
    if precede is not None:  # the statement ended a transaction
        connection.settle()
    try:
        cursor._record = record = road.record(sql, seconds, cursor.rowcount, None, False, start)
    except Exception:  # noqa: BLE001
        cursor._record = None
        do_without("the monitor")
    else:
        if kind is _SELECT and ticket is None:
            if seconds > road.notable or sql in road.worthy:
                notice(cursor, road, record, 0.0)
            _note_ordinary(road, record)
        elif ticket is None:
            note_slow(cursor, record)
    if limits is not None:
        return cursor._read_within(limits, ticket, sql, parameters)
    return cursor if ticket is None else cursor._fill(ticket, sql, parameters)


def announce(road: Road, sql: str) -> None:
    """A statement is to run. Raises StatementRefused when the guard will not have it."""
    if not isinstance(sql, str):
        return
    if sql not in road.places:
        try:
            road.sight(sql)
        except Exception:  # noqa: BLE001  # ours, so not the app's affair
            do_without("the monitor")
    if road.inspect is None or sql in road.cleared:
        return
    try:
        if road.inspect(sql):
            _remember(road.cleared, sql)
    except StatementRefused as refusal:
        note(road, sql, perf_counter(), -1, refusal)
        raise
    except Exception:  # noqa: BLE001  # ours, so not the app's affair
        do_without("the guard")


def _look(cursor: Cursor, connection: Connection, look: Callable[..., Any], sql: str, parameters: Any) -> Answer | None:
    """What the cache says: kept rows, a ticket to keep the rows of this run, or None."""
    # Rows of a factory of the app's own are kept as plain ones, and made anew for each reader.
    factories = (cursor.row_factory is _Row, connection.text_factory, connection._detect_types)
    try:
        answer: Answer | None = look(sql, parameters, factories, connection._identity)
        if answer is not None and answer.rows is None:
            # Beside a half-read cursor this SELECT would see that one's snapshot.
            if not connection.is_idle():
                return None
            answer.begin()
    except Exception:  # noqa: BLE001  # ours, so not the app's affair
        do_without("the cache")
        return None
    return answer


def _note_ordinary(road: Road, record: list[Any]) -> None:
    """A SELECT (not an INSERT after WITH, which counts rows) that no room wants to see before it runs the next time."""
    sql = record[0]
    if (
        record[2] == -1
        and sql not in road.worthy
        and sql in road.places
        and (road.inspect is None or sql in road.cleared)
        and not road.keeps_parameters
    ):
        _remember(road.ordinary, sql)


def _remember(texts: set[str], sql: str) -> None:
    """Bounded, because an app may build its SQL text with literals in it."""
    if len(sql) <= _LONGEST_KNOWN:
        if len(texts) >= _MOST_KNOWN:
            texts.clear()
        texts.add(sql)


def notice(cursor: Cursor, road: Road, record: list[Any], before: float) -> None:
    """A SELECT took a while: ``before`` seconds of it were told already."""
    if road.look is not None:
        sql = record[0]
        try:
            road.learn(sql, record[1], before)
        except Exception:  # noqa: BLE001  # ours, so not the app's affair
            do_without("the cache")
        if sql in road.worthy:
            road.ordinary.discard(sql)
    if not before or before < road.slow:
        note_slow(cursor, record)


def note_slow(cursor: Cursor, record: list[Any]) -> None:
    """A sample of this run is taken, if it was a slow one."""
    road: Road = cursor.connection._road  # type: ignore[attr-defined]
    if record[1] >= road.slow:
        try:
            road.sample(record, cursor._parameters if road.keeps_parameters else None)
        except Exception:  # noqa: BLE001  # ours, so not the app's affair
            do_without("the monitor")


def note(
    road: Road, sql: str, start: float, rows: int, error: BaseException | None = None, parameters: Any = None
) -> None:
    """Record what is over and leaves no rows to be fetched. What is no text was no statement: the driver refused it."""
    if not isinstance(sql, str):
        return
    seconds = perf_counter() - start
    try:
        record = road.record(sql, seconds, rows, None if error is None else type(error).__name__, False, start)
        if seconds >= road.slow:
            road.sample(record, parameters if road.keeps_parameters else None)
    except Exception:  # noqa: BLE001  # ours, so not the app's affair
        do_without("the monitor")


def note_end(road: Road, word: str, method: Callable[..., Any], *arguments: Any) -> Any:
    """End a transaction. A commit is where a database writes and waits, so its end is timed like a statement."""
    start = perf_counter()
    fault = None
    try:
        return method(*arguments)
    except Exception as error:
        fault = error
        raise
    finally:
        note(road, word, start, -1, fault)
        fault = None  # with its traceback it would keep this frame, and the connection in it


def note_fault(cursor: Cursor, connection: Connection, sql: str, start: float, error: Exception) -> None:
    """A statement failed. Raises what the app is to be told instead, where a limit of ours stopped it."""
    cursor._record = None
    connection._has_failed = True
    told = error if connection._limits is None else connection._limits.explain(error)
    note(connection._road, sql, start, -1, told)
    if connection._turn is not None:
        connection.settle()
    if told is not error:
        try:
            raise told from error
        finally:
            del told, error  # else, with its traceback, it would keep this frame, and the connection in it


_told: dict[str, float] = {}


def do_without(room: str) -> None:
    """A room of ours failed. Say so, but not at each statement."""
    now = monotonic()
    if now - _told.get(room, -60.0) >= 60.0:
        _told[room] = now
        log.exception("%s failed; statements run without it", room)
