"""Requests that change something: they begin IMMEDIATE where that is asked for, and are left alone where not."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from flask_dbopt import DBOptimizer
from flask_dbopt.errors import WriterTimeout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA journal_mode=WAL; CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER);"
            "INSERT INTO account VALUES (1, 0)"
        )
    return path


class Bench:
    """An app that tells, for each request, whether its connection is in a transaction after what it was asked to do."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path = path
        self.app = Flask(f"transactions-{id(self)}", instance_path=str(path.parent / "instance"))
        self.app.config.update(TESTING=True, SQLALCHEMY_DATABASE_URI=f"sqlite:///{path}", **config)
        self.db = SQLAlchemy(self.app)
        self.dbopt = DBOptimizer(self.app)
        self.deed: Callable[[], Any] = lambda: None
        self.app.add_url_rule("/", "deed", self._serve, methods=["GET", "POST"])

    def _serve(self) -> dict[str, Any]:
        return {"told": self.deed()}

    def ask(self, method: str, deed: Callable[[], Any]) -> Any:
        self.deed = deed
        response = self.app.test_client().open("/", method=method)
        assert response.status_code == 200
        return response.json["told"]

    def foreign(self, statement: str) -> str:
        """What becomes of another process's statement now, without waiting."""
        with closing(sqlite3.connect(self.path, timeout=0)) as connection:
            try:
                with connection:
                    connection.execute(statement)
            except sqlite3.OperationalError as error:
                return str(error)
        return "done"

    def amount(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute("SELECT amount FROM account").fetchone()[0]

    def close(self) -> None:
        self.app.extensions["dbopt"].close()
        with self.app.app_context():
            self.db.engine.dispose()


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(transactions: str = "immediate", **config: Any) -> Bench:
        made.append(Bench(path, DBOPT_SQLITE_TRANSACTIONS=transactions, **config))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


WRITE = "UPDATE account SET amount = amount + 100"
READ = "SELECT amount FROM account"


def raw(bench: Bench) -> Any:
    return bench.dbopt.connection


def test_a_changing_request_begins_before_its_first_read(make):
    bench = make()

    def deed() -> list[Any]:
        raw(bench).execute(READ).fetchone()
        return [raw(bench).in_transaction, bench.foreign(WRITE)]

    assert bench.ask("POST", deed) == [True, "database is locked"]
    assert bench.ask("GET", deed) == [False, "done"]


def test_a_session_of_sqlalchemy_begins_there_as_well(make):
    bench = make()

    def deed() -> str:
        bench.db.session.execute(text(READ)).fetchone()
        return bench.foreign(WRITE)

    assert bench.ask("POST", deed) == "database is locked"
    assert bench.ask("GET", deed) == "done"


def test_by_default_nothing_begins_by_itself(make):
    bench = make("app")

    def deed() -> list[Any]:
        raw(bench).execute(READ).fetchone()
        bench.db.session.execute(text(READ)).fetchone()
        return [raw(bench).in_transaction, bench.foreign(WRITE)]

    assert bench.ask("POST", deed) == [False, "done"]


def test_the_read_is_not_answered_by_the_cache(make):
    bench = make()

    def read() -> int:
        return raw(bench).execute(READ).fetchone()[0]

    for _ in range(5):
        bench.ask("GET", read)

    def deed() -> list[Any]:
        return [read(), raw(bench).in_transaction]

    assert bench.ask("POST", deed) == [0, True]


@pytest.mark.parametrize("ending", ["commit", "with", "text"])
def test_the_app_commits_as_before(make, ending):
    bench = make()

    def deed() -> str:
        connection = raw(bench)
        connection.execute(READ).fetchone()
        if ending == "with":
            with connection:
                connection.execute(WRITE)
        else:
            connection.execute(WRITE)
            connection.commit() if ending == "commit" else connection.execute("COMMIT")
        return bench.foreign(WRITE)

    assert bench.ask("POST", deed) == "done"
    assert bench.amount() == 200
    assert bench.dbopt.optimizer.default.lane.turn is None


@pytest.mark.parametrize("ending", ["rollback", "text", "forgotten"])
def test_the_app_rolls_back_as_before(make, ending):
    bench = make()

    def deed() -> None:
        connection = raw(bench)
        connection.execute(WRITE)
        if ending == "rollback":
            connection.rollback()
        elif ending == "text":
            connection.execute("ROLLBACK")

    bench.ask("POST", deed)
    assert bench.amount() == 0
    assert bench.dbopt.optimizer.default.lane.turn is None


def test_executemany_begins_too_and_a_script_is_left_alone(make):
    bench = make()

    def deed() -> list[Any]:
        connection = raw(bench)
        connection.executescript("INSERT INTO account VALUES (2, 0)")
        alone = connection.in_transaction
        connection.executemany("INSERT INTO account VALUES (?, 0)", [(3,), (4,)])
        inside = bench.foreign(WRITE)
        connection.commit()
        return [alone, inside, bench.foreign(WRITE)]

    assert bench.ask("POST", deed) == [False, "database is locked", "done"]


def test_a_connection_that_commits_by_itself_is_respected(make):
    bench = make()

    def deed() -> list[Any]:
        connection = bench.dbopt.connect(isolation_level=None)
        connection.execute(READ).fetchone()
        connection.execute(WRITE)
        told = [connection.in_transaction, bench.foreign(WRITE)]
        connection.execute("BEGIN IMMEDIATE")
        told += [bench.dbopt.optimizer.default.lane.turn is not None, bench.foreign(WRITE)]
        connection.execute("COMMIT")
        told.append(bench.dbopt.optimizer.default.lane.turn is None)
        return told

    assert bench.ask("POST", deed) == [False, "done", True, "database is locked", True]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (id)",
        "PRAGMA foreign_keys=ON",
        "PRAGMA user_version = 3",
        "VACUUM",
        "BEGIN",
        "SAVEPOINT mine",
        "ATTACH ':memory:' AS other",
        "-- a word first\n BEGIN EXCLUSIVE",
    ],
)
def test_what_stood_in_no_transaction_before_stands_in_none_of_ours(make, statement):
    bench = make()

    def deed() -> list[Any]:
        connection = raw(bench)
        connection.execute(READ).fetchone()
        connection.execute(statement)
        return [connection.in_transaction]

    assert bench.ask("POST", deed) == [any(word in statement for word in ("BEGIN", "SAVEPOINT"))]
    assert bench.foreign(WRITE) == "done"


