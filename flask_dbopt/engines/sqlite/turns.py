"""Turns to write: which statements begin a transaction IMMEDIATE, in which requests, and when their turn is over.

In a request that is to change something the driver's own way loses updates: it begins at the first INSERT or UPDATE,
so what was read before may have changed meanwhile. Here the transaction begins before the first statement, and as one
that writes. What the app begins by itself is left as it is; a statement that wants to stand alone does.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Hashable
from enum import Enum, auto
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from flask_dbopt.engines.sqlite.road import do_without, note

if TYPE_CHECKING:
    from flask_dbopt.engines.sqlite.connection import Connection


class Lane(Protocol):
    """Where the writers of one database stand in line; the pool's room has it."""

    @property
    def turn(self) -> Any:
        """Whose turn it is in this process, with its ``thread`` and a weak reference to its ``connection``, or None."""
        ...

    def enter(self, who: str, identity: Hashable, wait: Callable[[], float], connection: object = None) -> Any: ...

    def leave(self, turn: Any) -> None: ...


class Request(Protocol):
    """Something that is being served, and is to change the database."""

    @property
    def ended(self) -> object | None:
        """None while it is being served."""
        ...


class Deed(Enum):
    """What a statement is to a transaction."""

    READS = auto()
    WRITES = auto()
    BEGINS = auto()
    """``BEGIN IMMEDIATE`` or ``EXCLUSIVE``: it will write, and says so."""
    ENDS = auto()
    """``COMMIT``, ``END``, ``ROLLBACK``, but not to a savepoint."""
    APART = auto()
    """It ran in no transaction before we began one: schema, settings, ``BEGIN``, ``SAVEPOINT``, ``VACUUM``."""
    NEUTRAL = auto()
    """At home inside a transaction and outside: a PRAGMA that only tells, EXPLAIN, a savepoint's end."""


_LEADING = r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*"
_DEEDS = tuple(
    (re.compile(_LEADING + rf"(?:{words})", re.IGNORECASE | re.DOTALL), deed)
    for words, deed in (
        # SQLAlchemy's own savepoints are always within a transaction that it commits.
        (r"(?:select|with|values)\b|savepoint\s+\"?sa_savepoint", Deed.READS),
        (r"(?:insert|update|delete|replace)\b", Deed.WRITES),
        (r"begin\s+(?:immediate|exclusive)\b", Deed.BEGINS),
        (r"(?:commit|end)\b|rollback(?!\s+(?:transaction\s+)?to\b)\b", Deed.ENDS),
        (r"pragma\b(?!.*=)(?!\s+(?:wal_checkpoint|optimize|incremental_vacuum))", Deed.NEUTRAL),
        (r"(?:explain|release|rollback)\b", Deed.NEUTRAL),
    )
)
_deeds: dict[str, Deed] = {}


def deed_of(sql: str) -> Deed:
    """What one statement does to a transaction, decided once a text."""
    try:
        return _deeds[sql]
    except (KeyError, TypeError):
        pass
    if not isinstance(sql, str):
        return Deed.NEUTRAL  # the driver's own error follows
    deed = next((deed for pattern, deed in _DEEDS if pattern.match(sql)), Deed.APART)
    if len(_deeds) >= 4096:
        _deeds.clear()
    if len(sql) <= 10_000:
        _deeds[sql] = deed
    return deed


