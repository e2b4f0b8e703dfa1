"""What a loan costs, and who gets one when there are more threads than connections."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from dbutils.pooled_db import PooledDB
from sqlalchemy.pool import QueuePool

from benchmarks.crowd import CONNECTIONS, Turn, compete
from benchmarks.interleave import Batch, race, repeat, show
from benchmarks.words import POINT, make_app, make_database
from flask_dbopt import DBOptimizer
from flask_dbopt.engines.protocol import Condition, Identity
from flask_dbopt.engines.sqlite.connector import SQLiteConnector
from flask_dbopt.engines.sqlite.tuning import Tuning
from flask_dbopt.pool.pool import Pool

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
    contenders["(the stat in each loan of ours)"] = repeat(SQLiteConnector(path, Tuning({}), None).identity)  # type: ignore[arg-type]
    contenders["(our pool's own work in it)"] = repeat(lambda: pool.take_back(pool.lend(None, None, "benchmark")))
    results = race(contenders, count=2_000, rounds=60)
    show("Check-out and return, one thread", results, "DBUtils' PooledDB")


def crowds(folder: Path, path: Path, hold: float) -> None:
    def using(lend: Lend) -> Turn:
        def turn(number: int) -> float:
            asked = time.perf_counter()
            connection = lend()
            waited = time.perf_counter() - asked
            cursor = connection.cursor()
            cursor.execute(POINT, (number,))
            cursor.fetchone()
            cursor.close()
            if hold:
                time.sleep(hold)
            connection.close()
            return waited

        return turn

    compete("", {name: using(lend) for name, lend in lenders(folder, path, CONNECTIONS).items()}, hold)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_database(folder)
        loans(folder, path)
        crowds(folder, path, 0)
        crowds(folder, path, 0.002)


if __name__ == "__main__":
    main()