def test_what_tells_something_leaves_the_transaction_as_it_is(make):
    bench = make()

    def deed() -> list[Any]:
        connection = raw(bench)
        connection.execute(READ).fetchone()
        connection.execute("PRAGMA table_info(account)").fetchall()
        connection.execute("EXPLAIN QUERY PLAN " + READ).fetchall()
        return [connection.in_transaction, bench.foreign(WRITE)]

    assert bench.ask("POST", deed) == [True, "database is locked"]


def test_a_request_that_only_read_leaves_nothing_locked(make):
    """One connection for the whole app, never closed: nothing but the request's end can end what we began."""
    bench = make()
    kept = bench.dbopt.connect(check_same_thread=False)

    def deed() -> list[Any]:
        return [kept.execute(READ).fetchone()[0], kept.in_transaction]

    assert bench.ask("POST", deed) == [0, True]
    assert not kept.in_transaction
    assert bench.foreign(WRITE) == "done"
    kept.close()


def test_a_request_with_two_connections_does_not_wait_for_itself(make):
    bench = make(DBOPT_SQLITE_BUSY_TIMEOUT=5)

    def deed() -> list[Any]:
        bench.db.session.execute(text(READ)).fetchone()
        read = raw(bench).execute(READ).fetchone()[0]  # reads beside it
        raw(bench).execute(WRITE)  # and writes: the session has only read
        raw(bench).commit()
        return [read, bench.db.session.execute(text(READ)).scalar()]

    assert bench.ask("POST", deed) == [0, 100]

    def both() -> str:
        raw(bench).execute(WRITE)
        try:
            bench.db.session.execute(text(WRITE))
        except Exception as error:
            return str(error)
        return "done"

    assert "another connection of this very thread" in bench.ask("POST", both)
    assert bench.foreign(WRITE) == "done"


def test_a_failing_begin_leaves_nothing_behind(make):
    bench = make(DBOPT_SQLITE_BUSY_TIMEOUT=0.05)
    other = sqlite3.connect(bench.path)
    other.execute("BEGIN IMMEDIATE")

    def deed() -> list[Any]:
        try:
            raw(bench).execute(READ)
        except sqlite3.OperationalError as error:
            return [str(error), raw(bench).in_transaction, bench.dbopt.optimizer.default.lane.turn is None]
        return []

    assert bench.ask("POST", deed) == ["database is locked", False, True]
    other.rollback()
    other.close()


