"""SQLAlchemy engines, found or attached: on SQLite their connections are of our class, elsewhere they are timed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Engine, Pool, event
from sqlalchemy.pool import QueuePool

from flask_dbopt.bridges.sqlalchemy_pool import FairPool, Lender, successor, suits
from flask_dbopt.bridges.sqlalchemy_records import EngineConnector, Record
from flask_dbopt.bridges.sqlalchemy_timing import Timing
from flask_dbopt.databases import Database
from flask_dbopt.engines.sqlite.connection import Connection, joined_connection
from flask_dbopt.engines.sqlite.connector import arguments_of
from flask_dbopt.errors import ConfigurationError
from flask_dbopt.optimizer import Optimizer
from flask_dbopt.pool.stats import PoolStats

#: Engines that are looked after already, by anybody in this process.
_attached: WeakKeyDictionary[Any, _Attachment] = WeakKeyDictionary()

#: Our place in a record's ``info``.
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
    main_first = sorted(engines.items(), key=lambda bind: bind[0] not in (None, "default"))
    return {"default" if key is None else str(key): engine for key, engine in main_first}


def attach(optimizer: Optimizer, engine: Any, name: str = "default") -> Database:
    """Look after ``engine``; again, and nothing more happens. ConfigurationError for what is no plain Engine."""
    if not isinstance(engine, Engine):
        is_async = hasattr(engine, "sync_engine")
        raise ConfigurationError(
            f"attach() takes a SQLAlchemy Engine, not {type(engine).__name__}",
            hint="async engines run their statements where we can't time them" if is_async else "pass create_engine(…)",
        )
    engine = getattr(engine, "_proxied", engine)  # one with execution options of its own has another's pool
    attachment = _attached.get(engine)
    if attachment is not None and attachment.is_alive():
        return attachment.database_of(optimizer, engine, name)
    if attachment is not None:  # its app is gone, but the engine is a module's own and stays
        attachment.end(engine)
    database = adopt(optimizer, engine, name)
    _attached[engine] = _Attachment(optimizer, engine, database)
    return database


def adopt(optimizer: Optimizer, engine: Engine, name: str) -> Database:
    """Know the engine's database, and leave the engine alone."""
    if engine.dialect.name == "sqlite" and engine.dialect.driver == "pysqlite":
        (place, *_), _ = engine.dialect.create_connect_args(engine.url)
        return optimizer.databases.adopt(name, place or ":memory:")
    return optimizer.databases.adopt_foreign(name, engine.dialect.name, partial(_beside_the_pool, ref(engine)))


def _beside_the_pool(engine: ref[Engine]) -> Any:
    """A connection of the engine's driver that no pool knows of; whoever asks has to close it."""
    alive = engine()
    if alive is None:
        raise ConnectionError("its engine is gone")
    return alive.pool._creator()  # type: ignore[call-arg]  # what create_engine() gives the pool takes a record or none


def engine_options(optimizer: Optimizer, database: Database) -> dict[str, Any]:
    """Options for ``create_engine``: connections from a pool of ours, on SQLite tuned, timed, answered by the cache."""
    options: dict[str, Any] = {}
    if suits(None, database):
        options = {"poolclass": FairPool, "lender": lender_of(optimizer, database)}
    if database.connector is not None:
        opener = _Opener(database)

        def factory(*arguments: Any, **keywords: Any) -> Any:
            return opener.open(lambda **ours: Connection(*arguments, **{**keywords, **ours}), keywords)

        options["connect_args"] = {"factory": factory}
    return options


def lender_of(optimizer: Optimizer, database: Database) -> Lender:
    """Makes pools on ``database``, as the app's settings want them."""
    return partial(optimizer.databases.build_pool, database, EngineConnector(database))


