"""The road of one query: where cache, pool and recorder meet the driver's classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from flask_dbopt.databases import Database, borrower
from flask_dbopt.engines.sqlite.connection import Connection
from flask_dbopt.engines.sqlite.connector import Arguments, arguments_of
from flask_dbopt.errors import ConfigurationError
from flask_dbopt.monitor.recorder import Recorder
from flask_dbopt.settings import Settings


class Road:
    """What one database's statements pass: the cache before they run, the recorder after."""

    __slots__ = ("learn", "look", "record", "worthy")

    def __init__(
        self,
        look: Callable[..., Any] | None,
        worthy: Container[str],
        learn: Callable[..., Any],
        record: Callable[..., list[Any]],
    ) -> None:
        self.look = look
        self.worthy = worthy
        self.learn = learn
        self.record = record


def build_road(settings: Settings, recorder: Recorder, database: Database) -> Road:
    """The road of ``database``; a room that is switched off is not on it."""
    shelf = database.shelf
    record = partial(recorder.record, database=database.name) if settings.monitor_enabled else _unrecorded
    if shelf is None or not settings.cache_enabled:
        return Road(None, (), _unlearned, record)
    return Road(shelf.look, shelf.worthy, shelf.learn, record)


def _unrecorded(
    sql: str, seconds: float, rows: int, error: str | None, cached: bool, started: float = 0.0
) -> list[Any]:
    return [sql, seconds, rows, error, cached, started]


def _unlearned(sql: str, seconds: float, before: float = 0.0) -> None: ...


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
