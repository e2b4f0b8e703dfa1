"""Gives an existing Flask app its optimizer: the one line, and the connections that an app context borrows."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, ref

from flask import Flask
from flask.globals import _cv_app

from flask_dbopt import admin, signals
from flask_dbopt.bridges import server_timing
from flask_dbopt.bridges.apscheduler import Schedule
from flask_dbopt.bridges.origins import is_own
from flask_dbopt.bridges.requests import Closer, Listener
from flask_dbopt.bridges.values import request_values
from flask_dbopt.connection import build_guard, build_road, key_of, lend, place_of, transaction
from flask_dbopt.databases import Database
from flask_dbopt.engines.sqlite.connector import Arguments
from flask_dbopt.errors import ConfigurationError
from flask_dbopt.health import Health
from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.optimizer import Optimizer
from flask_dbopt.report import Report, build
from flask_dbopt.settings import resolve
from flask_dbopt.settings.alert_rules import ALERT_RULES, nearest

if TYPE_CHECKING:
    from flask_dbopt.advisor.advisor import Advisor
    from flask_dbopt.backup.backups import Backups
    from flask_dbopt.cache.cache import Cache
    from flask_dbopt.monitor.alerts import Alert
    from flask_dbopt.monitor.monitor import Monitor
    from flask_dbopt.pool.pool import Pool
    from flask_dbopt.testing import Queries

Room = TypeVar("Room")

#: Sets of arguments to ``connect()`` whose way to the pool is remembered; an app uses a handful.
_MOST_KNOWN = 100


class DBOptimizer:
    """The extension. One object may serve many apps; what belongs to an app is ``app.extensions["dbopt"]``.

    ``settings`` are the code's own defaults by their short names (``pool_max=8``): the app's config and the
    environment win over them. Raises ConfigurationError, with every fault at once.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        database: str | os.PathLike[str] | None = None,
        engine: Any = None,
        **settings: Any,
    ) -> None:
        if database is not None:
            settings["database"] = os.fspath(database)
        self._settings = settings
        self._engine = engine
        self._admin_hook: Callable[[], object] | None = None
        self._receivers: list[Callable[..., None]] = []
        self._optimizers: WeakKeyDictionary[Flask, Optimizer] = WeakKeyDictionary()
        self._known_loans: dict[tuple[Any, ...], tuple[ref[Flask], Mapping[str, Database], int, Pool, Arguments]] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give ``app`` its optimizer. Nothing starts before the first request; nothing touches the database."""
        if "dbopt" in app.extensions:
            raise RuntimeError("DBOptimizer is already initialised on this app; init_app is called once for each app")
        resolved = resolve(app.config, os.environ, self._settings)
        settings, sources = resolved.settings, dict(resolved.sources)
        instance = Path(app.instance_path)
        # A test suite makes many apps, whose figures nobody reads: they leave nothing behind, and run no thread.
        is_quiet = app.testing and sources["state_dir"] == "default"
        app_ref = ref(app)
        optimizer = Optimizer(
            app.name,
            settings,
            sources,
            unheeded=[f"DBOPT_{name.upper()} has no effect in this version yet" for name in resolved.unheeded],
            state_dir=None if is_quiet or not settings.enabled else instance / settings.state_dir,
            backup_dir=instance / settings.backup_dir,
            log_dir=instance / settings.log_dir if settings.log_dir and settings.enabled else None,
            build_road=build_road,
            build_guard=partial(build_guard, request_values, is_own),
            emit=partial(_emit, app_ref),
            in_background=not app.testing,
        )
        app.extensions["dbopt"] = optimizer
        optimizer.listen(app)
        self._optimizers[app] = optimizer
        self._known_loans.clear()
        if settings.database is not None:
            adopt(optimizer, "default", settings.database)
        for name, place in settings.databases.items():
            adopt(optimizer, name, place)
        if settings.enabled:
            optimizer.keep_schedule(Schedule(app.name, may_run=lambda: optimizer.lease.held))
            app.extensions["dbopt_listener"] = Listener(app, optimizer, lambda: settle(app_ref(), optimizer))
            if settings.monitor_enabled:
                server_timing.register(app)
            if self._engine is not None:
                self.attach(self._engine)
            if settings.admin_enabled:
                optimizer.tidings.page = _address(app, settings.admin_url)
                admin.register(app, optimizer, hook=lambda: self._admin_hook)
        else:
            app.extensions["dbopt_listener"] = Closer(app)

    # --- connections ---

    def connect(self, name: str | None = None, *, readonly: bool = False, **arguments: Any) -> Any:
        """A pooled ``sqlite3.Connection``; ``arguments`` are those of ``sqlite3.connect``, less the path.

        Its ``close()`` gives it back; inside an app context, the context's end does so for what was forgotten.
        Raises PoolTimeout, DatabaseUnavailable, or ConfigurationError when there is no such SQLite database.
        """
        context: Any = _cv_app.get(None)
        shape = (name, readonly, *arguments.items()) if arguments else (name, readonly)
        known = self._known_loans.get(shape)
        if known is not None:
            app_ref, databases, count, pool, key = known
            app = app_ref()
            if app is not None and (context is None or context.app is app) and len(databases) == count:
                if context is not None:
                    context._dbopt_loans = True
                return pool.lend(key, context, CURRENT.get())
        database = self._database(name, context)
        if database.pool is None and not self._optimizer(context).settings.enabled:
            return plain_connection(database, readonly, arguments)
        if context is not None:
            context._dbopt_loans = True
        key = key_of(arguments, readonly=readonly)
        self._know_loan(shape, database, key)
        return lend(database, key, context=context)

    def _know_loan(self, shape: tuple[Any, ...], database: Database, key: Arguments) -> None:
        """Remember where connections of these arguments come from, until there is another app or database."""
        if database.pool is None or key.factory is not None or len(self._optimizers) != 1:
            return
        if len(self._known_loans) < _MOST_KNOWN:
            ((app, optimizer),) = self._optimizers.items()
            self._known_loans[shape] = ref(app), optimizer.databases, len(optimizer.databases), database.pool, key

    @property
    def connection(self) -> Any:
        """The app context's own connection: one loan a context, given back (and rolled back) when it ends."""
        context: Any = _cv_app.get(None)
        if context is None:
            raise RuntimeError("dbopt.connection needs an app context; outside one, use: with dbopt.borrow() as …")
        kept = getattr(context, "_dbopt_connection", None)
        if kept is None or _is_closed(kept):
            kept = context._dbopt_connection = self.connect()
        return kept

    @contextmanager
    def borrow(self, name: str | None = None) -> Iterator[Any]:
        """A connection for one block, inside an app context or not; rolled back if the block left it dirty."""
        connection = self.connect(name)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def transaction(self, name: str | None = None) -> Iterator[Any]:
        """``BEGIN IMMEDIATE`` … COMMIT on a connection of its own; ROLLBACK when the block raises."""
        with self.borrow(name) as connection, transaction(connection):
            yield connection

    def attach(self, engine: Any, name: str | None = None) -> None:
        """Look after a SQLAlchemy engine: SQLite connections are tuned, timed and cached; others are timed."""
        from flask_dbopt.bridges import sqlalchemy

        optimizer = self._optimizer(_cv_app.get(None))
        if optimizer.settings.enabled:
            with optimizer.databases.finding:
                sqlalchemy.attach(optimizer, engine, name or "default")

    def engine_options(self, name: str | None = None) -> dict[str, Any]:
        """Keyword arguments for ``create_engine`` on the database's URL; as ``attach`` for a new engine."""
        from flask_dbopt.bridges import sqlalchemy

        context = _cv_app.get(None)
        optimizer = self._optimizer(context)
        if not optimizer.settings.enabled:
            return {}
        return sqlalchemy.engine_options(optimizer, self._database(name, context))

    # --- the rooms ---

    @property
    def optimizer(self) -> Optimizer:
        """All that the current app has of us."""
        return self._optimizer(_cv_app.get(None))

    @property
    def pool(self) -> Pool:
        database = self._database(None, _cv_app.get(None))
        return _there("pool", database.pool or database.engine_pool)

    @property
    def cache(self) -> Cache:
        return self.optimizer.cache

    @property
    def monitor(self) -> Monitor:
        return self.optimizer.monitor

    @property
    def advisor(self) -> Advisor:
        return _there("advisor", self._database(None, _cv_app.get(None)).advisor)

    @property
    def backups(self) -> Backups:
        return _there("backups", self._database(None, _cv_app.get(None)).backups)

    def report(self, since: float | None = None) -> Report:
        """Every figure, as the page, the JSON and the CLI show them; ``since`` in unix seconds."""
        return build(self.optimizer, since=since)

    def health(self) -> Health:
        """For a load balancer: ok or degraded, and why."""
        return self.optimizer.health()

    # --- tests ---

    def assert_max_queries(self, most: int) -> Queries:
        """``with dbopt.assert_max_queries(5): …`` raises AssertionError, with the list, when more queries ran."""
        from flask_dbopt.testing import Queries

        return Queries(self.optimizer, most)

    def count_queries(self) -> Queries:
        """``with dbopt.count_queries() as ran: …``: the queries that run in the block."""
        from flask_dbopt.testing import Queries

        return Queries(self.optimizer)

    # --- decorators ---

    def admin_auth(self, check: Callable[[], object]) -> Callable[[], object]:
        """Let ``check`` (called in the request) decide who may open the admin page."""
        self._admin_hook = check
        return check

    def on_alert(self, rule: str | None = None) -> Callable[[Callable[[Alert], object]], Callable[[Alert], object]]:
        """Call the decorated function with each Alert that ``rule`` raises, in the worker that evaluates alerts.

        None or "*": whatever the rule. Raises ConfigurationError when there is no such rule.
        """
        if rule not in (None, "*", *ALERT_RULES):
            raise ConfigurationError(f"there is no alert rule {rule!r}", hint=f"the nearest is {nearest(str(rule))!r}")

        def decorate(receiver: Callable[[Alert], object]) -> Callable[[Alert], object]:
            def receive(app: Flask, alert: Alert) -> None:
                if rule in (None, "*", alert.rule) and app in self._optimizers:
                    receiver(alert)

            self._receivers.append(receive)
            signals.alert_raised.connect(receive)
            return receiver

        return decorate

    # --- which app ---

    def _optimizer(self, context: Any) -> Optimizer:
        """The current app's optimizer; outside an app context, the only one there is."""
        if context is not None:
            found = self._optimizers.get(context.app)
            if found is not None:
                return found
        known = list(self._optimizers.values())
        if len(known) == 1 and context is None:
            return known[0]
        if not known:
            raise RuntimeError("this DBOptimizer has no app yet; call init_app(app) first")
        raise RuntimeError(
            "this DBOptimizer serves several apps; use it inside an app context"
            if context is None
            else f"this DBOptimizer was not initialised on the app {context.app.name!r}; call init_app(app)"
        )

    def _database(self, name: str | None, context: Any) -> Database:
        optimizer = self._optimizer(context)
        if (name or "default") not in optimizer.databases:
            app = next(app for app, known in self._optimizers.items() if known is optimizer)
            with app.app_context():
                settle(app, optimizer)
        return optimizer.databases.named(name)


