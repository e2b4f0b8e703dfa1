"""A connection of ours is the driver's, and leaves nothing behind for the next borrower."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer


def in_a_thread(deed: Callable[[], Any]) -> Any:
    """What ``deed`` gives or raises in another thread."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(deed())
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return told[0]


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    cursor = sqlite3.Cursor(connection)
    return cursor.execute(f"PRAGMA {name}").fetchone()[0]


# --- 1, 2: what it is, and what connect takes


def test_it_is_a_real_connection_with_real_cursors(dbopt: DBOptimizer) -> None:
    with dbopt.borrow() as c:
        assert isinstance(c, sqlite3.Connection)
        for cursor in (c.cursor(), c.execute("SELECT 1"), c.executemany("INSERT INTO note VALUES (?, 1)", [])):
            assert isinstance(cursor, sqlite3.Cursor)
            assert cursor.connection is c
        assert c.executescript("SELECT 1").fetchall() == []
        assert sqlite3.Cursor(c).execute("SELECT 2").fetchone() == (2,)


def test_what_connect_is_given_arrives(dbopt: DBOptimizer) -> None:
    given = {
        "timeout": 1.5,
        "detect_types": sqlite3.PARSE_DECLTYPES,
        "isolation_level": "IMMEDIATE",
        "check_same_thread": False,
        "cached_statements": 10,
    }
    with contextlib.closing(dbopt.connect(**given)) as c:
        assert pragma(c, "busy_timeout") == 1500
        assert c.isolation_level == "IMMEDIATE"
        assert str(c.execute("SELECT day FROM keyword").fetchone()[0]) == "2026-01-01"
        assert in_a_thread(lambda: c.execute("SELECT 1").fetchone()) == (1,)
    with pytest.raises(TypeError, match="nonsense"):
        dbopt.connect(nonsense=1)


