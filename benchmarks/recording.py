"""What it costs that every query is known: a query recorded, a long result read, and a request with three queries."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from flask import Flask, g
from flask_sqlalchemy import SQLAlchemy
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from werkzeug.test import EnvironBuilder

from benchmarks.interleave import Batch, difference, race, repeat, show
from benchmarks.words import POINT, connect, make_app, make_database
from flask_dbopt import DBOptimizer


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


class Nowhere(SpanExporter):
    """The cheapest exporter there is."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def opentelemetry(path: Path) -> tuple[Batch, TracerProvider]:
    """Its own instrumentation of ``sqlite3``, with a batch processor, as its documentation has it."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    traced = SQLite3Instrumentor().instrument_connection(connect(path), tracer_provider=provider)
    return repeat(lambda: traced.cursor().execute(POINT, (5,)).fetchall()), provider


def queries(folder: Path, path: Path) -> None:
    raw = connect(path)
    app = make_app("ours", folder)
    dbopt = DBOptimizer(app, database=path)
    ours = dbopt.connect()
    traced, provider = opentelemetry(path)
    contenders: dict[str, Batch] = {
        "raw sqlite3": repeat(lambda: raw.execute(POINT, (5,)).fetchall()),
        "Flask-DBOpt": repeat(lambda: ours.execute(POINT, (5,)).fetchall()),
        "raw sqlite3, fetchone": repeat(lambda: raw.execute(POINT, (5,)).fetchone()),
        "Flask-DBOpt, fetchone": repeat(lambda: ours.execute(POINT, (5,)).fetchone()),
        "OpenTelemetry's instrumentation": traced,
        "SQLAlchemy through Flask-SQLAlchemy": flask_sqlalchemy(folder, path, record=False),
        "the same with SQLALCHEMY_RECORD_QUERIES": flask_sqlalchemy(folder, path, record=True),
    }
    results = race(contenders, count=2_000, rounds=60)
    show("A point SELECT with fetchall, recorded and not", results, "raw sqlite3")
    cost = difference(results["Flask-DBOpt"], results["raw sqlite3"])
    quick = difference(results["Flask-DBOpt, fetchone"], results["raw sqlite3, fetchone"])
    plain, recording = list(results.values())[-2:]
    print(f"\nRecording a query costs {cost * 1e6:.2f} µs, read with fetchone {quick * 1e6:.2f} µs")
    fold = folding(dbopt)
    print(f"  and {fold * 1e6:.2f} µs later, off the request's path, to be added up")
    for name, peer in (
        ("Flask-SQLAlchemy's recording", difference(recording, plain)),
        (
            "OpenTelemetry's instrumentation",
            difference(results["OpenTelemetry's instrumentation"], results["raw sqlite3"]),
        ),
    ):
        print(f"  {name}: {peer * 1e6:.2f} µs, {peer / cost:.1f} times as much")
    provider.shutdown()
    ours.close()
    raw.close()
    dbopt.optimizer.close()


def folding(dbopt: DBOptimizer) -> float:
    """Seconds a statement to fold what was recorded, as the sweep does."""
    monitor = dbopt.optimizer.monitor
    rounds = []
    for _ in range(20):
        cost = monitor.recorder.begin("benchmark", "GET")
        for _ in range(1_000):
            monitor.recorder.record(POINT, 5e-6, 1, None, False, 0.0)
        monitor.recorder.end(cost, 200)
        start = time.perf_counter()
        monitor.overall()
        rounds.append((time.perf_counter() - start) / 1_000)
    return statistics.median(rounds)


def iteration(folder: Path, path: Path) -> None:
    """Row by row through a long result: the driver's own loop, on a connection of ours."""
    # Without the cache, which would answer, and nothing be iterated.
    app = make_app("iteration", folder, DBOPT_CACHE_ENABLED=False)
    dbopt = DBOptimizer(app, database=path)
    raw, ours = connect(path), dbopt.connect()

    def iterate(connection: Any) -> Batch:
        def run(count: int) -> None:
            for _ in range(count):
                for _row in connection.execute("SELECT id, text FROM word LIMIT 20000"):
                    pass

        return run

    results = race({"raw sqlite3": iterate(raw), "Flask-DBOpt": iterate(ours)}, count=1, rounds=60)
    show("Iterating 20,000 rows", results, "raw sqlite3")
    ours.close()
    raw.close()
    app.extensions["dbopt"].close()


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
        iteration(folder, path)
        requests(folder, path)


if __name__ == "__main__":
    main()
