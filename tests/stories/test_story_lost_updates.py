"""Lost updates, made for real by threads and processes on real files: what is reported was so, and it is reported."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from flask_dbopt import DBOptimizer

READ = "SELECT amount FROM account"
WRITE = "UPDATE account SET amount = ?"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            PRAGMA journal_mode=WAL;
            CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER);
            INSERT INTO account VALUES (1, 0);
            CREATE TABLE other (id INTEGER PRIMARY KEY, amount INTEGER);
            INSERT INTO other VALUES (1, 0);
            CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT);
            CREATE VIEW balance AS SELECT amount AS sum FROM account;
            CREATE TRIGGER counted AFTER INSERT ON line BEGIN UPDATE account SET amount = amount + 1; END;
            """
        )
    return path


class Bench:
    """An app whose requests do what they are told, step by step where two of them are to meet."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path = path
        self.app = Flask(f"lost-{id(self)}", instance_path=str(path.parent / "instance"))
        self.app.config.update(TESTING=True, SQLALCHEMY_DATABASE_URI=f"sqlite:///{path}", **config)
        self.db = SQLAlchemy(self.app)
        self.dbopt = DBOptimizer(self.app)
        self.deeds: dict[str, Callable[[], Any]] = {}
        self.app.add_url_rule("/<name>", "deed", lambda name: {"told": self.deeds[name]()}, methods=["GET", "POST"])

    def ask(self, deed: Callable[[], Any], method: str = "POST") -> Any:
        self.deeds[deed.__name__] = deed
        response = self.app.test_client().open(f"/{deed.__name__}", method=method)
        assert response.status_code == 200
        return response.json["told"]

    def meanwhile(self, deed: Callable[[], Any]) -> None:
        """Another request, in another thread, from beginning to end."""
        thread = threading.Thread(target=self.ask, args=(deed,))
        thread.start()
        thread.join()

    @property
    def raw(self) -> Any:
        return self.dbopt.connection

    def found(self) -> list[tuple[str, str]]:
        return [(one.endpoint, one.table) for one in self.dbopt.optimizer.monitor.lost_updates()]

    def close(self) -> None:
        self.app.extensions["dbopt"].close()
        with self.app.app_context():
            self.db.engine.dispose()


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**config: Any) -> Bench:
        made.append(Bench(path, **config))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


def add(bench: Bench, amount: int = 1, sql: str = "UPDATE account SET amount = amount + ?") -> Callable[[], None]:
    def adds() -> None:
        bench.raw.execute(sql, (amount,))
        bench.raw.commit()

    return adds


def read_then_write(bench: Bench, between: Callable[[], Any], read: str = READ, write: str = WRITE) -> Any:
    def reads_then_writes() -> None:
        amount = bench.raw.execute(read).fetchone()[0]
        between()
        bench.raw.execute(write, (amount + 1,))
        bench.raw.commit()

    return reads_then_writes


def test_what_another_request_committed_in_between_is_reported(make):
    bench = make()
    bench.ask(read_then_write(bench, lambda: bench.meanwhile(add(bench, 100))))
    with bench.app.app_context():
        assert bench.raw.execute(READ).fetchone()[0] == 1, "the hundred are lost"
    (one,) = bench.dbopt.optimizer.monitor.lost_updates()
    assert (one.database, one.table, one.endpoint, one.other) == ("default", "account", "deed", "deed")
    texts = {each.id: each.query for each in bench.dbopt.optimizer.monitor.queries()}
    assert texts[one.read] == READ
    assert texts[one.write] == WRITE
    assert abs(one.at - time.time()) < 60
    counters = bench.dbopt.optimizer.monitor.counters()
    assert counters["monitor.lost_updates"] == counters["lost_updates.default.account"] == 1


def test_the_session_of_sqlalchemy_is_watched_as_well(make):
    bench = make()
    session = bench.db.session

    def sells() -> None:
        amount = session.execute(text(READ)).scalar()
        bench.meanwhile(add(bench))
        session.execute(text("UPDATE account SET amount = :amount"), {"amount": amount + 1})
        session.commit()

    bench.ask(sells)
    assert bench.found() == [("deed", "account")]


def test_a_read_through_a_view_and_a_write_through_a_trigger_count(make):
    bench = make()
    inserts = "INSERT INTO line (text) VALUES (?)"
    through_view = read_then_write(
        bench, lambda: bench.meanwhile(add(bench, sql=inserts)), read="SELECT sum FROM balance"
    )
    bench.ask(through_view)
    assert bench.found() == [("deed", "account")]


def test_work_outside_requests_is_the_other_as_well(make):
    bench = make()

    def job() -> None:
        with bench.app.app_context(), bench.dbopt.borrow() as connection:
            connection.execute("UPDATE account SET amount = amount + 100")
            connection.commit()

    def in_thread() -> None:
        thread = threading.Thread(target=job)
        thread.start()
        thread.join()

    bench.ask(read_then_write(bench, in_thread))
    (one,) = bench.dbopt.optimizer.monitor.lost_updates()
    assert one.other == ""


def test_an_answer_of_the_cache_is_a_read(make):
    bench = make()
    costly = (
        "SELECT amount FROM account WHERE (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000)"
        " SELECT max(n) FROM c) > 0"
    )

    def looks_then_sells() -> bool:
        for _ in range(10):
            bench.raw.execute(costly).fetchone()
        read_then_write(bench, lambda: bench.meanwhile(add(bench)), read=costly)()
        return bool(bench.dbopt.optimizer.cache.stats().hits)

    assert bench.ask(looks_then_sells)
    assert bench.found() == [("deed", "account")]


def test_get_requests_that_write_are_watched_in_immediate_mode(make):
    bench = make(DBOPT_SQLITE_TRANSACTIONS="immediate")
    bench.ask(read_then_write(bench, lambda: bench.meanwhile(add(bench))), "GET")
    assert bench.found() == [("deed", "account")]


# --- what is no lost update ---


def in_vain(deed: Callable[[], Any]) -> Callable[[], None]:
    """The other request finds the database locked, or waits for its turn in vain."""

    def tries() -> None:
        with suppress(sqlite3.OperationalError):
            deed()

    return tries


def test_what_keeps_others_from_writing_reports_nothing(make):
    bench = make(DBOPT_SQLITE_BUSY_TIMEOUT=0.05)

    def within_transaction() -> None:
        with bench.dbopt.transaction() as connection:
            amount = connection.execute(READ).fetchone()[0]
            bench.meanwhile(in_vain(add(bench)))
            connection.execute(WRITE, (amount + 1,))

    def says_begin() -> None:
        bench.raw.execute("BEGIN IMMEDIATE")
        read_then_write(bench, lambda: bench.meanwhile(in_vain(add(bench))))()

    bench.ask(within_transaction)
    bench.ask(says_begin)
    assert bench.found() == []


def test_immediate_mode_reports_nothing(make):
    bench = make(DBOPT_SQLITE_TRANSACTIONS="immediate", DBOPT_SQLITE_BUSY_TIMEOUT=0.05)
    bench.ask(read_then_write(bench, lambda: bench.meanwhile(in_vain(add(bench)))))
    assert bench.found() == []


def test_who_reads_again_under_the_lock_has_lost_nothing(make):
    bench = make()

    def looks_then_sells() -> None:
        bench.raw.execute(READ + " WHERE amount >= 0").fetchone()
        bench.raw.rollback()
        bench.meanwhile(add(bench, 100))
        with bench.dbopt.transaction() as connection:
            amount = connection.execute(READ).fetchone()[0]
            connection.execute(WRITE, (amount + 1,))

    bench.ask(looks_then_sells)
    assert bench.found() == []
    with bench.app.app_context():
        assert bench.raw.execute(READ).fetchone()[0] == 101


@pytest.mark.parametrize(
    ("mine", "others"),
    [
        ("UPDATE other SET amount = ?", "UPDATE account SET amount = ?"),
        ("UPDATE account SET amount = ?", "UPDATE other SET amount = ?"),
        ("UPDATE account SET amount = ?", "UPDATE account SET amount = ? WHERE 0"),
        ("UPDATE account SET amount = ? WHERE 0", "UPDATE account SET amount = ?"),
    ],
    ids=["written-elsewhere", "changed-elsewhere", "nothing-changed", "nothing-written"],
)
def test_both_must_have_written_what_was_read(make, mine, others):
    bench = make()
    bench.ask(read_then_write(bench, lambda: bench.meanwhile(add(bench, sql=others)), write=mine))
    assert bench.found() == []


def test_a_write_that_read_nothing_before_is_safe(make):
    bench = make()
    bench.ask(add(bench))
    bench.meanwhile(add(bench))
    bench.ask(add(bench))
    assert bench.found() == []


@pytest.mark.parametrize("who", ["mine", "the other's"])
def test_what_was_rolled_back_was_not_written(make, who):
    bench = make()

    def gives_up() -> None:
        bench.raw.execute("UPDATE account SET amount = amount + 100")
        bench.raw.rollback()
        bench.raw.execute("UPDATE other SET amount = amount + 1")
        bench.raw.commit()

    def reads_and_gives_up() -> None:
        bench.raw.execute(READ).fetchone()
        bench.meanwhile(add(bench))
        gives_up()

    if who == "mine":
        bench.ask(reads_and_gives_up)
    else:
        bench.ask(read_then_write(bench, lambda: bench.meanwhile(gives_up)))
    assert bench.found() == []


def test_a_connection_given_back_unfinished_has_written_nothing(make):
    bench = make()

    def forgets() -> None:
        with closing(bench.dbopt.connect()) as connection:
            connection.execute(READ).fetchone()
            bench.meanwhile(add(bench))
            connection.execute("UPDATE account SET amount = 7")
        add(bench, sql="UPDATE other SET amount = ?")()

    bench.ask(forgets)
    assert bench.found() == []


def test_where_connections_commit_by_themselves_only_what_begins_is_judged(make):
    """Of a single statement nobody can tell whether it is committed; of one after BEGIN, its COMMIT tells."""
    bench = make()

    def each_by_itself() -> None:
        with closing(bench.dbopt.connect(isolation_level=None)) as connection:
            connection.execute("UPDATE account SET amount = amount + 100")
        add(bench, sql="UPDATE other SET amount = ?")()

    bench.ask(read_then_write(bench, lambda: bench.meanwhile(each_by_itself)))
    assert bench.found() == []

    def begins() -> None:
        with closing(bench.dbopt.connect(isolation_level=None)) as connection:
            amount = connection.execute(READ).fetchone()[0]
            bench.meanwhile(begins_too)
            connection.execute("BEGIN")
            connection.execute(WRITE, (amount + 1,))
            connection.execute("COMMIT")

    def begins_too() -> None:
        with closing(bench.dbopt.connect(isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute(WRITE, (100,))
            connection.execute("COMMIT")

    bench.ask(begins)
    assert bench.found() == [("deed", "account")]


# --- many at once ---

WORKER = Path(__file__).with_name("overlap_worker.py")


def overlaps(folder: Path, *, processes: int, threads: int, pieces: int) -> tuple[set[Any], set[Any]]:
    """What was overwritten unseen, and what was reported, by piece of work and table."""
    path = folder / "tokens.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        for table in ("one", "two"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, token TEXT, before TEXT)")
            connection.execute(f"INSERT INTO {table} VALUES (1, '', '')")
        connection.commit()
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, path, folder / "instance", str(seed), str(threads), str(pieces)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]

    def hear(word: str) -> list[str]:
        told = [worker.stdout.readline() for worker in workers if worker.stdout is not None]
        assert not word or told == [word + "\n"] * processes
        return told

    try:
        for word in ("ready", "ran"):
            hear(word)
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("go on\n")
                worker.stdin.flush()
        told = [json.loads(line) for line in hear("")]
    finally:
        for worker in workers:
            worker.communicate(timeout=30)
    return tuple({tuple(one) for each in told for one in each[name]} for name in ("truth", "reported"))  # type: ignore[return-value]


@pytest.mark.parametrize(("processes", "threads"), [(1, 4), (3, 2)], ids=["threads", "processes"])
def test_at_random_whatever_is_reported_was_so_and_most_of_what_was_so_is_reported(tmp_path, processes, threads):
    truth, reported = overlaps(tmp_path, processes=processes, threads=threads, pieces=60)
    assert reported <= truth
    assert len(reported) > len(truth) / 2 > 5


SHOP = """
import os, sqlite3, time
from flask import Flask
from flask_dbopt import DBOptimizer

