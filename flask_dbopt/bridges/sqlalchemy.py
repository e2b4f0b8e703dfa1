"""SQLAlchemy engines, found or attached: on SQLite their connections are of our class, elsewhere they are timed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from flask_dbopt.databases import Database
from flask_dbopt.engines.sqlite.connection import Connection, joined_connection
from flask_dbopt.engines.sqlite.connector import arguments_of
from flask_dbopt.errors import ConfigurationError
from flask_dbopt.optimizer import Optimizer
from flask_dbopt.pool.stats import PoolStats

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: Engines that are looked after already, by anybody in this process.
_attached: WeakKeyDictionary[Any, Database] = WeakKeyDictionary()

#: Our place in ``Connection.info``; a well-known recipe takes "query_start_time".
_STARTED = "_dbopt_started"
_FRESH = "_dbopt_fresh"


def find(extension: Any) -> dict[str, Any]:
    """The engines of Flask-SQLAlchemy 3 or -Lite by bind, in this app context; ConfigurationError for older ones."""
    try:
        engines = extension.engines
    except AttributeError:
        raise ConfigurationError(
            f"app.extensions['sqlalchemy'] is a {type(extension).__name__}, which names no engines",
            hint="Flask-SQLAlchemy 3.1 or newer is needed, or dbopt.attach(engine)",
        ) from None
    return {"default" if key is None else str(key): engine for key, engine in engines.items()}


def attach(optimizer: Optimizer, engine: Any, name: str = "default") -> Database:
    """Look after ``engine``; again, and nothing more happens. ConfigurationError for what is no plain Engine."""
    from sqlalchemy import Engine

    if not isinstance(engine, Engine):
        is_async = hasattr(engine, "sync_engine")
        raise ConfigurationError(
            f"attach() takes a SQLAlchemy Engine, not {type(engine).__name__}",
            hint="async engines run their statements where we can't time them" if is_async else "pass create_engine(…)",
        )
    if engine in _attached:
        return _attached[engine]
    if engine.dialect.name == "sqlite" and engine.dialect.driver == "pysqlite":
        database = _attach_sqlite(optimizer, engine, name)
    else:
        database = optimizer.databases.adopt_foreign(name, engine.dialect.name)
    _watch(optimizer, engine, database)
    _attached[engine] = database
    return database


def engine_options(database: Database) -> dict[str, Any]:
    """Options for ``create_engine`` that make its SQLite connections ours: tuned, timed, answered by the cache."""
    opener = _Opener(database)

    def factory(*arguments: Any, **keywords: Any) -> Any:
        return opener.open(lambda **ours: Connection(*arguments, **{**keywords, **ours}), keywords)

    return {"connect_args": {"factory": factory}} if database.connector is not None else {}


def _attach_sqlite(optimizer: Optimizer, engine: Engine, name: str) -> Database:
    from sqlalchemy import event
    from sqlalchemy.pool import QueuePool

    database = optimizer.databases.adopt(name, engine.url.database or ":memory:")
    event.listen(engine, "do_connect", _Opener(database))
    if isinstance(engine.pool, QueuePool) and engine.pool.checkedin():
        # These were opened before we came. Other pools keep theirs: a database in memory is its connection.
        engine.dispose()
    return database


class _Opener:
    """Opens an engine's connections: of our class, tuned before the app's own ``connect`` listeners have their say."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, dialect: Any, record: Any, arguments: Any, keywords: Mapping[str, Any]) -> Any:
        factory = joined_connection(keywords.get("factory"))
        return self.open(
            lambda **ours: dialect.connect(*arguments, **{**keywords, **ours, "factory": factory}), keywords
        )

    def open(self, connect: Callable[..., Any], keywords: Mapping[str, Any]) -> Any:
        known = {name: keywords[name] for name in ("timeout", "detect_types") if name in keywords}
        connector = self._database.connector
        assert connector is not None  # noqa: S101  # every SQLite database has one
        return connector.open_with(lambda timeout: connect(timeout=timeout), arguments_of(known))[0]


class _Counter:
    """A pool that SQLAlchemy keeps, in our figures."""

    def __init__(self, engine: Engine, time_by_events: Callable[[], None]) -> None:
        from sqlalchemy import event

        self._engine = ref(engine)
        self._time_by_events = time_by_events
        self._requests = self._immediate = self._opened = self._lost = 0
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "checkout", self._on_checkout)
        event.listen(engine, "invalidate", self._on_invalidate)

    def _on_connect(self, connection: Any, record: Any) -> None:
        record.info[_FRESH] = True
        self._opened += 1

    def _on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:
        self._requests += 1
        if not record.info.pop(_FRESH, False):
            self._immediate += 1
        if isinstance(connection, sqlite3.Connection) and not isinstance(connection, Connection):
            # Opened by a creator= of the app's own, or before we came.
            self._time_by_events()

    def _on_invalidate(self, connection: Any, record: Any, error: Any) -> None:
        self._lost += error is not None

    def stats(self) -> PoolStats:
        engine = self._engine()
        pool = None if engine is None else engine.pool
        size, idle, lent = (getattr(pool, name, int)() for name in ("size", "checkedin", "checkedout"))
        return PoolStats(
            pool_max=size + max(0, getattr(pool, "_max_overflow", 0)),
            pool_size=max(0, idle + lent),
            pool_available=max(0, idle),
            requests_num=self._requests,
            requests_immediate=self._immediate,
            connections_num=self._opened,
            connections_lost=self._lost,
        )


class _EventTiming:
    """Times statements by SQLAlchemy's events, where the connection is not of our class."""

    def __init__(self, engine: Engine, database: Database) -> None:
        from sqlalchemy import event

        self._record = database.road.record
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "handle_error", self._failed)

    def _before(self, connection: Any, *_: Any) -> None:
        if not isinstance(connection.connection.dbapi_connection, Connection):
            connection.info.setdefault(_STARTED, []).append(perf_counter())

    def _after(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        started = connection.info.get(_STARTED)
        if started:
            self._record(statement, perf_counter() - started.pop(), cursor.rowcount, None, False)

    def _failed(self, context: Any) -> None:
        started = context.connection.info.get(_STARTED) if context.connection is not None else None
        if started and context.statement is not None:
            error = type(context.original_exception).__name__
            self._record(context.statement, perf_counter() - started.pop(), -1, error, False)


def _watch(optimizer: Optimizer, engine: Engine, database: Database) -> None:
    """Count the engine's pool, and keep its connections out of forked children."""
    timing: list[_EventTiming] = []

    def time_by_events() -> None:
        if not timing:
            timing.append(_EventTiming(engine, database))

    if database.connector is None:
        time_by_events()
    database.pools.append(_Counter(engine, time_by_events).stats)
    weak = ref(engine)

    def dispose(close: bool) -> None:
        # A database in memory is its connection: there is nothing that could be opened again.
        if (alive := weak()) is not None and database.path is not None:
            alive.dispose(close=close)

    optimizer.parent_duties.append(partial(dispose, True))
    optimizer.child_duties.append(partial(dispose, False))
