"""Opens SQLite connections, tunes them, and makes them fit to be lent again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from time import perf_counter
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

from flask_dbopt.engines.protocol import Condition, Identity
from flask_dbopt.engines.sqlite.connection import Connection, Returned, forget_fault, joined_connection, take_cursors
from flask_dbopt.engines.sqlite.identity import identity_of, pinned_if_there
from flask_dbopt.engines.sqlite.limits import Limits, Refused, ours
from flask_dbopt.engines.sqlite.policy import Policy, ReadOnly
from flask_dbopt.engines.sqlite.road import Road, note
from flask_dbopt.engines.sqlite.tuning import Fault, Tuning
from flask_dbopt.engines.sqlite.turns import Turns
from flask_dbopt.errors import DatabaseUnavailable

#: Seconds to wait for a lock while tuning: a locked file is no reason to hold up whoever asked for a connection.
_TUNING_TIMEOUT = 0.5

_rollback = sqlite3.Connection.rollback
_total_changes = sqlite3.Connection.total_changes.__get__


#: A statement's time limit where ``connect`` was not told of one: ``DBOPT_MONITOR_STATEMENT_TIMEOUT``.
AS_SET = -1.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """What ``sqlite3.connect`` takes, less the database; connections opened alike may stand in for each other."""

    timeout: float | None = None
    """Seconds; None: ``DBOPT_SQLITE_BUSY_TIMEOUT``."""
    detect_types: int = 0
    isolation_level: str | None = ""
    check_same_thread: bool = True
    factory: type[sqlite3.Connection] | None = None
    """The app's own class wins; its connections are timed, and never lent twice."""
    cached_statements: int = 128
    statement_timeout: float | None = AS_SET
    """Seconds that a statement may take; None: any time."""
    readonly: bool = False
    further: tuple[tuple[str, Any], ...] = ()
    """Arguments of newer Pythons (``autocommit``), by name."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(tuple(getattr(self, name) for name in (*_KNOWN, "readonly", "further"))))

    def __hash__(self) -> int:
        return self._hash  # asked for at each loan, where to hash eight fields would cost 0.5 µs


class SQLiteConnector:
    """Connections to one database file, as one set of settings wants them."""

    def __init__(
        self,
        place: str | os.PathLike[str],
        tuning: Tuning,
        road: Road,
        *,
        busy_timeout: float = 5.0,
        turns: Turns | None = None,
        wal_limit: Callable[[], int] = lambda: 0,
        policy: Mapping[str, Sequence[str]] | None = None,
        statement_timeout: float | None = None,
        refused: Refused = lambda rule, what: None,
    ) -> None:
        """``place``: a path, or a ``file:`` URI with its query. ``busy_timeout`` in seconds.

        ``wal_limit()``: bytes of WAL to leave to whoever checkpoints beside the app; 0: nobody does.
        ``policy``: what statements may not do; ``refused(rule, what)`` hears of each that tried.
        """
        self.place = os.fspath(place)
        self.path = path_of(self.place)
        self.identity: Callable[[], Identity | None] = identity_of(self.path)
        self.faults: tuple[Fault, ...] = ()
        """What the newest connection did not take of the tuning."""
        self.autocommits = False
        """Whether a connection was seen that is in no transaction unless the app begins one."""
        # A query of its own (immutable, nolock, vfs) may make it read another state than everybody else.
        self._is_shared = not (self.place.startswith("file:") and "?" in self.place)
        self._tuning = tuning
        self._road = road
        self._busy_timeout = busy_timeout
        self._turns = turns
        self._wal_limit = wal_limit
        self._policy = policy or {}
        self._statement_timeout = statement_timeout
        self._refused = refused

    def open(self, key: Hashable) -> tuple[Connection, Identity | None]:
        arguments = cast(Arguments, key)
        target, uri = self.target(readonly=arguments.readonly)
        connection, identity = self.open_with(
            lambda timeout: sqlite3.connect(
                target,
                uri=uri,
                timeout=timeout,
                detect_types=arguments.detect_types,
                isolation_level=cast(Any, arguments.isolation_level),
                # Ours are lent to any thread, and check by themselves; what a class of the app's own makes is not lent.
                check_same_thread=arguments.check_same_thread and arguments.factory is not None,
                factory=joined_connection(arguments.factory),
                cached_statements=arguments.cached_statements,
                **dict(arguments.further),
            ),
            arguments,
        )
        if arguments.check_same_thread and isinstance(connection, Connection):
            connection._owner = get_ident()
        return connection, identity

    def open_with(
        self, connect: Callable[[float], sqlite3.Connection], arguments: Arguments
    ) -> tuple[Connection, Identity | None]:
        """Open through ``connect(busy timeout in seconds)``, tune, and tell which file it is on."""
        for _ in range(3):
            with pinned_if_there(self.path) as before:
                connection = self._connect(connect, arguments)
                if not isinstance(connection, Connection):
                    return cast(Connection, connection), None  # what the app's own factory made is its own affair
                connection._identity = self.identity()
                if before is None or before == connection._identity:
                    return connection, connection._identity
            # The file was replaced in between: nobody can say which one this connection has.
            sqlite3.Connection.close(connection)
        raise DatabaseUnavailable("unable to open database file", hint=f"{self.path} is replaced again and again")

    def _connect(self, connect: Callable[[float], sqlite3.Connection], arguments: Arguments) -> sqlite3.Connection:
        timeout = self._timeout(arguments)
        try:
            connection = connect(min(timeout, _TUNING_TIMEOUT))
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailable(str(error), hint=self._why(error)) from error
        if isinstance(connection, Connection):
            try:
                self._ready(connection, timeout, arguments)
            except BaseException:
                sqlite3.Connection.close(connection)
                raise
        return connection

    def _timeout(self, arguments: Arguments) -> float:
        return self._busy_timeout if arguments.timeout is None else arguments.timeout

    def _ready(self, connection: Connection, timeout: float, arguments: Arguments) -> None:
        """Tune a new connection and put it on its road."""
        connection._arguments = arguments
        connection._detect_types = arguments.detect_types
        try:
            connection._tuned = self._tune(connection) or arguments.readonly
            if timeout > _TUNING_TIMEOUT:
                _run(connection, f"PRAGMA busy_timeout={round(timeout * 1000)}")
            if limit := self._wal_limit():
                self._tuning.leave_checkpoints(connection, limit)
            if arguments.readonly:
                _run(connection, "PRAGMA query_only=1")  # mode=ro leaves temp tables and attached files
        except sqlite3.DatabaseError as error:
            raise DatabaseUnavailable(str(error), hint=self._why(error)) from error
        turns = None if arguments.readonly else self._turns
        connection._turns = turns
        connection._precede = turns.precede if turns is not None and turns.wants is not None else None
        connection._bypasses = not self._is_shared
        connection._road = self._road
        self._limit(connection, arguments)
        is_untimed = connection._limits is None or connection._limits.seconds is None
        connection._ordinary = self._road.ordinary if connection._precede is None and is_untimed else frozenset()
        self._note_autocommit(connection)

    def _limit(self, connection: Connection, arguments: Arguments) -> None:
        """From here on its statements are the app's, and may not do everything."""
        seconds = arguments.statement_timeout
        seconds = self._statement_timeout if seconds == AS_SET else seconds
        if arguments.readonly or self._policy or seconds is not None:
            kind = ReadOnly if arguments.readonly else Policy
            policy = kind(self._policy) if arguments.readonly or self._policy else None
            connection._limits = Limits(policy, seconds, self._refused)
            connection._limits.put_on(connection)

    def _note_autocommit(self, connection: Connection) -> None:
        if connection.isolation_level is None or getattr(connection, "autocommit", False) is True:
            self.autocommits = True

    def tune_again(self, connection: Connection) -> None:
        """Tune a connection that could not be when it was opened: the file was empty, or locked.

        For when it is given back, so it waits for no lock.
        """
        if not connection._tuned:
            with ours(connection):
                _run(connection, "PRAGMA busy_timeout=0")
                connection._tuned = self._tune(connection)
                _run(connection, f"PRAGMA busy_timeout={round(self._timeout(connection._arguments) * 1000)}")

    def _tune(self, connection: Connection) -> bool:
        """Whether the connection need not be tuned again. A lock is no failure: the next loan tries again."""
        try:
            faults = self._tuning.apply(connection)
            # What is said to be immutable has no journal.
            self.faults = () if "immutable=1" in self.place else faults
        except sqlite3.OperationalError as error:
            if not any(word in str(error) for word in ("locked", "busy", "readonly")):
                raise
            self.faults = (Fault("journal_mode", str(self._tuning.wanted.get("journal_mode")), str(error)),)
        return not any(fault.pragma == "journal_mode" for fault in self.faults)

    def elsewhere(self, place: str) -> SQLiteConnector:
        """The same for another way to the file: a URI with a query of its own."""
        return SQLiteConnector(
            place,
            self._tuning,
            self._road,
            busy_timeout=self._busy_timeout,
            policy=self._policy,
            statement_timeout=self._statement_timeout,
            refused=self._refused,
        )

    def target(self, *, readonly: bool) -> tuple[str, bool]:
        """What ``sqlite3.connect`` takes for it, and whether that is a URI."""
        if self.place.startswith("file:"):
            separator = "&" if "?" in self.place else "?"
            return (f"{self.place}{separator}mode=ro" if readonly else self.place), True
        return (f"file:{quote(self.path)}?mode=ro", True) if readonly else (self.path, False)

    def _why(self, error: Exception) -> str:
        """What to do about a database that would not open; asks the file system, never reads the file."""
        path, folder = Path(self.path), Path(self.path).parent
        if path.is_dir():
            return f"{path} is a directory; DBOPT_DATABASE must name a file in it"
        if not folder.is_dir():
            return f"the folder {folder} does not exist; create it first"
        if "not a database" in str(error):
            return f"{path} holds something else; is it the right path, or is it encrypted?"
        if path.exists() and not os.access(path, os.R_OK):
            return f"{path} may not be read by this user"
        if not path.exists() and not os.access(folder, os.W_OK):
            return f"{path} does not exist and {folder} may not be written by this user"
        if "malformed" in str(error):
            return f"{path} is damaged; flask db-opt restore brings back the last backup"
        return f"the file is {path}"

    def lend(self, connection: Connection, give_back: Callable[[Any], None]) -> None:
        connection.__class__ = Connection
        # Set again here too: whoever kept the returned handle could still set these two.
        connection.row_factory = None
        connection.text_factory = str
        connection._home = give_back
        connection._owner = get_ident() if connection._arguments.check_same_thread else None
        connection._changes_before = _total_changes(connection)

    def take_back(self, connection: Connection) -> Condition:
        condition = self._reset(connection)
        if connection._turn is not None and self._turns is not None:
            self._turns.leave(connection)
        connection.__class__ = Returned
        return condition

    def _reset(self, connection: Connection) -> Condition:
        condition = Condition.CLEAN
        connection.row_factory = None
        connection.text_factory = str
        try:
            cursors = take_cursors(connection)
            if cursors is None:
                return Condition.UNFIT
            for cursor in cursors:  # a half-read one would pin its snapshot
                cursor.close()
            if connection.in_transaction:
                start = perf_counter()
                _rollback(connection)
                note(connection._road, "ROLLBACK", start, -1)
                condition = Condition.ROLLED_BACK
            if connection._altered:
                return Condition.UNFIT
            if connection._has_failed:
                connection._has_failed = False
                forget_fault(connection)
            if connection._pragmas:
                with ours(connection):
                    for name, value in connection._pragmas.items():
                        _run(connection, f"PRAGMA {name}={value}")
                connection._pragmas.clear()
                connection._bypasses = not self._is_shared
            wanted = connection._arguments.isolation_level
            if connection.isolation_level != wanted:
                self._note_autocommit(connection)
                connection.isolation_level = cast(Any, wanted)
            if not connection._tuned:
                self.tune_again(connection)
        except Exception:  # noqa: BLE001  # the driver's, or whatever a class of the app's own raises
            return Condition.UNFIT
        return condition

    def is_alive(self, connection: Connection) -> bool:
        try:
            _run(connection, "SELECT 1")
        except sqlite3.Error:
            return False
        return True

    def close(self, connection: Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            connection.__class__ = Returned
            sqlite3.Connection.close(connection)
        if connection._turn is not None and self._turns is not None:
            self._turns.leave(connection)


def _run(connection: sqlite3.Connection, sql: str) -> None:
    """Our own statement: on the driver's road, not the app's."""
    cursor = sqlite3.Connection.cursor(connection)
    cursor.row_factory = None
    cursor.execute(sql).fetchall()
    cursor.close()


def path_of(place: str) -> str:
    """The absolute path that a path or a ``file:`` URI names; "" for a database in memory."""
    if not place.startswith("file:"):
        return "" if place in ("", ":memory:") else str(Path(place).absolute())
    parts = urlsplit(place)
    if parts.path in ("", ":memory:") or "mode=memory" in parts.query:
        return ""
    return str(Path(unquote(parts.path)).absolute())


def arguments_of(keywords: dict[str, Any], *, readonly: bool = False) -> Arguments:
    """The pool's key for what was given to ``connect``; raises TypeError as ``sqlite3.connect`` does."""
    known = {name: keywords.pop(name) for name in _KNOWN if name in keywords}
    further = {name: keywords.pop(name) for name in ("autocommit",) if name in keywords}
    keywords.pop("uri", None)  # the place says itself what it is
    limit = known.get("statement_timeout")
    if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
        raise ValueError(f"statement_timeout is a number of seconds, or None for no limit; not {limit!r}")
    if keywords:
        raise TypeError(f"connect() got an unexpected keyword argument {next(iter(keywords))!r}")
    return Arguments(**known, readonly=readonly, further=tuple(further.items()))


_KNOWN = (
    "timeout",
    "detect_types",
    "isolation_level",
    "check_same_thread",
    "factory",
    "cached_statements",
    "statement_timeout",
)
