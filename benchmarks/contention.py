"""Many writers on one SQLite file: what is lost, what fails, how many commits, and how long the unlucky wait.

Four processes with four threads each, without a pause; 30 % of their requests read a number, add one and write it
back. Each contender has a file of its own, and they take turns. What was acknowledged and is not in the file is lost.
Before the clock runs each thread reads for a while: a server's first second, when much is imported, is not at stake.
"""

from __future__ import annotations

import io
import json
import logging
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flask import Flask, g
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from flask_dbopt import DBOptimizer

PROCESSES, THREADS = 4, 4
WRITES = 0.3
SECONDS = 3.0
WARMING = 1.5
ROUNDS = 5
COUNTERS = 16

READ = "SELECT value FROM counter WHERE id = ?"
WRITE = "UPDATE counter SET value = ? WHERE id = ?"
TUNING = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-10000; PRAGMA mmap_size=268435456"
BASE = {
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "localhost",
    "wsgi.url_scheme": "http",
    "wsgi.input": io.BytesIO(),
    "wsgi.errors": sys.stderr,
}
"""What is the same in every request."""


@dataclass
class Tally:
    """What one process did."""

    commits: int = 0
    reads: int = 0
    locked: int = 0
    worst: float = 0.0
    """Seconds, of a write that succeeded or failed."""


