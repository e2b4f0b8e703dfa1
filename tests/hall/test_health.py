"""What is said of the databases, and what is not worth saying."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer


@pytest.fixture
def open_shop(tmp_path):
    opened = []

    def begin(database: Path) -> DBOptimizer:
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(TESTING=True, DBOPT_STATE_DIR="state")
        dbopt = DBOptimizer(app, database=database)
        opened.append(app)
        with app.app_context():
            dbopt.connection.execute("SELECT 1").fetchall()
        return dbopt

    yield begin
    for app in opened:
        app.extensions["dbopt"].close()


def test_a_database_that_has_no_table_yet_is_no_matter_for_a_notice(open_shop, tmp_path):
    dbopt = open_shop(tmp_path / "new.db")
    assert dbopt.optimizer.notices() == []
    assert dbopt.health().ok


def test_a_database_that_cannot_be_in_wal_mode_is_one(open_shop, tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as busy:
        busy.execute("CREATE TABLE word (text)")
        busy.execute("BEGIN EXCLUSIVE")
        dbopt = open_shop(path)
        (notice,) = dbopt.optimizer.notices()
    assert notice.startswith("default: PRAGMA journal_mode is ")


def test_a_database_that_went_missing_is_no_health(open_shop, tmp_path):
    path = tmp_path / "shop.db"
    dbopt = open_shop(path)
    path.unlink()
    assert dbopt.health().reasons == (f"default: {path} is missing",)
    assert not dbopt.health().ok
    assert dbopt.optimizer.notices() == []
