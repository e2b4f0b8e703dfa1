"""``from flask_dbopt import sqlite3``: the stdlib's module, but for where its connections come from."""

from __future__ import annotations

import contextlib
import inspect
import os
import sqlite3 as stdlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g

from flask_dbopt import DBOptimizer, sqlite3
from flask_dbopt.engines.sqlite.connection import Connection


def test_every_name_of_the_stdlibs_is_there() -> None:
    for name in (*dir(stdlib), "dbapi2", "PARSE_DECLTYPES", "Row", "SQLITE_DENY"):
        if not name.startswith("__") and name != "connect":
            assert getattr(sqlite3, name) is getattr(stdlib, name)
    with pytest.raises(AttributeError):
        sqlite3.nonsense


def test_connect_looks_like_the_stdlibs() -> None:
    try:
        expected = inspect.signature(stdlib.connect)
    except ValueError:
        return  # CPython 3.11 cannot tell
    assert inspect.signature(sqlite3.connect) == expected


@pytest.mark.filterwarnings("ignore:Passing more than 1 positional argument:DeprecationWarning")
def test_a_file_that_nobody_looks_after_is_the_stdlibs(tmp_path: Path) -> None:
    for place in (tmp_path / "x.db", str(tmp_path / "x.db"), os.fsencode(tmp_path / "x.db"), ":memory:", ""):
        with contextlib.closing(sqlite3.connect(place)) as c:
            assert type(c) is stdlib.Connection
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/x.db?mode=ro", uri=True)) as c:
        assert type(c) is stdlib.Connection
    for wrong in ((), (5, 6, 7), (None,)):
        with pytest.raises(TypeError):
            sqlite3.connect(*wrong)


def linked(path: Path) -> Path:
    """The file by way of a link to its folder."""
    link = path.parent / "link"
    if not link.exists():
        link.symlink_to(path.parent)
    return link / path.name


@pytest.mark.parametrize(
    "name",
    [
        lambda path: path,
        str,
        os.fsencode,
        lambda path: os.path.relpath(path),
        lambda path: f"{path.parent}/./{path.name}",
        lambda path: linked(path),
    ],
)
def test_a_file_that_an_optimizer_looks_after_is_pooled_and_timed(
    dbopt: DBOptimizer, path: Path, name: Callable[[Path], Any]
) -> None:
    for _ in range(3):
        with contextlib.closing(sqlite3.connect(name(path))) as c:
            assert isinstance(c, Connection)
            assert c.execute("SELECT count(*) FROM keyword").fetchone() == (3000,)
        del c
    assert dbopt.pool.stats().connections_num == 1
    assert sum(each.calls for each in dbopt.monitor.queries()) == 3


@pytest.mark.filterwarnings("ignore:Passing more than 1 positional argument:DeprecationWarning")
def test_what_connect_is_given_arrives_by_place_and_by_name(dbopt: DBOptimizer, path: Path) -> None:
    given: list[tuple[Any, dict[str, Any]]] = [
        ((2.0, stdlib.PARSE_DECLTYPES, None, False), {}),
        ((2.0,), {"detect_types": stdlib.PARSE_DECLTYPES, "isolation_level": None, "check_same_thread": False}),
        ((2.0, stdlib.PARSE_DECLTYPES, None, False, stdlib.Connection, 64, False), {}),
    ]
    for places, names in given:
        with contextlib.closing(sqlite3.connect(path, *places, **names)) as c:
            assert isinstance(c, Connection)
            assert c.isolation_level is None
            assert c.execute("PRAGMA busy_timeout").fetchone() == (2000,)
            assert not isinstance(c.execute("SELECT day FROM keyword").fetchone()[0], str)
    with contextlib.closing(sqlite3.connect(database=path)) as c:
        assert isinstance(c, Connection)
    with pytest.raises(TypeError, match="nonsense"):
        sqlite3.connect(path, nonsense=1)


class Own(stdlib.Connection):
    """An app's own."""


def test_the_apps_own_class_wins(dbopt: DBOptimizer, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, factory=Own)) as c:
        assert isinstance(c, Own)
        c.execute("SELECT 1")
    assert dbopt.pool.stats().requests_num == 0
    assert sum(each.calls for each in dbopt.monitor.queries()) == 1


def test_a_uri_goes_where_it_says(dbopt: DBOptimizer, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as c:
        assert isinstance(c, Connection)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            c.execute("DELETE FROM keyword")
    with contextlib.closing(sqlite3.connect(f"file:{path}", uri=True)) as c:
        assert c.execute("SELECT count(*) FROM keyword").fetchone() == (3000,)
    assert dbopt.pool.stats().requests_num == 1, "one with a query of its own is not pooled"
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(f"file:{path}")) as c:
        assert type(c) is stdlib.Connection, "without uri=True it may be a file name"


def test_it_works_inside_an_app_context_and_outside(site: Flask, dbopt: DBOptimizer, path: Path) -> None:
    """As in Flask's tutorial."""

    def get_db() -> Any:
        if "db" not in g:
            g.db = sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES)
            g.db.row_factory = sqlite3.Row
        return g.db

    @site.teardown_appcontext
    def close_db(fault: BaseException | None) -> None:
        db = g.pop("db", None)
        if db is not None:
            assert db.execute("SELECT 1").fetchone()[0] == 1
            db.close()

    @site.get("/")
    def index() -> str:
        return str(get_db().execute("SELECT word FROM keyword").fetchone()["word"])

    for _ in range(3):
        assert site.test_client().get("/").text == "word0000"
    with contextlib.closing(sqlite3.connect(path)) as c:
        assert c.execute("SELECT 1").fetchone() == (1,)


def test_what_a_context_forgets_is_taken_back(site: Flask, dbopt: DBOptimizer, path: Path) -> None:
    with site.app_context():
        forgotten = sqlite3.connect(path)
        forgotten.execute("INSERT INTO note VALUES (1, 'x')")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        forgotten.execute("SELECT 1")


def test_after_the_optimizers_end_it_is_the_stdlibs_again(site: Flask, dbopt: DBOptimizer, path: Path) -> None:
    site.extensions["dbopt"].close()
    with contextlib.closing(sqlite3.connect(path)) as c:
        assert type(c) is stdlib.Connection


def test_switched_off_it_is_the_stdlibs(make_app: Callable[..., Flask], path: Path) -> None:
    DBOptimizer(make_app(DBOPT_DATABASE=str(path), DBOPT_ENABLED=False))
    with contextlib.closing(sqlite3.connect(path)) as c:
        assert type(c) is stdlib.Connection