def adopt(optimizer: Optimizer, name: str, database: str | os.PathLike[str]) -> None:
    """Take care of a path or database URL."""
    kind, place = place_of(database)
    if kind == "sqlite":
        optimizer.databases.adopt(name, place)
    else:
        optimizer.databases.adopt_foreign(name, kind)


def settle(app: Flask | None, optimizer: Optimizer) -> None:
    """Find the databases that the app has set up by now; in its context. Each is taken once."""
    if app is None:
        return
    with optimizer.databases.finding:
        extension = app.extensions.get("sqlalchemy")
        if extension is not None:
            from flask_dbopt.bridges import sqlalchemy

            care = sqlalchemy.attach if optimizer.settings.enabled else sqlalchemy.adopt
            for name, engine in sqlalchemy.find(extension).items():
                care(optimizer, engine, name)
        place = app.config.get("DATABASE")
        if "default" not in optimizer.databases and isinstance(place, (str, os.PathLike)):
            adopt(optimizer, "default", place)


def plain_connection(database: Database, readonly: bool, arguments: dict[str, Any]) -> sqlite3.Connection:
    """Switched off: what the app would have had without us."""
    if database.connector is None:
        raise ConfigurationError(f"connect() opens SQLite databases, and {database.name!r} is {database.kind}")
    place, uri = database.connector.target(readonly=readonly)
    known = {name: value for name, value in arguments.items() if name != "statement_timeout"}
    connection: sqlite3.Connection = sqlite3.connect(place, **{**known, "uri": uri})
    return connection


def _address(app: Flask, path: str) -> str | None:
    """Where ``path`` is found from outside, if the app's config tells."""
    server, scheme = app.config.get("SERVER_NAME"), app.config.get("PREFERRED_URL_SCHEME") or "http"
    root = (app.config.get("APPLICATION_ROOT") or "/").rstrip("/")
    return f"{scheme}://{server}{root}{path}" if server else None


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018  # which a closed connection refuses
    except sqlite3.ProgrammingError:
        return True
    return False


def _there(what: str, room: Room | None) -> Room:
    if room is None:
        raise ConfigurationError(
            f"the default database has no {what}", hint="it is no SQLite file, or DBOPT_ENABLED is off"
        )
    return room


def _emit(app_ref: ref[Flask], name: str, **details: Any) -> None:
    app = app_ref()
    if app is not None:
        signals.send(name, app, **details)
