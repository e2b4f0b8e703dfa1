"""The road of one query: where cache, pool and recorder meet the driver's classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask_dbopt.databases import Database, borrower
from flask_dbopt.engines.sqlite.connection import Connection
from flask_dbopt.engines.sqlite.connector import Arguments, arguments_of
from flask_dbopt.engines.sqlite.road import Road
from flask_dbopt.errors import ConfigurationError
from flask_dbopt.monitor.guard import Guard, Origin, Values
from flask_dbopt.monitor.places import place
from flask_dbopt.monitor.recorder import Recorder
from flask_dbopt.settings import Settings
from flask_dbopt.signals import Emit


def build_road(
    settings: Settings, recorder: Recorder, database: Database, *, inspect: Callable[[str], bool] | None = None
) -> Road:
    """The road of ``database``: ``inspect`` (the guard) and the cache before its statements, the recorder after."""
    road = Road()
    road.inspect = inspect
    if settings.monitor_enabled:
        road.record = recorder.recording(database.name)
        road.places, road.sight, road.sample = recorder.places, recorder.sight, recorder.sample
        road.slow = road.notable = settings.monitor_slow_seconds
        road.keeps_parameters = settings.monitor_record_params
    shelf = database.shelf
    if shelf is not None and settings.cache_enabled:
        road.look, road.worthy, road.learn = shelf.look, shelf.worthy, shelf.learn
        road.notable = min(road.notable, shelf.worth)
    return road


def build_guard(
    values: Callable[[], Values | None], is_own: Origin, settings: Settings, recorder: Recorder, emit: Emit
) -> Guard | None:
    """Who looks at statements for values of the request; None where nobody does."""
    if not settings.enabled or settings.monitor_guard == "off":
        return None
    places = recorder.places
    return Guard(settings.monitor_guard, values, is_own=is_own, place=lambda sql: places.get(sql) or place(), emit=emit)


#: One ``Arguments`` for each set of keywords an app uses: a handful, and building one costs 2 µs.
_keys: dict[tuple[Any, ...], Arguments] = {}


def key_of(keywords: dict[str, Any], *, readonly: bool = False) -> Arguments:
    """The pool's key for the arguments of one ``connect``."""
    shape = (readonly, *keywords.items())
    try:
        return _keys[shape]
    except KeyError:
        key = arguments_of(dict(keywords), readonly=readonly)
    if len(_keys) < 100:
        _keys[shape] = key
    return key


def lend(database: Database, key: Arguments, *, context: Any = None, place: str | None = None) -> Any:
    """A connection to ``database`` that must not outlive ``context``; its ``close()`` gives it back.

    Not pooled, and closed for real: a database in memory, a class of the app's own, a ``place`` (URI) with a query.
    """
    if database.connector is None:
        raise ConfigurationError(
            f"connect() opens SQLite databases, and {database.name!r} is {database.kind}",
            hint="use it through SQLAlchemy: its engine is timed as well",
        )
    if database.pool is None or key.factory is not None:
        return database.connector.open(key)[0]
    if place is not None:
        return database.connector.elsewhere(place).open(key)[0]
    return database.pool.lend(key, context=context, borrower=borrower())


@contextmanager
def transaction(connection: Any) -> Iterator[Any]:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the block raises.

    IMMEDIATE, because a deferred transaction that comes to write after another did fails at once, without waiting.
    """
    if isinstance(connection, Connection):
        connection.begin_immediate()
    else:
        connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def place_of(database: str | os.PathLike[str]) -> tuple[str, str]:
    """A path or database URL as (kind, place): ``sqlite:///x.db`` and ``x.db`` are the same SQLite file."""
    text = os.fspath(database)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        return "sqlite", text
    kind = scheme.partition("+")[0]
    if kind == "sqlite":
        return kind, rest.removeprefix("/").partition("?")[0] or ":memory:"
    return kind, text