class Turns:
    """How the connections of one database take turns."""

    def __init__(
        self, lane: Lane, *, who: Callable[[], str], wants: Callable[[], Request | None] | None = None
    ) -> None:
        """``who()`` names whoever asks. ``wants()`` is the request that is to begin by itself, or None; without it
        no transaction begins but by ``begin``.
        """
        self.lane = lane
        self._who = who
        self.wants = wants

    def begin(self, connection: Connection, request: Request | None = None) -> None:
        """``BEGIN IMMEDIATE`` when it is this connection's turn; WriterTimeout when that does not come."""
        start = perf_counter()
        try:
            self._enter(connection)
            _run(connection, "BEGIN IMMEDIATE")
        except BaseException as error:
            note(connection._road, "BEGIN IMMEDIATE", start, -1, error)
            self.settle(connection)
            raise
        note(connection._road, "BEGIN IMMEDIATE", start, -1)
        connection._begun_for = request
        connection._changes_at_begin = _total_changes(connection)

    def precede(self, connection: Connection, sql: str) -> bool:
        """Before a statement. Whether it ends the transaction, so that ``settle`` must follow it."""
        try:
            return self._precede(connection, sql)
        except sqlite3.Error:  # the database's word, and WriterTimeout
            raise
        except Exception:  # noqa: BLE001  # ours, so not the app's affair
            do_without("the writers' line")
            return False

    def _precede(self, connection: Connection, sql: str) -> bool:
        deed = deed_of(sql)
        if connection._turn is not None:
            if not connection.in_transaction:
                self.settle(connection)
            elif deed in (Deed.APART, Deed.BEGINS) and self._has_only_read(connection):
                self._end_reading(connection)
        if connection.in_transaction:
            return deed is Deed.ENDS
        if deed is Deed.BEGINS:
            self._enter(connection)
        elif deed in (Deed.READS, Deed.WRITES):
            self._begin_for_request(connection, deed)
        return False

    def settle(self, connection: Connection) -> None:
        """Let the next writer come, if the connection's transaction is over."""
        if not connection.in_transaction:
            self.leave(connection)

    def leave(self, connection: Connection) -> None:
        """Let the next writer come: the connection is closed, or was given back."""
        turn, connection._turn, connection._begun_for = connection._turn, None, None
        if turn is not None:
            try:
                self.lane.leave(turn)
            except Exception:  # noqa: BLE001
                do_without("the writers' line")

    def end_forgotten(self) -> None:
        """In a thread whose request is over: end what was begun for it, if it only read; else the app must end it."""
        turn = self.lane.turn
        if turn is None or turn.thread != get_ident():
            return
        connection = self._writer()
        if connection is None or not self._has_only_read(connection):
            return
        if connection._begun_for is not None and connection._begun_for.ended is not None:
            self._end_reading(connection)

    def _begin_for_request(self, connection: Connection, deed: Deed) -> None:
        request = None if self.wants is None else self.wants()
        if request is None or connection.isolation_level is None or getattr(connection, "autocommit", -1) != -1:
            return
        turn = self.lane.turn
        if deed is Deed.READS and turn is not None and turn.thread == get_ident():
            return  # on another connection of its own the request writes already
        try:
            self.begin(connection, request)
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise

    def _enter(self, connection: Connection) -> None:
        def wait() -> float:
            return int(_run(connection, "PRAGMA busy_timeout")[0][0]) / 1000

        turn = self.lane.turn
        if turn is not None and turn.thread == get_ident():
            other = self._writer()
            if other is not None and self._has_only_read(other):
                self._end_reading(other)  # we began it, and for one connection the app would not have waited
        try:
            connection._turn = self.lane.enter(self._who(), connection._identity, wait, connection)
        except sqlite3.Error:
            raise
        except Exception:  # noqa: BLE001  # SQLite's own lock still keeps the order
            do_without("the writers' line")

    def _writer(self) -> Connection | None:
        """The connection whose turn it is in this process."""
        turn = self.lane.turn
        return None if turn is None or turn.connection is None else turn.connection()

    def _has_only_read(self, connection: Connection) -> bool:
        return (
            connection._begun_for is not None
            and connection.in_transaction
            and _total_changes(connection) == connection._changes_at_begin
        )

    def _end_reading(self, connection: Connection) -> None:
        """COMMIT, since ROLLBACK would disturb cursors that are half read."""
        try:
            _commit(connection)
        finally:
            self.settle(connection)


_commit = sqlite3.Connection.commit
_total_changes = sqlite3.Connection.total_changes.__get__


def _run(connection: sqlite3.Connection, sql: str) -> list[Any]:
    """Our own statement: on the driver's road, not the app's."""
    cursor = sqlite3.Connection.cursor(connection)
    cursor.row_factory = None
    rows = cursor.execute(sql).fetchall()
    cursor.close()
    return rows
