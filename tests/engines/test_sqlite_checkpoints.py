"""Checkpoints by the housekeeper: when there is something to move, among the writers, and nowhere else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite.checkpoints import Checkpoints, worth
from flask_dbopt.engines.sqlite.maintenance import wal_bytes
from flask_dbopt.pool.lane import Lane

LIMIT = 400_000


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    lane = Lane("test", tmp_path / "locks")
    yield lane
    lane.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that never checkpoints by itself."""
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (v BLOB)")
        yield connection


def write(connection: sqlite3.Connection, size: int = 300_000) -> None:
    connection.execute("INSERT INTO t VALUES (zeroblob(?))", (size,))


def test_a_wal_that_is_worth_it_is_moved_into_the_database(tmp_path, writer, lane):
    checkpoints = Checkpoints(tmp_path / "app.db", lane, LIMIT)
    write(writer)
    done = checkpoints.sweep()
    assert done is not None
    assert done.complete
    assert done.moved > 70
    assert lane.turn is None


def test_a_small_wal_is_left_alone(tmp_path, writer, lane):
    checkpoints = Checkpoints(tmp_path / "app.db", lane, LIMIT)
    write(writer, 10_000)
    assert checkpoints.sweep() is None


def test_what_is_done_is_not_done_again_before_the_next_commit(tmp_path, writer, lane):
    checkpoints = Checkpoints(tmp_path / "app.db", lane, LIMIT)
    write(writer)
    assert checkpoints.sweep() is not None
    assert checkpoints.sweep() is None
    for _ in range(2):
        write(writer)
    assert checkpoints.sweep() is not None


def test_who_writes_is_not_disturbed_and_the_next_sweep_does_it(tmp_path, writer, lane, monkeypatch):
    monkeypatch.setattr("flask_dbopt.engines.sqlite.checkpoints._WAIT", 0.05)
    checkpoints = Checkpoints(tmp_path / "app.db", lane, LIMIT)
    write(writer)
    writer.execute("BEGIN IMMEDIATE")
    assert checkpoints.sweep() is None
    writer.execute("COMMIT")
    assert checkpoints.sweep() is not None


def test_a_database_that_is_gone_is_no_failure(tmp_path, writer, lane):
    checkpoints = Checkpoints(tmp_path / "app.db", lane, LIMIT)
    write(writer)
    (tmp_path / "app.db").rename(tmp_path / "elsewhere.db")  # its WAL stays, for a moment
    assert checkpoints.sweep() is None
    (tmp_path / "elsewhere.db").rename(tmp_path / "app.db")


def test_no_limit_leaves_everything_to_sqlite(tmp_path, writer, lane):
    write(writer)
    assert Checkpoints(tmp_path / "app.db", lane, 0).sweep() is None


def test_sqlites_own_default_is_what_is_worth_a_checkpoint_where_there_is_room():
    assert worth(64 << 20) == 4 << 20
    assert worth(1 << 20) == 1 << 19


@pytest.fixture
def make_app(tmp_path: Path, writer: sqlite3.Connection) -> Iterator[Callable[..., Any]]:
    apps: list[Flask] = []

    def make(**config: Any) -> Any:
        app = Flask(f"checkpoints-{len(apps)}", instance_path=str(tmp_path / "instance"))
        app.config.update(DBOPT_BACKUP_ENABLED=False, DBOPT_POOL_MIN=0, **config)
        dbopt = DBOptimizer(app, database=tmp_path / "app.db")
        apps.append(app)

        @app.get("/pragmas")
        def pragmas() -> list[int]:
            names = ("wal_autocheckpoint", "journal_size_limit")
            return [dbopt.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

        return app

    yield make
    for app in apps:
        app.extensions["dbopt"].close()


def pragmas(app: Any) -> Any:
    return app.test_client().get("/pragmas").json


def test_where_a_housekeeper_runs_commits_do_not_checkpoint(make_app):
    assert pragmas(make_app()) == [(64 << 20) // 4096, 4 << 20]
    assert pragmas(make_app(DBOPT_SQLITE_WAL_LIMIT=1 << 20)) == [256, 1 << 19]


@pytest.mark.parametrize("config", [{"TESTING": True}, {"DBOPT_ENABLED": False}, {"DBOPT_SQLITE_WAL_LIMIT": 0}])
def test_elsewhere_sqlites_default_stays(make_app, config):
    assert pragmas(make_app(**config)) == [1000, -1]


def test_what_the_app_asked_for_wins(make_app):
    asked = {"wal_autocheckpoint": 17, "journal_size_limit": None}
    assert pragmas(make_app(DBOPT_SQLITE_PRAGMAS=asked)) == [17, -1]


def test_a_script_without_requests_keeps_sqlites_default(make_app):
    app = make_app()
    with app.app_context(), closing(app.extensions["dbopt"].default.connector.open(arguments())[0]) as connection:
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (1000,)


def arguments() -> Any:
    from flask_dbopt.engines.sqlite.connector import Arguments

    return Arguments()


def test_the_lease_holder_checkpoints(make_app, tmp_path, writer):
    app = make_app(TESTING=False, DBOPT_SQLITE_WAL_LIMIT=LIMIT)
    optimizer = app.extensions["dbopt"]
    write(writer)
    pages = (tmp_path / "app.db").stat().st_size
    optimizer.wake()  # as the first request does: takes the lease, and checkpoints
    until = time.monotonic() + 20
    while (tmp_path / "app.db").stat().st_size < pages + 300_000:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert wal_bytes(tmp_path / "app.db") > 0
