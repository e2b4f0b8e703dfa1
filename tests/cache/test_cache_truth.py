"""Nothing is served that is no longer true, whoever committed, in whatever way."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from flask_dbopt.engines.sqlite.watcher import SQLiteWatcher

if TYPE_CHECKING:
    from conftest import Bench

SQL = "SELECT text FROM word WHERE id >= ? ORDER BY id"
FACTORIES = (None, str)


CHANGES = [
    "INSERT INTO word (text) VALUES ('d')",
    "INSERT INTO word (text) VALUES ('d') RETURNING id",
    "WITH x AS (SELECT 'd' AS t) INSERT INTO word (text) SELECT t FROM x",
    "REPLACE INTO word (id, text) VALUES (2, 'z')",
    "UPDATE word SET text = upper(text)",
    "DELETE FROM word WHERE id = 2",
    "DROP TABLE word",
    "ALTER TABLE word RENAME TO term",
    "BEGIN; DELETE FROM word; COMMIT",
    "CREATE INDEX word_text ON word (text)",
    "VACUUM",
]


@pytest.mark.parametrize("bench", ["wal", "delete"], indirect=True)
@pytest.mark.parametrize("change", CHANGES)
def test_no_commit_of_another_connection_is_missed(bench: Bench, change: str) -> None:
    reader = bench.reader()
    reader.warm(SQL, (2,))
    reader.ask(SQL, (2,))
    assert reader.how == "hit"
    bench.writer.executescript(change)
    try:
        expected = bench.writer.execute(SQL, (2,)).fetchall()
    except sqlite3.OperationalError:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            reader.ask(SQL, (2,))
    else:
        assert reader.ask(SQL, (2,)) == expected
    assert reader.how != "hit"


def test_the_readers_own_commit_is_not_missed(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (2,))
    reader.connection.execute("DELETE FROM word WHERE id = 3")
    assert reader.ask(SQL, (2,)) == [("b",)]


def test_a_rollback_leaves_the_kept_result_true(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (2,))
    bench.writer.executescript("BEGIN; DELETE FROM word; ROLLBACK")
    reader.ask(SQL, (2,))
    assert reader.how == "hit"


def test_a_result_is_not_kept_when_something_is_committed_while_it_is_read(bench: Bench) -> None:
    reader = bench.reader()
    reader.ask(SQL, (2,))
    reader.ask(SQL, (2,), between=lambda: bench.writer.execute("DELETE FROM word WHERE id = 3"))
    assert reader.how == "refused"
    assert reader.ask(SQL, (2,)) == [("b",)]


def test_a_view_that_turns_random_is_not_kept_under_its_old_name(bench: Bench) -> None:
    reader = bench.reader()
    sql = "SELECT * FROM shown"
    reader.warm(sql)
    bench.writer.executescript("DROP VIEW shown; CREATE VIEW shown AS SELECT random() AS text FROM word")
    assert reader.never_kept(sql)


def test_a_table_hidden_by_a_view_of_the_clock_later_is_not_kept_either(bench: Bench) -> None:
    reader = bench.reader()
    sql = "SELECT name FROM language"
    reader.warm(sql)
    bench.writer.executescript(
        "ALTER TABLE language RENAME TO tongue; CREATE VIEW language AS SELECT CURRENT_TIMESTAMP AS name"
    )
    assert reader.never_kept(sql)


def test_a_connection_on_a_replaced_file_is_neither_served_nor_believed(bench: Bench) -> None:
    old = bench.reader()
    old.warm(SQL, (2,))
    bench.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = bench.path.with_name("copy.db")
    copy.write_bytes(bench.path.read_bytes())
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=delete")
        connection.execute("UPDATE word SET text = 'new'")
    for suffix in ("-wal", "-shm"):
        bench.path.with_name(bench.path.name + suffix).unlink()
    copy.replace(bench.path)
    assert old.never_kept(SQL, (2,))
    new = bench.reader()
    assert new.warm(SQL, (2,)) == [("new",), ("new",)]
    assert new.ask(SQL, (2,)) == [("new",), ("new",)]
    assert new.how == "hit"
    assert old.ask(SQL, (2,)) == [("b",), ("c",)]
    assert old.how == "ran"


def test_while_the_database_is_locked_nothing_is_served(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (2,))
    reader.ask(SQL, (2,))
    watcher = SQLiteWatcher(bench.path.with_name("gone.db"))
    shelf = bench.cache.shelf("default", watcher)
    assert shelf.look(SQL, (2,), FACTORIES) is None
    shelf.learn(SQL, 1.0)
    assert shelf.look(SQL, (2,), FACTORIES) is None


def test_eight_threads_never_see_less_than_what_was_committed_before_they_asked(bench: Bench) -> None:
    bench.writer.execute("CREATE TABLE counter (n INTEGER)")
    bench.writer.execute("INSERT INTO counter VALUES (0)")
    committed, stop, faults = [0], threading.Event(), []

    def read() -> None:
        reader = bench.reader()
        while not stop.is_set():
            least = committed[0]
            ((n,),) = reader.ask("SELECT n FROM counter WHERE n >= ?", (0,))
            if n < least:
                faults.append((n, least, reader.how))
        reader.connection.close()

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for n in range(1, 1001):
        bench.writer.execute("UPDATE counter SET n = ?", (n,))
        committed[0] = n
        stop.wait(0.004)
        stats = bench.cache.stats()
        if n > 50 and stats.hits > 100 and stats.invalidations > 20:
            break
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert stats.hits > 100
    assert stats.invalidations > 20
