"""A token that is equal twice means that nothing was committed in between; every kind of change must show."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flask_dbopt.engines.sqlite.watcher import SQLiteWatcher


@pytest.fixture(params=["wal", "delete"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a #1 100%?.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={request.param}")
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO word (text) VALUES ('a')")
        connection.execute("CREATE VIEW shown AS SELECT text FROM word")
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        yield connection


@pytest.fixture
def watcher(path: Path) -> Iterator[SQLiteWatcher]:
    watcher = SQLiteWatcher(path)
    yield watcher
    watcher.close()


def handles(path: Path) -> int:
    """How many descriptors of this process are open on the file, or were before it was deleted."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        count += target.removesuffix(" (deleted)") == str(path)
    return count


def test_the_token_stays_while_nothing_is_committed(watcher: SQLiteWatcher, connection: sqlite3.Connection) -> None:
    before = watcher.token()
    connection.execute("SELECT * FROM word").fetchall()
    connection.execute("CREATE TEMP TABLE mine (a)")
    connection.execute("INSERT INTO mine VALUES (1)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO word (text) VALUES ('b')")
    connection.execute("ROLLBACK")
    connection.execute("UPDATE word SET text = 'z' WHERE id = 99")
    assert before is not None
    assert watcher.token() == before


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO word (text) VALUES ('b')",
        "INSERT INTO word (text) VALUES ('b') RETURNING id",
        "WITH x AS (SELECT 'b' AS t) INSERT INTO word (text) SELECT t FROM x",
        "REPLACE INTO word (id, text) VALUES (1, 'b')",
        "UPDATE word SET text = 'b'",
        "DELETE FROM word",
        "CREATE TABLE other (a)",
        "DROP VIEW shown",
        "CREATE INDEX word_text ON word (text)",
        "ALTER TABLE word ADD COLUMN more",
        "PRAGMA user_version = 7",
        "ANALYZE",
        "VACUUM",
    ],
)
def test_every_kind_of_commit_changes_the_token(
    watcher: SQLiteWatcher, connection: sqlite3.Connection, sql: str
) -> None:
    before = watcher.token()
    connection.execute(sql).fetchall()
    assert watcher.token() not in (before, None)


def test_a_commit_of_another_process_changes_the_token(watcher: SQLiteWatcher, path: Path) -> None:
    before = watcher.token()
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM word'); c.commit()"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    assert watcher.token() not in (before, None)


def test_a_restore_through_the_backup_api_changes_the_token(
    watcher: SQLiteWatcher, connection: sqlite3.Connection
) -> None:
    before = watcher.token()
    with closing(sqlite3.connect(":memory:")) as source:
        source.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        source.commit()
        source.backup(connection)
    assert watcher.token() not in (before, None)


def test_changing_the_journal_mode_is_followed(path: Path, watcher: SQLiteWatcher) -> None:
    watcher.token()
    for mode in ("delete", "wal", "truncate", "wal"):
        watcher.close()  # an open handle keeps SQLite from leaving WAL mode, as any other connection would
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
            before = watcher.token()
            connection.execute("INSERT INTO word (text) VALUES (?)", (mode,))
            assert watcher.token() not in (before, None)