class _Opener:
    """Opens an engine's connections: of our class, tuned before the app's own ``connect`` listeners have their say."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, dialect: Any, record: Any, arguments: Any, keywords: Mapping[str, Any]) -> Any:
        listeners = list(dialect.dispatch.do_connect)
        for later in listeners[listeners.index(self) + 1 :]:  # the first that opens one ends SQLAlchemy's round
            connection = later(dialect, record, arguments, keywords)
            if connection is not None:
                return connection
        if isinstance(record, Record) and keywords.get("check_same_thread", True):
            # It is looked at and closed by the housekeeper's thread too; ours raises by itself for the borrower.
            keywords, record.is_for_one_thread = {**keywords, "check_same_thread": False}, True
        factory = joined_connection(keywords.get("factory"))
        return self.open(
            lambda **ours: dialect.connect(*arguments, **{**keywords, **ours, "factory": factory}), keywords
        )

    def open(self, connect: Callable[..., Any], keywords: Mapping[str, Any]) -> Any:
        known = {name: keywords[name] for name in ("timeout", "detect_types") if name in keywords}
        connector = self._database.connector
        assert connector is not None  # noqa: S101  # every SQLite database has one
        return connector.open_with(lambda timeout: connect(timeout=timeout), arguments_of(known))[0]


class _Attachment:
    """One engine in the care of one optimizer, until either is gone. It holds neither."""

    def __init__(self, optimizer: Optimizer, engine: Engine, database: Database) -> None:
        self._optimizer = ref(optimizer)
        self._engine = ref(engine)
        self._database = database
        self._others: WeakKeyDictionary[Optimizer, Database] = WeakKeyDictionary()
        """What other optimizers call its database."""
        self._listeners: list[tuple[str, Callable[..., Any]]] = []
        self._counter: _Counter | None = None
        self._untimed = [database]
        """Whoever takes it out of here, and only he, sees to it that statements are timed."""
        self._timing: Timing | None = None
        if database.connector is None:
            self._time_by_events()
        else:
            self._listen("do_connect", _Opener(database))
        seconds = optimizer.settings.monitor_statement_timeout
        if seconds is not None and engine.dialect.name == "postgresql":
            self._listen("connect", partial(_limit, round(seconds * 1000)))
        if suits(engine.pool, database):
            self._listen("connect", self._look_at)
            self._lend(optimizer, engine)
        else:
            self._count(optimizer, engine)

    def _lend(self, optimizer: Optimizer, engine: Engine) -> None:
        """Put a pool of ours in the place of the engine's, unless it was made with one."""
        before: Any = engine.pool
        if not (isinstance(before, FairPool) and before.lender in self._database.pools):
            engine.pool = successor(before, lender_of(optimizer, self._database))
            before.dispose()

    def _count(self, optimizer: Optimizer, engine: Engine) -> None:
        """Leave the engine the pool that it has, and count what happens there."""
        counter = self._counter = _Counter(engine, self._look_at)
        if self._database.connector is not None:
            self._listen("checkin", self._tune_again)
        self._listen("connect", counter.on_connect)
        self._listen("checkout", counter.on_checkout)
        self._listen("invalidate", counter.on_invalidate)
        self._database.pools.add(counter)
        optimizer.parent_duties.append(partial(self._dispose, close=True))
        optimizer.child_duties.append(partial(self._dispose, close=False))
        if isinstance(engine.pool, QueuePool) and engine.pool.checkedin() and self._database.connector is not None:
            # These were opened before we came. Other pools keep theirs: a database in memory is its connection.
            engine.dispose()

    def is_alive(self) -> bool:
        optimizer = self._optimizer()
        return optimizer is not None and optimizer.is_open

    def database_of(self, optimizer: Optimizer, engine: Engine, name: str) -> Database:
        """The database as this optimizer knows it; only the first one times its statements."""
        if optimizer is self._optimizer():
            return self._database
        if optimizer not in self._others:
            self._others[optimizer] = adopt(optimizer, engine, name)
        return self._others[optimizer]

    def end(self, engine: Engine) -> None:
        """Leave the engine as it was, for another optimizer; its connections are opened anew when they come back."""
        for name, listener in self._listeners:
            event.remove(engine, name, listener)
        if self._timing is not None:
            self._timing.step_aside()
        if self._counter is not None:
            self._database.pools.discard(self._counter)

    def _tune_again(self, connection: Any, record: Any) -> None:
        """A new database is empty when its first connections are opened: they join WAL once there is something."""
        if isinstance(connection, Connection) and self._database.connector is not None:
            with suppress(sqlite3.Error):
                self._database.connector.tune_again(connection)

    def _listen(self, name: str, listener: Callable[..., Any]) -> None:
        event.listen(self._engine(), name, listener)
        self._listeners.append((name, listener))

    def _look_at(self, connection: Any, record: Any = None) -> None:
        """A connection that a ``creator=`` of the app's own has opened, or that is from before we came."""
        if isinstance(connection, sqlite3.Connection) and not isinstance(connection, Connection):
            self._time_by_events()

    def _time_by_events(self) -> None:
        engine = self._engine()
        if engine is None:
            return
        try:
            timing = self._timing = Timing(self._untimed.pop(), engine.dialect)
        except IndexError:
            return
        timing.stand_in()
        for name, listener in timing.listeners.items():
            self._listen(name, listener)

    def _dispose(self, *, close: bool) -> None:
        """Before and after a fork. A database in memory is its connection: there is nothing to open again."""
        engine, database = self._engine(), self._database
        if engine is not None and (database.path is not None or database.connector is None):
            engine.dispose(close=close)


class _Counter:
    """A pool that SQLAlchemy keeps, in our figures."""

    def __init__(self, engine: Engine, look_at: Callable[[Any], None]) -> None:
        self._engine = ref(engine)
        self._look_at = look_at
        self._requests = self._immediate = self._opened = self._lost = 0

    def on_connect(self, connection: Any, record: Any) -> None:
        record.info[_FRESH] = True
        self._opened += 1

    def on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:
        self._requests += 1
        if not record.info.pop(_FRESH, False):
            self._immediate += 1
        self._look_at(connection)

    def on_invalidate(self, connection: Any, record: Any, error: Any) -> None:
        self._lost += error is not None

    def stats(self) -> PoolStats:
        engine = self._engine()
        pool = None if engine is None else engine.pool
        size, idle, lent = (_figure(pool, name) for name in ("size", "checkedin", "checkedout"))
        most = size + max(0, getattr(pool, "_max_overflow", 0))
        return PoolStats(
            pool_max=most,
            pool_size=max(0, idle + lent),
            pool_available=max(0, idle),
            requests_num=self._requests,
            requests_immediate=self._immediate,
            connections_num=self._opened,
            connections_lost=self._lost,
        )


def _figure(pool: Pool | None, name: str) -> int:
    """Some pools have no such figure, and some keep it in an attribute."""
    figure = getattr(pool, name, 0)
    return int(figure() if callable(figure) else figure)


def _limit(milliseconds: int, connection: Any, record: Any) -> None:
    """Let PostgreSQL end statements that take longer. Committed, since a rollback would undo it."""
    cursor = connection.cursor()
    cursor.execute(f"SET statement_timeout = {milliseconds}")
    cursor.close()
    connection.commit()