def test_readers_that_cannot_write_still_read(make):
    bench = make()

    def deed() -> list[Any]:
        with closing(bench.dbopt.connect(readonly=True)) as connection:
            plain = connection.execute(READ).fetchone()[0]
        raw(bench).execute("PRAGMA query_only=ON")
        return [plain, raw(bench).execute(READ).fetchone()[0]]

    assert bench.ask("POST", deed) == [0, 0]


def test_sqlalchemys_savepoints_are_within_the_transaction(make):
    bench = make()

    def deed() -> str:
        with bench.db.session.begin_nested():
            bench.db.session.execute(text(READ)).fetchone()
            told = bench.foreign(WRITE)
        bench.db.session.execute(text(WRITE))
        bench.db.session.commit()
        return told

    assert bench.ask("POST", deed) == "database is locked"
    assert bench.amount() == 100


def test_a_timeout_in_a_request_names_the_request_that_writes(make):
    bench = make(DBOPT_SQLITE_BUSY_TIMEOUT=0.1)
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        raw(bench).execute(WRITE)
        inside.set()
        go.wait(10)

    def ask() -> str:
        try:
            raw(bench).execute(READ)
        except WriterTimeout as error:
            return str(error)
        return "no timeout"

    holder = threading.Thread(target=lambda: bench.ask("POST", hold))
    holder.start()
    assert inside.wait(10)
    told = bench.ask("POST", ask)
    go.set()
    holder.join()
    assert f"POST deed (process {os.getpid()}) has written for" in told


def test_updates_of_many_threads_are_all_there(make):
    bench = make()

    def add() -> None:
        amount = raw(bench).execute(READ).fetchone()[0]
        raw(bench).execute("UPDATE account SET amount = ?", (amount + 1,))
        raw(bench).commit()

    bench.deed = add

    def work() -> None:
        for _ in range(20):
            assert bench.app.test_client().post("/").status_code == 200

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.amount() == 80


@pytest.mark.parametrize("transactions", ["app", "immediate"])
def test_transaction_is_one_writer_at_a_time_in_either_mode(make, transactions):
    bench = make(transactions)

    def work() -> None:
        for _ in range(25):
            with bench.app.app_context(), bench.dbopt.transaction() as connection:
                (amount,) = connection.execute(READ).fetchone()
                connection.execute("UPDATE account SET amount = ?", (amount + 1,))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.amount() == 100


def test_transaction_in_a_transaction_says_so_at_once(make):
    bench = make("app")
    with bench.app.app_context(), bench.dbopt.transaction() as connection:
        connection.execute(WRITE)
        with pytest.raises(WriterTimeout, match="this very thread"), bench.dbopt.transaction():
            pass
    assert bench.amount() == 100


def test_a_transaction_that_raises_lets_the_next_one_in(make):
    bench = make("app")

    def fail() -> None:
        with bench.dbopt.transaction() as connection:
            connection.execute(WRITE)
            raise ZeroDivisionError

    with bench.app.app_context():
        with pytest.raises(ZeroDivisionError):
            fail()
        with bench.dbopt.transaction() as connection:
            connection.execute(WRITE)
    assert bench.amount() == 100


def test_a_fork_in_a_transaction_leaves_it_to_the_parent(make):
    bench = make("app", DBOPT_SQLITE_BUSY_TIMEOUT=0.1)
    ask, answer = os.pipe()
    with bench.app.app_context(), bench.dbopt.transaction() as connection:
        connection.execute(WRITE)
        child = os.fork()
        if not child:
            try:
                with bench.dbopt.transaction():
                    os.write(answer, b"in")
            except sqlite3.OperationalError as error:
                os.write(answer, str(error).encode())
            finally:
                os._exit(0)
        told = os.read(ask, 500).decode()
        os.waitpid(child, 0)
    os.close(ask)
    os.close(answer)
    assert told.startswith("database is locked")
    assert f"(process {os.getpid()}) has written for" in told
    assert bench.amount() == 100


def test_without_us_transactions_are_plain_ones(make):
    bench = make(DBOPT_ENABLED=False)
    with bench.app.app_context(), bench.dbopt.transaction() as connection:
        connection.execute(WRITE)
    assert bench.amount() == 100