@pytest.mark.parametrize("level", [None, "", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_every_isolation_level_begins_transactions_as_the_driver_does(
    dbopt: DBOptimizer, path: Path, level: str | None
) -> None:
    def deed(c: sqlite3.Connection) -> list[Any]:
        told: list[Any] = [c.isolation_level, c.in_transaction]
        for sql in ("SELECT 1", "INSERT INTO note VALUES (9, 'x')", "SELECT 2", "SAVEPOINT a", "RELEASE a"):
            c.execute(sql)
            told.append(c.in_transaction)
        c.rollback()
        c.executescript("INSERT INTO note VALUES (10, 'x')")
        told += [c.in_transaction, c.execute("SELECT id FROM note WHERE id = 10").fetchall()]
        c.execute("DELETE FROM note")
        c.commit()
        return told

    with contextlib.closing(sqlite3.connect(path, isolation_level=level)) as plain:  # type: ignore[arg-type]
        expected = deed(plain)
    for _ in range(2):
        with contextlib.closing(dbopt.connect(isolation_level=level)) as ours:
            assert deed(ours) == expected


class Own(sqlite3.Connection):
    """An app's own connection class, with a cursor() that takes the place of the driver's."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.asked = 0

    def cursor(self, *arguments: Any, **keywords: Any) -> Any:
        self.asked += 1
        return super().cursor(*arguments, **keywords)

    def one(self, sql: str) -> Any:
        return self.execute(sql).fetchone()[0]


def test_the_apps_own_class_wins_and_is_timed(dbopt: DBOptimizer, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, factory=Own)) as plain:
        plain.one("SELECT 1 + 1")
        plain.cursor()
        asked = plain.asked
    c = dbopt.connect(factory=Own)
    assert isinstance(c, Own)
    assert c.one("SELECT 1 + 1") == 2
    c.cursor()
    assert c.asked == asked
    c.close()
    c.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        c.one("SELECT 1")
    assert [each.calls for each in dbopt.monitor.queries()] == [1]
    assert dbopt.pool.stats().requests_num == 0


def test_a_function_that_makes_connections_is_left_alone(dbopt: DBOptimizer) -> None:
    with contextlib.closing(dbopt.connect(factory=lambda *a, **k: Own(*a, **k))) as c:
        assert type(c) is Own
        assert isinstance(in_a_thread(lambda: c.execute("SELECT 1")), sqlite3.ProgrammingError)


def test_the_app_may_ask_for_the_drivers_own_class(dbopt: DBOptimizer) -> None:
    with contextlib.closing(dbopt.connect(factory=sqlite3.Connection)) as c:
        assert c.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("place", [":memory:", ""])
def test_a_database_in_memory_is_each_connections_own(make_app: Callable[..., Flask], place: str) -> None:
    dbopt = DBOptimizer(make_app(), databases={"scratch": ":memory:", "temporary": place or ":memory:"})
    with dbopt.borrow("scratch") as one, dbopt.borrow("scratch") as two:
        one.execute("CREATE TABLE t (a)")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            two.execute("SELECT * FROM t")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        one.execute("SELECT 1")
    assert isinstance(in_a_thread(lambda: dbopt.connect("scratch").close()), type(None))


def test_a_file_uri_is_a_place_too(make_app: Callable[..., Flask], path: Path) -> None:
    dbopt = DBOptimizer(make_app(), database=f"file:{path}?cache=private")
    with dbopt.borrow() as c:
        assert c.execute("SELECT count(*) FROM keyword").fetchone() == (3000,)
    readonly = pytest.raises(sqlite3.OperationalError, match="readonly")
    with contextlib.closing(dbopt.connect(readonly=True)) as c, readonly:
        c.execute("DELETE FROM keyword")


def test_readonly_connections_read_and_are_pooled_apart(dbopt: DBOptimizer) -> None:
    for _ in range(2):
        with contextlib.closing(dbopt.connect(readonly=True)) as c:
            assert c.execute("SELECT count(*) FROM note").fetchone() == (0,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                c.execute("INSERT INTO note VALUES (1, 'x')")
        del c
    with dbopt.borrow() as c:
        c.execute("INSERT INTO note VALUES (1, 'x')")
        c.commit()
    del c
    assert dbopt.pool.stats().connections_num == 2


@pytest.mark.parametrize("query", ["mode=ro", "immutable=1"])
def test_a_read_only_place_is_not_tuned_and_nobody_is_told_so(
    make_app: Callable[..., Flask], path: Path, query: str
) -> None:
    before = path.read_bytes()
    dbopt = DBOptimizer(make_app(), database=f"file:{path}?{query}")
    for _ in range(2):
        with dbopt.borrow() as c:
            assert c.execute("SELECT count(*) FROM keyword").fetchone() == (3000,)
            assert pragma(c, "journal_mode") == "delete"
    assert path.read_bytes() == before
    assert not [told for told in dbopt.optimizer.notices() if "PRAGMA" in told]


def test_a_path_with_odd_letters_is_a_path(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%41.db"
    dbopt = DBOptimizer(make_app(), database=path)
    for readonly in (False, True):
        with contextlib.closing(dbopt.connect(readonly=readonly)) as c:
            c.execute("CREATE TABLE IF NOT EXISTS t (a)")
    assert path.exists()
    assert [each.name for each in tmp_path.glob("a*.db")] == [path.name]


# --- 4, 5: what it does


def everything_else(c: sqlite3.Connection) -> list[Any]:
    """The methods that no other test asks for."""
    heard: list[str] = []
    c.create_function("shout", 1, str.upper, deterministic=True)
    c.create_collation("backwards", lambda a, b: (a < b) - (a > b))
    c.create_aggregate("longest", 1, Longest)
    told = [
        c.execute("SELECT shout(word), longest(word) FROM keyword").fetchone(),
        c.execute("SELECT word FROM keyword ORDER BY word COLLATE backwards LIMIT 1").fetchone(),
    ]
    c.set_trace_callback(heard.append)
    c.execute("SELECT 7")
    c.set_trace_callback(None)
    told += [heard, c.total_changes, c.getlimit(sqlite3.SQLITE_LIMIT_COLUMN)]
    with contextlib.closing(sqlite3.connect(":memory:")) as copy:
        c.backup(copy)
        told.append(copy.execute("SELECT count(*) FROM keyword").fetchone())
    told.append(sum(line.startswith("INSERT INTO") for line in c.iterdump()))
    c.set_progress_handler(lambda: 1, 1)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        c.execute("SELECT count(*) FROM keyword, keyword").fetchall()
    c.set_progress_handler(None, 1)
    c.set_authorizer(lambda *about: sqlite3.SQLITE_DENY)
    with pytest.raises(sqlite3.DatabaseError, match=r"prohibited|not authorized"):
        c.execute("SELECT word FROM keyword")
    c.set_authorizer(None)
    c.interrupt()
    return told


class Longest:
    def __init__(self) -> None:
        self.word = ""

    def step(self, word: str) -> None:
        self.word = max(self.word, word, key=len)

    def finalize(self) -> str:
        return self.word


def test_everything_that_the_driver_can_do_works(dbopt: DBOptimizer, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as plain:
        expected = everything_else(plain)
    for _ in range(2):
        with dbopt.borrow() as ours:
            assert everything_else(ours) == expected


def test_a_backup_into_a_connection_of_ours_is_seen_by_everybody(dbopt: DBOptimizer, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as source:
        source.executescript("CREATE TABLE keyword (word TEXT); INSERT INTO keyword VALUES ('new')")
        with dbopt.borrow() as ours:
            source.backup(ours)
    with dbopt.borrow() as ours:
        assert ours.execute("SELECT * FROM keyword").fetchall() == [("new",)]


def test_with_commits_or_rolls_back_and_does_not_close(dbopt: DBOptimizer) -> None:
    with dbopt.borrow() as c:
        with c as same:
            assert same is c
            c.execute("INSERT INTO note VALUES (1, 'kept')")
        with pytest.raises(sqlite3.IntegrityError), c:
            c.executemany("INSERT INTO note VALUES (?, 'lost')", [(2,), (2,)])
        assert not c.in_transaction
        assert c.execute("SELECT text FROM note").fetchall() == [("kept",)]


def test_changes_are_counted_from_the_beginning_of_the_loan(dbopt: DBOptimizer) -> None:
    for _ in range(3):
        with dbopt.borrow() as c:
            assert c.total_changes == 0
            c.executemany("INSERT INTO note (text) VALUES (?)", [("a",), ("b",)])
            assert c.total_changes == 2
            c.rollback()
        del c
    assert dbopt.pool.stats().connections_num == 1


def test_commits_are_timed(dbopt: DBOptimizer) -> None:
    with dbopt.borrow() as c:
        c.execute("INSERT INTO note VALUES (1, 'x')")
        c.commit()
        c.commit()  # of nothing
        with c:
            c.execute("INSERT INTO note VALUES (2, 'x')")
    assert [each.calls for each in dbopt.monitor.queries() if each.query == "COMMIT"] == [2]


def test_a_commit_that_fails_says_what_the_driver_says(dbopt: DBOptimizer) -> None:
    with dbopt.borrow() as c:
        c.executescript("CREATE TABLE child (n REFERENCES note (id) DEFERRABLE INITIALLY DEFERRED)")
        c.execute("PRAGMA foreign_keys = ON")
        c.execute("INSERT INTO child VALUES (5)")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY constraint failed"):
            c.commit()
        assert c.in_transaction
    assert [each.errors for each in dbopt.monitor.queries() if each.query == "COMMIT"] == [1]


# --- 6, 7: the end of a loan


def test_a_closed_connection_says_so_and_may_be_closed_again(dbopt: DBOptimizer) -> None:
    c = dbopt.connect()
    cursor = c.execute("SELECT word FROM keyword")
    cursor.fetchone()
    c.close()
    c.close()
    for use in (
        cursor.fetchone,
        cursor.fetchall,
        c.commit,
        lambda: c.total_changes,
        lambda: cursor.execute("SELECT 1"),
    ):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            use()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"), c:
        pass


def test_a_half_read_cursor_that_somebody_keeps_pins_nothing_for_others(dbopt: DBOptimizer, path: Path) -> None:
    c = dbopt.connect()
    cursor = c.execute("SELECT word FROM keyword")
    cursor.fetchone()
    c.close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("DELETE FROM keyword")
        other.commit()
        busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy
    with dbopt.borrow() as c:
        assert c.execute("SELECT count(*) FROM keyword").fetchone() == (0,)


def test_a_blob_that_was_forgotten_locks_nobody_out(dbopt: DBOptimizer, path: Path) -> None:
    c = dbopt.connect()
    c.execute("INSERT INTO note VALUES (1, zeroblob(10))")
    c.commit()
    blob = c.blobopen("note", "text", 1)
    blob.write(b"x")
    c.close()
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("DELETE FROM note")
        other.commit()
    with pytest.raises(sqlite3.ProgrammingError):
        blob.write(b"y")


def test_a_connection_dropped_without_close_is_lent_again(make_app: Callable[..., Flask], path: Path) -> None:
    dbopt = DBOptimizer(make_app(DBOPT_DATABASE=str(path), DBOPT_POOL_MAX=2, DBOPT_POOL_MIN=0, DBOPT_POOL_TIMEOUT=5))
    for _ in range(20):
        dbopt.connect().execute("INSERT INTO note (text) VALUES ('never committed')")
    with dbopt.borrow() as c:
        assert c.execute("SELECT count(*) FROM note").fetchone() == (0,)


def test_a_loan_that_nobody_ended_is_rolled_back(site: Flask, dbopt: DBOptimizer, path: Path) -> None:
    with site.app_context():
        forgotten = dbopt.connect()
        forgotten.execute("INSERT INTO note VALUES (1, 'x')")
        dbopt.connection.execute("SELECT 1")
        locked = pytest.raises(sqlite3.OperationalError, match="locked")
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as other, locked:
            other.execute("DELETE FROM note")
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
        assert other.execute("DELETE FROM note").rowcount == 0
        other.commit()


# --- 8, 9: errors and threads


def test_a_wrong_thread_is_told_in_the_drivers_words(dbopt: DBOptimizer, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as plain, dbopt.borrow() as c:
        cursor = c.cursor()
        said = str(in_a_thread(lambda: plain.execute("SELECT 1")))
        for use in (
            lambda: c.execute("SELECT 1"),
            lambda: c.executemany("INSERT INTO note VALUES (?, 1)", [(1,)]),
            lambda: c.executescript("SELECT 1"),
            lambda: cursor.execute("SELECT 1"),
            c.commit,
            c.rollback,
            c.close,
            lambda: c.create_function("f", 0, int),
            lambda: c.__exit__(None, None, None),
        ):
            error = in_a_thread(use)
            assert isinstance(error, sqlite3.ProgrammingError)
            assert str(error).split("thread id")[0] == said.split("thread id")[0]
        assert c.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("arguments", [{"factory": Own}, {}])
def test_a_connection_that_is_not_pooled_is_its_threads_own_too(
    make_app: Callable[..., Flask], path: Path, arguments: dict[str, Any]
) -> None:
    database = str(path) if arguments else ":memory:"
    dbopt = DBOptimizer(make_app(), database=database)
    with contextlib.closing(dbopt.connect(**arguments)) as c:
        error = in_a_thread(lambda: c.execute("SELECT 1"))
        assert isinstance(error, sqlite3.ProgrammingError)
        assert "created in a thread" in str(error)
    with contextlib.closing(dbopt.connect(check_same_thread=False, **arguments)) as c:
        assert in_a_thread(lambda: c.execute("SELECT 1").fetchone()) == (1,)


def test_threads_may_share_a_connection_that_allows_it(dbopt: DBOptimizer) -> None:
    with contextlib.closing(dbopt.connect(check_same_thread=False)) as c:
        wrong: list[Any] = []

        def work(number: int) -> None:
            for n in range(200):
                # Each its own text: the driver has one statement for each, which two threads cannot both bind.
                row = c.execute(f"SELECT {number}, count(*) FROM keyword WHERE id < ?", (n,)).fetchone()
                if row != (number, max(0, n - 1)):
                    wrong.append(row)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert sum(each.calls for each in dbopt.monitor.queries()) == 800
