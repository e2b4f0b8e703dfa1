"""A file's condition, and what is done to it by hand."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from flask_dbopt.engines.sqlite import maintenance
from flask_dbopt.errors import DatabaseUnavailable


@pytest.fixture
def path(tmp_path):
    """A WAL database with some rows, its name one that a URI must escape."""
    path = tmp_path / "odd name?#.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        connection.execute("CREATE INDEX t_a ON t (a)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((number % 9, "x" * 50) for number in range(5000)))
        connection.commit()
    return path


def test_a_look_tells_the_condition_and_leaves_nothing_behind(path):
    found = maintenance.condition(path)
    assert (found.journal_mode, found.analyzed, found.free_bytes, found.wal_bytes) == ("wal", False, 0, 0)
    assert found.bytes == path.stat().st_size
    assert maintenance.journal_mode(path) == "wal"
    assert list(path.parent.iterdir()) == [path]


def test_statistics_are_there_after_analyze(path):
    assert maintenance.analyze(path, wait=1.0)
    assert maintenance.condition(path).analyzed


def test_a_checkpoint_moves_the_whole_wal_while_others_read_and_write_on(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("INSERT INTO t VALUES (1, 'new')")
        done = maintenance.checkpoint(path, wait=1.0)
        assert done.complete
        assert done.moved > 0
        assert other.execute("SELECT count(*) FROM t").fetchone() == (5001,)
        other.execute("INSERT INTO t VALUES (2, 'newer')")
    assert maintenance.wal_bytes(path) == 0


def test_a_checkpoint_leaves_what_a_reader_still_needs(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        with closing(sqlite3.connect(path)) as writer:
            writer.execute("INSERT INTO t VALUES (1, 'new')")
            writer.commit()
            assert not maintenance.checkpoint(path, wait=0.1).complete


def test_a_checkpoint_waits_for_a_writer_and_then_gives_up(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO t VALUES (1, 'new')")
        if maintenance.sqlite_danger():
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                maintenance.checkpoint(path, wait=0.05)
        writer.execute("COMMIT")
    assert maintenance.checkpoint(path, wait=0.05).complete


def test_a_vacuum_gives_back_what_was_deleted(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM t WHERE a < 8")
        connection.commit()
    assert maintenance.condition(path).free_bytes > 0
    assert maintenance.vacuum(path, wait=1.0) > 0
    assert maintenance.condition(path).free_bytes == 0


def test_an_announcement_is_seen_by_who_watches_and_changes_nothing(path):
    with closing(sqlite3.connect(path)) as watching:
        watching.execute("PRAGMA user_version = 7")
        before = watching.execute("PRAGMA data_version").fetchone()
        thread = threading.Thread(target=maintenance.announce, args=(path,), kwargs={"wait": 1.0})
        thread.start()
        thread.join()
        assert watching.execute("PRAGMA data_version").fetchone() != before
        assert watching.execute("PRAGMA user_version").fetchone() == (7,)


def test_what_is_not_there_is_not_made(tmp_path):
    for deed in (maintenance.condition, lambda path: maintenance.analyze(path, wait=0.1)):
        with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
            deed(tmp_path / "none.db")
    assert maintenance.journal_mode(tmp_path / "none.db") is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_is_said(tmp_path):
    (tmp_path / "text.db").write_text("not a database at all, just text " * 50)
    with pytest.raises(DatabaseUnavailable, match="is no SQLite database"):
        maintenance.condition(tmp_path / "text.db")
    assert maintenance.journal_mode(tmp_path / "text.db") is None


def test_words_and_numbers_of_a_pragma_are_the_same():
    found = {"synchronous": 1, "temp_store": 2, "journal_mode": "wal", "foreign_keys": 0}
    wanted = {"synchronous": "normal", "temp_store": "MEMORY", "journal_mode": "WAL", "unheard_of": 1}
    assert maintenance.deviations(found, wanted) == {}
    assert maintenance.deviations(found, {"foreign_keys": "ON"}) == {"foreign_keys": (0, "ON")}
