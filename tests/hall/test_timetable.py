"""Scheduled backups: taken when they are due, each database for itself."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.timetable import Timetable
from tests.clock import Clock

HOUR = 3600.0


@pytest.fixture
def databases(tmp_path):
    """Two SQLite files, and a database that has no backups."""
    site = Flask("shop", instance_path=str(tmp_path / "instance"))
    for name in ("main", "archive"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            connection.execute("CREATE TABLE t (a)")
    site.config.from_mapping(
        TESTING=True,
        DBOPT_DATABASE=str(tmp_path / "main.db"),
        DBOPT_DATABASES={"archive": str(tmp_path / "archive.db"), "server": "postgresql://nowhere/x"},
    )
    optimizer = DBOptimizer(site).optimizer
    yield optimizer.databases
    optimizer.close()


def test_every_database_is_backed_up_when_its_backup_is_due(databases):
    clock = Clock(databases["default"].backups._clock())
    table = Timetable(databases, 24, clock)
    assert table.until_due() == 1.0, "at once, where there is none"
    table.back_up()
    taken = {name: databases[name].backups.list()[0].taken_at for name in ("default", "archive")}
    clock.now = max(taken.values()) + 1
    table.back_up()
    assert [len(databases[name].backups.list()) for name in taken] == [1, 1]
    assert table.due("archive") == pytest.approx(taken["archive"] + 24 * HOUR)
    assert table.until_due() == pytest.approx(min(taken.values()) + 24 * HOUR - clock.now, abs=0.01)
    assert table.due("server") is table.due("nobody") is None
    clock.now += 23.6 * HOUR
    table.back_up()
    assert [len(databases[name].backups.list()) for name in taken] == [2, 2]


def test_one_that_fails_or_is_busy_does_not_keep_the_others_from_theirs(databases, caplog):
    caplog.set_level(logging.WARNING)
    databases["default"].path.write_bytes(b"no database" * 500)
    table = Timetable(databases, 24, Clock(1_800_000_000.0))
    table.back_up()
    assert len(databases["archive"].backups.list()) == 1
    assert "default was not backed up" in caplog.text
    caplog.clear()
    clock = Clock(1_900_000_000.0)
    databases["default"].path.unlink()
    with databases["archive"].backups._repository.changing("a check", clock.now):
        Timetable(databases, 24, clock).back_up()
    assert len(databases["archive"].backups.list()) == 1
    assert "was not backed up" not in caplog.text


def test_a_folder_that_cannot_be_read_is_due_nobody_knows_when(databases):
    backups = databases["default"].backups
    backups.folder.mkdir(parents=True)
    (backups.folder / "catalog.json").write_text('{"format": 99}')
    table = Timetable(databases, 24, Clock(1_800_000_000.0))
    assert table.due("default") is None
