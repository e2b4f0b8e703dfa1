"""What it costs that every query is known: a query recorded, and a request with three of them."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from flask import Flask, g
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import EnvironBuilder

from benchmarks.interleave import Batch, difference, race, repeat, show
from flask_dbopt import DBOptimizer
from flask_dbopt.settings import SQLITE_PRAGMAS

POINT = "SELECT text FROM word WHERE id = ?"


def make_database(folder: Path) -> Path:
    """100,000 rows, and the same tuning for every contender."""
    path = folder / "app.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
    connection.executemany("INSERT INTO word (text) VALUES (?)", ((f"word {n}",) for n in range(100_000)))
    connection.commit()
    connection.close()
    return path


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    for name, value in SQLITE_PRAGMAS.items():
        connection.execute(f"PRAGMA {name}={value}").fetchall()
    return connection


def make_app(name: str, folder: Path, **config: Any) -> Flask:
    app = Flask(name, instance_path=str(folder / name))
    app.config.update(config)
    return app


def flask_sqlalchemy(folder: Path, path: Path, *, record: bool) -> Batch:
    app = make_app(
        f"orm{record}", folder, SQLALCHEMY_DATABASE_URI=f"sqlite:///{path}", SQLALCHEMY_RECORD_QUERIES=record
    )
    db = SQLAlchemy(app)
    with app.app_context():
        connection = db.engine.connect()
    statement = sqlalchemy.text(POINT.replace("?", ":id"))

    def run(count: int) -> None:
        with app.app_context():  # where the extension keeps its records, until the request ends
            for _ in range(count):
                connection.execute(statement, {"id": 5}).fetchall()

    return run


def queries(folder: Path, path: Path) -> None:
    raw = connect(path)
    app = make_app("ours", folder)
    dbopt = DBOptimizer(app, database=path)
    ours = dbopt.connect()
    contenders: dict[str, Batch] = {
        "raw sqlite3": repeat(lambda: raw.execute(POINT, (5,)).fetchall()),
        "Flask-DBOpt": repeat(lambda: ours.execute(POINT, (5,)).fetchall()),
        "SQLAlchemy through Flask-SQLAlchemy": flask_sqlalchemy(folder, path, record=False),
        "the same with SQLALCHEMY_RECORD_QUERIES": flask_sqlalchemy(folder, path, record=True),
    }
    results = race(contenders, count=2_000, rounds=60)
    show("A point SELECT with fetchall, recorded and not", results, "raw sqlite3")
    cost = difference(results["Flask-DBOpt"], results["raw sqlite3"])
    plain, recording = list(results.values())[2:]
    peer = difference(recording, plain)
    print(f"\nRecording a query costs {cost * 1e6:.2f} µs; Flask-SQLAlchemy's recording {peer * 1e6:.2f} µs,", end=" ")
    print(f"{peer / cost:.1f} times as much")
    ours.close()
    raw.close()
    dbopt.optimizer.close()


def requests(folder: Path, path: Path) -> None:
    kept = connect(path)
    dbopt_app = make_app("request-ours", folder)
    dbopt = DBOptimizer(dbopt_app, database=path)

    def serve(app: Flask, open_: Callable[[], Any], close: Callable[[Any], None]) -> Batch:
        """The tutorial's way: one connection a request, opened at first use, closed at its end."""

        def get_db() -> Any:
            if "db" not in g:
                g.db = open_()
                g.db.row_factory = sqlite3.Row
            return g.db

        @app.teardown_appcontext
        def close_db(error: BaseException | None) -> None:
            connection = g.pop("db", None)
            if connection is not None:
                close(connection)

        @app.get("/")
        def index() -> str:
            return "".join(get_db().execute(POINT, (id_,)).fetchone()["text"] for id_ in (5, 50_000, 99_999))

        environment = EnvironBuilder(path="/").get_environ()
        return repeat(lambda: list(app.wsgi_app(dict(environment), lambda *_: None)))  # type: ignore[arg-type,return-value]

    contenders = {
        "one kept raw connection": serve(make_app("kept", folder), lambda: kept, lambda connection: None),
        "Flask-DBOpt": serve(dbopt_app, dbopt.connect, lambda connection: connection.close()),
        "sqlite3.connect a request (the tutorial's)": serve(
            make_app("tutorial", folder), lambda: sqlite3.connect(path), lambda connection: connection.close()
        ),
    }
    results = race(contenders, count=100, rounds=80)
    show("A request with three point SELECTs", results, "one kept raw connection")
    cost = difference(results["Flask-DBOpt"], results["one kept raw connection"])
    print(f"\nA request with three queries costs {cost * 1e6:.1f} µs over the same app on one kept connection")
    kept.close()
    dbopt.optimizer.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_database(folder)
        queries(folder, path)
        requests(folder, path)


if __name__ == "__main__":
    main()