class Contender(ABC):
    """An app with two views: one reads a number, one adds one to it."""

    tuned = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.app = Flask("contention", instance_path=str(path.parent / "instance"))
        self.app.config.update(self.config())
        self.app.config["PROPAGATE_EXCEPTIONS"] = True
        self.app.add_url_rule("/read/<int:key>", "read", self.read)
        self.app.add_url_rule("/add/<int:key>", "add", self.add, methods=["POST"])
        self.set_up()

    def config(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def set_up(self) -> None: ...

    @abstractmethod
    def read(self, key: int) -> str: ...

    @abstractmethod
    def add(self, key: int) -> str: ...


class ByHand(Contender):
    """A connection kept by each thread, tuned as ours are, and a hand-written BEGIN IMMEDIATE."""

    begin = "BEGIN IMMEDIATE"

    def set_up(self) -> None:
        self._local = threading.local()

    @property
    def connection(self) -> sqlite3.Connection:
        kept: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if kept is None:
            kept = self._local.connection = sqlite3.connect(self.path)
            kept.executescript(TUNING)
        return kept

    def read(self, key: int) -> str:
        return str(self.connection.execute(READ, (key,)).fetchone()[0])

    def add(self, key: int) -> str:
        connection = self.connection
        try:
            if self.begin:
                connection.execute(self.begin)
            (value,) = connection.execute(READ, (key,)).fetchone()
            connection.execute(WRITE, (value + 1, key))
            connection.commit()
        except sqlite3.Error:
            connection.rollback()
            raise
        return "done"


class Driver(ByHand):
    """The same as the driver has it: it begins before the UPDATE, after the SELECT."""

    begin = ""


class EachRequest(ByHand):
    """As Flask's tutorial has it: a connection for each request, and BEGIN IMMEDIATE."""

    def set_up(self) -> None:
        @self.app.teardown_appcontext
        def close(error: object) -> None:
            if "db" in g:
                g.pop("db").close()

    @property
    def connection(self) -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(self.path)
            for statement in TUNING.split(";"):
                g.db.execute(statement)
        return g.db  # type: ignore[no-any-return]


class Ours(ByHand):
    """``dbopt.connection``, and nothing by hand."""

    begin = ""
    transactions = "immediate"

    def config(self) -> dict[str, Any]:
        return {"DBOPT_SQLITE_TRANSACTIONS": self.transactions, "DBOPT_BACKUP_ENABLED": False}

    def set_up(self) -> None:
        self.dbopt = DBOptimizer(self.app, database=self.path)

    @property
    def connection(self) -> sqlite3.Connection:
        return self.dbopt.connection  # type: ignore[no-any-return]


class OursAsTheApp(Ours):
    transactions = "app"


class ByHandOnOurs(OursAsTheApp):
    """BEGIN IMMEDIATE by hand on ``dbopt.connection``: without lanes, and all else as ours."""

    begin = "BEGIN IMMEDIATE"


class OursByHand(OursAsTheApp):
    """``dbopt.transaction()``, whatever the setting."""

    def add(self, key: int) -> str:
        with self.dbopt.transaction() as connection:
            (value,) = connection.execute(READ, (key,)).fetchone()
            connection.execute(WRITE, (value + 1, key))
        return "done"


class FlaskSQLAlchemy(Contender):
    """Flask-SQLAlchemy's session, with its defaults and SQLite's."""

    tuned = False

    def config(self) -> dict[str, Any]:
        return {"SQLALCHEMY_DATABASE_URI": f"sqlite:///{self.path}"}

    def set_up(self) -> None:
        self.db = SQLAlchemy(self.app)

    def read(self, key: int) -> str:
        return str(self.db.session.execute(text(READ.replace("?", ":key")), {"key": key}).scalar())

    def add(self, key: int) -> str:
        session = self.db.session
        value = session.execute(text(READ.replace("?", ":key")), {"key": key}).scalar()
        changed = {"value": int(value or 0) + 1, "key": key}
        session.execute(text("UPDATE counter SET value = :value WHERE id = :key"), changed)
        session.commit()
        return "done"


class FlaskSQLAlchemyWithUs(FlaskSQLAlchemy):
    """The same with one line more, and the setting."""

    tuned = True

    def config(self) -> dict[str, Any]:
        return {**super().config(), "DBOPT_SQLITE_TRANSACTIONS": "immediate", "DBOPT_BACKUP_ENABLED": False}

    def set_up(self) -> None:
        super().set_up()
        DBOptimizer(self.app)


CONTENDERS: dict[str, Callable[[Path], Contender]] = {
    'Flask-DBOpt, "immediate"': Ours,
    "Flask-DBOpt, transaction()": OursByHand,
    'Flask-DBOpt, "app"': OursAsTheApp,
    "BEGIN IMMEDIATE by hand, on ours": ByHandOnOurs,
    "BEGIN IMMEDIATE by hand": ByHand,
    "the same, connecting at each request": EachRequest,
    "sqlite3 as it comes": Driver,
    'Flask-SQLAlchemy with us, "immediate"': FlaskSQLAlchemyWithUs,
    "Flask-SQLAlchemy's defaults": FlaskSQLAlchemy,
}


def make_file(path: Path, *, tuned: bool) -> None:
    with closing(sqlite3.connect(path)) as connection:
        if tuned:
            connection.executescript(TUNING)
        connection.execute("CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        connection.executemany("INSERT INTO counter VALUES (?, 0)", [(key,) for key in range(COUNTERS)])
        connection.commit()


def work(name: str, path: Path, seconds: float, seed: int) -> Tally:
    """One process: its threads wait for a line on the standard input, then do what they can."""
    logging.disable(logging.ERROR)  # slow statements are counted below
    contender = CONTENDERS[name](path)
    tallies = [Tally() for _ in range(THREADS)]
    start = threading.Barrier(THREADS + 1)
    end = [0.0]

    def ask(method: str, place: str) -> None:
        """One request, by the door that a server uses."""
        environ = {"REQUEST_METHOD": method, "PATH_INFO": place, "QUERY_STRING": "", "SCRIPT_NAME": "", **BASE}
        response = contender.app.wsgi_app(environ, lambda *_: lambda _: None)
        for _ in response:
            pass
        response.close()  # type: ignore[attr-defined]

    def run(number: int) -> None:
        tally, chance = tallies[number], random.Random(seed * 100 + number)
        warm = time.perf_counter() + WARMING
        while time.perf_counter() < warm:
            ask("GET", f"/read/{number}")
        start.wait()
        start.wait()
        while time.perf_counter() < end[0]:
            key = chance.randrange(COUNTERS)
            if chance.random() >= WRITES:
                ask("GET", f"/read/{key}")
                tally.reads += 1
                continue
            began = time.perf_counter()
            try:
                ask("POST", f"/add/{key}")
                tally.commits += 1
            except Exception as error:
                if "locked" not in str(error):
                    raise
                tally.locked += 1
            tally.worst = max(tally.worst, time.perf_counter() - began)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    end[0] = time.perf_counter() + seconds
    start.wait()
    for thread in threads:
        thread.join()
    return Tally(
        commits=sum(each.commits for each in tallies),
        reads=sum(each.reads for each in tallies),
        locked=sum(each.locked for each in tallies),
        worst=max(each.worst for each in tallies),
    )


def contend(name: str, seconds: float) -> tuple[Tally, int]:
    """All processes at once; what they did together, and how many acknowledged updates are lost."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counters.db"
        make_file(path, tuned=getattr(CONTENDERS[name], "tuned", True))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contention", name, str(path), str(seconds), str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(PROCESSES)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", f"{name}: a process did not start"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [Tally(**json.loads(process.communicate()[0])) for process in processes]
        with closing(sqlite3.connect(path)) as connection:
            (counted,) = connection.execute("SELECT sum(value) FROM counter").fetchone()
    done = Tally(
        sum(each.commits for each in told),
        sum(each.reads for each in told),
        sum(each.locked for each in told),
        max(each.worst for each in told),
    )
    return done, done.commits - counted


def contention(seconds: float = SECONDS, rounds: int = ROUNDS) -> dict[str, list[tuple[Tally, int]]]:
    """Every contender in turns."""
    runs: dict[str, list[tuple[Tally, int]]] = {name: [] for name in CONTENDERS}
    names = list(runs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            runs[name].append(contend(name, seconds))
    print(f"\n{PROCESSES} processes with {THREADS} threads, {WRITES:.0%} read-modify-write, {rounds} x {seconds:g} s")
    print(f"| {'contender':<38} | commits/s | reads/s | lost | locked | worst write ms (median, max) |")
    print(f"| {'-' * 38} | --------: | ------: | ---: | -----: | ---------------------------: |")
    for name, taken in runs.items():
        commits = statistics.median(tally.commits for tally, _ in taken) / seconds
        reads = statistics.median(tally.reads for tally, _ in taken) / seconds
        lost, locked = sum(lost for _, lost in taken), sum(tally.locked for tally, _ in taken)
        worst = [tally.worst * 1000 for tally, _ in taken]
        slow = f"{statistics.median(worst):.0f}, {max(worst):.0f}"
        print(f"| {name:<38} | {commits:>9.0f} | {reads:>7.0f} | {lost:>4} | {locked:>6} | {slow:>28} |")
    return runs


def main() -> None:
    if len(sys.argv) > 4:
        name, path, seconds, seed = sys.argv[1:]
        print(json.dumps(asdict(work(name, Path(path), float(seconds), int(seed)))))
        return
    asked = sys.argv[1:]
    contention(float(asked[0]) if asked else SECONDS, int(asked[1]) if asked[1:] else ROUNDS)


if __name__ == "__main__":
    main()
