"""What a loan costs, and who gets one when there are more threads than connections."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from dbutils.pooled_db import PooledDB
from sqlalchemy.pool import QueuePool

from benchmarks.interleave import Batch, race, repeat, show
from benchmarks.words import POINT, make_app, make_database
from flask_dbopt import DBOptimizer
from flask_dbopt.engines.protocol import Condition, Identity
from flask_dbopt.engines.sqlite.connector import SQLiteConnector
from flask_dbopt.engines.sqlite.tuning import Tuning
from flask_dbopt.pool.pool import Pool

THREADS, CONNECTIONS = 16, 8
SECONDS = 1.5
ROUNDS = 5

#: A loan: a connection to use until its ``close()``.
Lend = Callable[[], Any]


def lenders(folder: Path, path: Path, size: int) -> dict[str, Lend]:
    """Pools of ``size`` connections to one file; ours as an app has it, its figures on."""
    app = make_app(f"pool-{id(path)}", folder)
    dbopt = DBOptimizer(app, database=path, pool_max=size, pool_min=min(size, 5))
    open_ = lambda: sqlite3.connect(path, check_same_thread=False)  # noqa: E731
    queue = QueuePool(open_, pool_size=size, max_overflow=0, timeout=60)
    shared = PooledDB(sqlite3, maxconnections=size, blocking=True, database=str(path), check_same_thread=False)
    return {
        "Flask-DBOpt": lambda app=app: dbopt.connect(check_same_thread=False),  # the app must live as long
        "SQLAlchemy's QueuePool": queue.connect,
        "DBUtils' PooledDB": lambda: shared.connection(shareable=False),
    }


class NoEngine:
    """A Connector that does nothing: what is left is the pool's own work."""

    def open(self, key: Hashable) -> tuple[Any, Identity | None]:
        return NoEngine(), (1, 2)

    def identity(self) -> Identity | None:
        return 1, 2

    def lend(self, connection: Any, give_back: Callable[[Any], None]) -> None: ...

    def take_back(self, connection: Any) -> Condition:
        return Condition.CLEAN

    def is_alive(self, connection: Any) -> bool:
        return True

    def close(self, connection: Any) -> None: ...


def loans(folder: Path, path: Path) -> None:
    def borrow(lend: Lend) -> Batch:
        return repeat(lambda: lend().close())

    pool = Pool("own work", NoEngine())
    contenders = {name: borrow(lend) for name, lend in lenders(folder, path, CONNECTIONS).items()}
    contenders["(the os.stat in each loan of ours)"] = repeat(SQLiteConnector(path, Tuning({}), None).identity)  # type: ignore[arg-type]
    contenders["(our pool's own work in it)"] = repeat(lambda: pool.take_back(pool.lend(None, None, "benchmark")))
    results = race(contenders, count=2_000, rounds=60)
    show("Check-out and return, one thread", results, "DBUtils' PooledDB")


def crowd(lend: Lend, hold: float) -> tuple[list[int], float]:
    """Loans of each of many threads within some seconds, and the longest wait for one, in seconds."""
    turns = [0] * THREADS
    longest = [0.0] * THREADS
    start = threading.Barrier(THREADS + 1)
    end = [0.0]

    def work(number: int) -> None:
        start.wait()
        while (asked := time.perf_counter()) < end[0]:
            connection = lend()
            longest[number] = max(longest[number], time.perf_counter() - asked)
            cursor = connection.cursor()
            cursor.execute(POINT, (number,))
            cursor.fetchone()
            cursor.close()
            if hold:
                time.sleep(hold)
            connection.close()
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    end[0] = time.perf_counter() + SECONDS
    start.wait()
    for thread in threads:
        thread.join()
    return turns, max(longest)


def crowds(folder: Path, path: Path, hold: float) -> None:
    contenders = lenders(folder, path, CONNECTIONS)
    runs: dict[str, list[tuple[list[int], float]]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, lend in contenders.items():
            runs[name].append(crowd(lend, hold))
    held = f"each held {hold * 1000:g} ms" if hold else "given back at once"
    print(f"\n{THREADS} threads on {CONNECTIONS} connections, {held}")
    print(f"| {'pool':<24} | loans/s | starved threads | fewest/most | longest wait ms |")
    print(f"| {'-' * 24} | ------: | --------------: | ----------: | --------------: |")
    for name, taken in runs.items():
        rate = statistics.median(sum(turns) / SECONDS for turns, _ in taken)
        starved = statistics.median(turns.count(0) for turns, _ in taken)
        spread = statistics.median(min(turns) / max(turns) for turns, _ in taken)
        wait = statistics.median(longest for _, longest in taken) * 1000
        print(f"| {name:<24} | {rate:>7.0f} | {starved:>15.0f} | {spread:>11.2f} | {wait:>15.1f} |")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_database(folder)
        loans(folder, path)
        crowds(folder, path, 0)
        crowds(folder, path, 0.002)


if __name__ == "__main__":
    main()
