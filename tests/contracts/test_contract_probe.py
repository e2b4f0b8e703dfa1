"""What the cache's promise leans on: a half-read cursor is recognised, on every SQLite we run on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite import connection as connections


def app_on(tmp_path: Path, **config: object) -> Flask:
    app = Flask("probe", instance_path=str(tmp_path / "instance"))
    app.config.update(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / 'app.db'}", **config)
    return app


def test_a_half_read_cursor_is_told_from_none(tmp_path: Path) -> None:
    app = app_on(tmp_path)
    dbopt = DBOptimizer(app, database=tmp_path / "app.db")
    with dbopt.borrow() as connection:
        connection.executescript("CREATE TABLE word (text); INSERT INTO word VALUES ('a'), ('b')")
        assert connection.is_idle()
        half_read = connection.execute("SELECT text FROM word")
        assert not connection.is_idle()
        assert half_read.fetchall() == [("a",), ("b",)]
        assert connection.is_idle()
    dbopt.optimizer.close()


def test_where_it_could_not_be_told_no_connection_counts_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_is_idle", lambda connection: True)  # a SQLite that looks at the name first
    connections._probe_tells.cache_clear()
    try:
        connection = sqlite3.connect(":memory:", factory=connections.Connection)
        assert not connection.is_idle()
        connection.close()
    finally:
        connections._probe_tells.cache_clear()


def test_a_new_database_joins_wal_under_sqlalchemy_as_soon_as_there_is_something_in_it(tmp_path: Path) -> None:
    app = app_on(tmp_path)
    db = SQLAlchemy(app)
    dbopt = DBOptimizer(app)
    with app.app_context():
        db.session.execute(text("CREATE TABLE word (text)"))
        db.session.commit()
    with app.app_context():
        assert db.session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert db.session.execute(text("PRAGMA synchronous")).scalar() == 1
        db.session.remove()
        db.engine.dispose()
    dbopt.optimizer.close()


def test_without_the_monitor_requests_are_not_counted_either(tmp_path: Path) -> None:
    app = app_on(tmp_path, DBOPT_MONITOR_ENABLED=False)
    dbopt = DBOptimizer(app, database=tmp_path / "app.db")
    app.add_url_rule("/", view_func=lambda: str(dbopt.connection.execute("SELECT 1").fetchone()[0]))
    assert app.test_client().get("/").text == "1"
    assert dbopt.monitor.endpoints() == []
    assert dbopt.monitor.queries() == []
    dbopt.optimizer.close()