def test_entering_wal_mode_under_an_open_handle_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    watcher = SQLiteWatcher(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE word (text TEXT)")
        assert watcher.token() is not None
        connection.execute("PRAGMA journal_mode=wal")
        before = watcher.token()
        connection.execute("INSERT INTO word VALUES ('b')")
        assert watcher.token() not in (before, None)
    watcher.close()


def test_a_replaced_file_changes_the_token_although_its_counters_are_the_same(
    watcher: SQLiteWatcher, path: Path
) -> None:
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy.write_bytes(path.read_bytes())
    before = watcher.token()
    first = (path.stat().st_dev, path.stat().st_ino)
    assert watcher.token(first) == before
    copy.replace(path)
    assert watcher.token(first) is None  # a connection on the old file is not served
    second = (path.stat().st_dev, path.stat().st_ino)
    assert watcher.token(second) not in (before, None)
    assert handles(path) == 1


def test_a_file_that_is_overwritten_in_place_changes_the_token(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE word (text TEXT)")
    watcher = SQLiteWatcher(path)
    before = watcher.token()
    status = path.stat()
    with path.open("r+b") as file:  # the same bytes, another time: nobody can know what else was written
        file.write(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert watcher.token() not in (before, None)
    watcher.close()


def test_a_deleted_file_gives_no_token_and_is_neither_held_nor_made_again(watcher: SQLiteWatcher, path: Path) -> None:
    assert watcher.token() is not None
    path.unlink()
    assert watcher.token() is None
    assert handles(path) == 0
    assert not path.exists()


def test_a_missing_file_or_folder_gives_no_token_and_no_footprint(tmp_path: Path) -> None:
    for path in (tmp_path / "none.db", tmp_path, tmp_path / "no" / "folder.db"):
        watcher = SQLiteWatcher(path)
        assert watcher.token() is None
        assert watcher.footprint("SELECT 1") is None
        watcher.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_gives_no_token(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database at all, but a text that is long enough to hold a header of one hundred bytes" * 9)
    watcher = SQLiteWatcher(path)
    assert watcher.token() is None
    assert watcher.footprint("SELECT 1") is None
    watcher.close()


def test_a_locked_database_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE word (text TEXT)")
        watcher = SQLiteWatcher(path)
        before = watcher.token()
        connection.execute("BEGIN EXCLUSIVE")
        assert watcher.token() is None
        assert watcher.footprint("SELECT * FROM word") is None
        connection.execute("ROLLBACK")
        assert watcher.token() == before
        watcher.close()


def test_a_closed_watcher_opens_again_and_equals_no_earlier_token(watcher: SQLiteWatcher, path: Path) -> None:
    tokens = set()
    for _ in range(3):
        tokens.add(watcher.token())
        watcher.close()
        assert handles(path) == 0
    assert len(tokens) == 3


def test_the_watching_connection_leaves_nothing_behind(watcher: SQLiteWatcher, path: Path) -> None:
    watcher.token()
    watcher.footprint("SELECT * FROM word")
    watcher.close()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_the_watching_connection_pins_no_snapshot(watcher: SQLiteWatcher, connection: sqlite3.Connection) -> None:
    watcher.token()
    watcher.footprint("SELECT * FROM word")
    connection.execute("INSERT INTO word (text) VALUES ('b')")
    if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
    else:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")


def test_threads_share_one_watcher(watcher: SQLiteWatcher, connection: sqlite3.Connection) -> None:
    seen: list[object] = []

    def ask() -> None:
        seen.extend(watcher.token() for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 400
    assert set(seen) == {watcher.token()}


def test_a_footprint_follows_the_schema_that_others_change(
    watcher: SQLiteWatcher, connection: sqlite3.Connection
) -> None:
    sql = "SELECT * FROM shown"
    first = watcher.footprint(sql)
    assert first is not None
    assert first.deterministic
    assert watcher.footprint(sql) is first
    connection.execute("INSERT INTO word (text) VALUES ('b')")
    assert watcher.footprint(sql) is first  # the content changed, not the schema
    connection.execute("DROP VIEW shown")
    assert watcher.footprint(sql) is None
    connection.execute("CREATE VIEW shown AS SELECT random() AS text")
    second = watcher.footprint(sql)
    assert second is not None
    assert not second.deterministic
    assert second.functions == {"random"}


def test_footprints_are_remembered_within_bounds(watcher: SQLiteWatcher) -> None:
    first = watcher.footprint("SELECT 1")
    for number in range(2100):
        assert watcher.footprint(f"SELECT {number} + 0") is not None
    again = watcher.footprint("SELECT 1")
    assert again == first
    assert again is not first


def test_a_file_that_is_replaced_while_it_is_opened_is_not_believed(path: Path) -> None:
    class Hurried(SQLiteWatcher):
        def _connect(self, mode: str) -> sqlite3.Connection:
            connection = super()._connect(mode)
            if copy.exists():
                copy.replace(path)
            return connection

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    watcher = Hurried(path)
    assert watcher.token() is None
    assert watcher.token() is not None
    watcher.close()


def test_a_process_that_was_forked_is_recognised_by_its_number(
    watcher: SQLiteWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[sqlite3.Connection] = []
    monkeypatch.setattr("flask_dbopt.engines.sqlite.watcher.keep_forever", kept.append)
    seen = {watcher.token()}
    for process, ask in enumerate((watcher.token, lambda: watcher.footprint("SELECT 1"), watcher.close), 1):
        monkeypatch.setattr(os, "getpid", lambda number=process: -number)
        ask()
        seen.add(watcher.token())
    assert len(seen) == 4
    assert None not in seen
    assert len(kept) == 3
    for inherited in kept:
        inherited.execute("SELECT 1")  # still open: the parent's locks hang on it
        inherited.close()


def test_a_forked_child_leaves_the_inherited_handle_alone(watcher: SQLiteWatcher, path: Path) -> None:
    before = watcher.token()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        answer = b"failed"
        try:
            mine = watcher.token()  # notices by itself; nobody called abandon()
            watcher.footprint("SELECT * FROM word")
            watcher.close()
            if mine not in (before, None) and handles(path) > 0:
                answer = b"fine"
        finally:
            os.write(writer, answer)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"fine"
    os.waitpid(child, 0)
    assert watcher.token() == before
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM word")
        connection.commit()
    assert watcher.token() not in (before, None)
