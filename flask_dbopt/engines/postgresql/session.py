"""A connection of our own to a PostgreSQL server, for one question: read-only, with its time limits, then closed.

Any driver will do: psycopg, psycopg2, pg8000. Nothing outlives the question: nothing to abandon after a fork, and
nothing left behind in a session that a pooler such as PgBouncer lends to the next client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

Connect = Callable[[], Any]
"""Opens a new connection of the app's driver, as the app itself would."""

#: SQLSTATEs of a connection that ends or is not made: connection exceptions, shutdowns, too many connections.
_LOST = ("08", "57P", "53300")


class ServerError(Exception):
    """What the server or its driver said, whichever driver it was. ``state`` is the SQLSTATE; empty without one."""

    def __init__(self, message: str, state: str = "", *, is_lost: bool = False) -> None:
        """``is_lost``: nobody answered. No server, no way in, no connection any more."""
        super().__init__(message)
        self.state = state
        self.is_lost = is_lost


class Session:
    """One open connection; ``ask`` runs a statement."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def ask(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Its rows as tuples; ServerError. ``sql`` takes ``%s`` for values, and ``%%`` only where there are some."""
        try:
            cursor = self._connection.cursor()
            try:
                cursor.execute(sql, values) if values else cursor.execute(sql)
                rows = cursor.fetchall() if cursor.description else []
            finally:
                cursor.close()
        except Exception as error:  # drivers share no error class
            raise server_error(error) from error
        return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in rows]


@contextmanager
def opened(connect: Connect) -> Iterator[Session]:
    """A connection in autocommit; ServerError when there is none to be had."""
    try:
        connection = connect()
        connection.autocommit = True
    except Exception as error:
        raise ServerError(str(server_error(error)), is_lost=True) from error
    try:
        yield Session(connection)
    finally:
        with suppress(Exception):
            connection.close()


@contextmanager
def looking(connect: Connect, timeout: float, lock_timeout: float) -> Iterator[tuple[Session, int]]:
    """In a read-only transaction that is rolled back, and the server's version: 160014.

    No statement takes longer than ``timeout`` seconds, nor waits longer than ``lock_timeout`` for a lock. Each
    setting ends with the transaction.
    """
    with opened(connect) as session:
        session.ask("BEGIN READ ONLY")
        ((version, *_),) = session.ask(
            "SELECT current_setting('server_version_num')::int AS version,"
            f" set_config('statement_timeout', '{timeout * 1000:.0f}', true) AS a,"
            f" set_config('lock_timeout', '{lock_timeout * 1000:.0f}', true) AS b,"
            " set_config('standard_conforming_strings', 'on', true) AS c"
        )
        yield session, version
        session.ask("ROLLBACK")


@contextmanager
def attempt(session: Session) -> Iterator[None]:
    """What fails within is undone alone: the transaction goes on."""
    session.ask("SAVEPOINT attempt")
    try:
        yield
    finally:
        session.ask("ROLLBACK TO SAVEPOINT attempt")


def server_error(error: Exception) -> ServerError:
    """Any driver's error, read by its message, its SQLSTATE and its class, whose names they share (PEP 249)."""
    told = error.args[0] if error.args else ""
    if isinstance(told, Mapping):  # pg8000
        message, state = str(told.get("M", error)), str(told.get("C", ""))
    else:
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        message = getattr(getattr(error, "diag", None), "message_primary", None) or str(error) or type(error).__name__
    unanswered = type(error).__name__ in ("OperationalError", "InterfaceError") and not state
    return ServerError(message.strip().splitlines()[0], state, is_lost=unanswered or state.startswith(_LOST))