app = Flask("shop", instance_path=os.environ["STORY_FOLDER"])
app.config.update(DATABASE=os.path.join(app.instance_path, "shop.db"), DBOPT_ADMIN_TOKEN="a-token-for-the-story")
dbopt = DBOptimizer(app)

with app.app_context(), dbopt.borrow() as connection:
    connection.executescript("CREATE TABLE IF NOT EXISTS item (sold INTEGER); INSERT INTO item VALUES (0)")

@app.get("/count")
def count():
    return {"pid": os.getpid()}

@app.get("/sell")
def sell():
    (sold,) = dbopt.connection.execute("SELECT sold FROM item").fetchone()
    time.sleep(0.05)
    dbopt.connection.execute("UPDATE item SET sold = ?", (sold + 1,))
    dbopt.connection.commit()
    return {"pid": os.getpid()}
"""


def test_workers_of_gunicorn_find_what_one_did_to_the_other(serve, tmp_path):
    (tmp_path / "instance").mkdir()
    server = serve(workers=2, app=SHOP)
    assert len(server.workers("/count")) == 2
    time.sleep(2.5)  # until each has heard of the other

    def sell() -> None:
        for _ in range(5):
            server.get("/sell")

    buyers = [threading.Thread(target=sell) for _ in range(2)]
    for buyer in buyers:
        buyer.start()
    for buyer in buyers:
        buyer.join()
    deadline = time.monotonic() + 20
    while not (lost := server.get("/_dbopt/api/v1/pool")["lost_updates"]) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [(one["endpoint"], one["table"], one["other"]) for one in lost] == [("sell", "item", "sell")]
    environment = {**os.environ, "STORY_FOLDER": str(server.folder)}
    doctor = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "story_app", "db-opt", "doctor"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "sell read the table item" in " ".join(doctor.stdout.split())
    assert 'DBOPT_SQLITE_TRANSACTIONS="immediate"' in doctor.stdout
