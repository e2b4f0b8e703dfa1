"""Real apps: streams counted to their end, commands and jobs by their names, short processes that end at once."""

import gc
import json
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import click
import pytest
from flask import Flask, stream_with_context
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flask_dbopt import DBOptimizer
from flask_dbopt.monitor.sums import identify

EVERY = "SELECT text FROM word ORDER BY id"
APP = """
import threading, time
import click
from flask import Flask
from flask_dbopt import DBOptimizer

app = Flask("words", instance_path={folder!r})
app.config.update(DATABASE={database!r}, DBOPT_MONITOR_SLOW_SECONDS=0.05)
dbopt = DBOptimizer(app)
group = click.Group("words", help="Words.")
app.cli.add_command(group)

def write(count):
    with dbopt.transaction() as connection:
        for number in range(count):
            connection.execute("INSERT INTO word(text) VALUES (?)", (str(number),))

@group.command("import")
@click.argument("count", type=int)
@click.option("--rest", default=0.0)
def import_words(count, rest):
    write(count)
    if rest:
        print("written", flush=True)
        time.sleep(rest)

@app.cli.command("nightly")
def nightly():
    with dbopt.monitor.job("prune"):
        write(1)
    thread = threading.Thread(target=write, args=(2,))
    thread.start()
    thread.join()

@app.cli.command("fails")
def fails():
    write(3)
    raise SystemExit(3)
"""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "words.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO word(text) VALUES (?)", ((f"word {n}",) for n in range(3_000)))
        connection.commit()
    return path


def test_what_is_no_statement_at_all_does_not_stand_in_the_way_of_the_others(tmp_path, database):
    site = Flask("words", instance_path=str(tmp_path / "instance"))
    site.testing = True
    dbopt = DBOptimizer(site, database=database)
    with dbopt.borrow() as connection:
        for nonsense in (["SELECT 1"], {}, 5, None, b"SELECT 1"):
            for run in (connection.execute, connection.cursor().execute, connection.executescript):
                with pytest.raises(TypeError):
                    run(nonsense)
            with pytest.raises(TypeError):
                connection.executemany(nonsense, ())
        connection.execute(EVERY).fetchone()
        connection.execute("DELETE FROM word WHERE id = 1")
        connection.commit()
    assert {each.query for each in dbopt.monitor.queries()} == {EVERY, "DELETE FROM word WHERE id = ?", "COMMIT"}
    site.extensions["dbopt"].close()


# --- streams ---


@pytest.fixture
def streaming(tmp_path, database):
    app = Flask("streams", instance_path=str(tmp_path / "instance"))
    app.config.update(TESTING=True, DATABASE=str(database))
    app.extensions["ours"] = dbopt = DBOptimizer(app)

    @app.get("/stream")
    def stream():
        def lines():
            for (text,) in dbopt.connection.execute(EVERY):
                yield text + "\n"
                time.sleep(0.00002)
            yield f"{dbopt.connection.execute('SELECT count(*) FROM word').fetchone()[0]}\n"

        return app.response_class(stream_with_context(lines()), mimetype="text/plain")

    @app.get("/all")
    def everything():
        def lines():
            for (text,) in dbopt.connection.execute(EVERY).fetchall():
                yield text

        return app.response_class(stream_with_context(lines()), mimetype="text/plain")

    @app.get("/lazy")
    def lazy():
        cursor = dbopt.connection.execute(EVERY)
        return {"first": [next(cursor)[0] for _ in range(3)]}

    @app.get("/lines")
    def lines():
        return (f"{number}\n" for number in range(10))

    @app.get("/torn")
    def torn():
        def lines():
            yield dbopt.connection.execute("SELECT count(*) FROM word").fetchone()[0] and "some"
            raise LookupError

        return app.response_class(stream_with_context(lines()))

    @app.get("/nothing")
    def nothing():
        return app.response_class((line for line in ("never", "sent")), status=204)

    yield app
    app.extensions["dbopt"].close()


def ask(app, path):
    """The answer's chunks as a server gets them."""
    chunks, status, _ = run_wsgi_app(app, EnvironBuilder(path).get_environ(), buffered=False)
    assert status == "200 OK"
    return chunks


def test_a_streamed_response_is_one_request_that_lasts_until_its_end(streaming):
    monitor = streaming.extensions["ours"].optimizer.monitor
    chunks = ask(streaming, "/stream")
    next(chunks)
    assert monitor.endpoints() == [], "it is still running"
    assert sum(1 for _ in chunks) == 3_000
    chunks.close()
    (row,) = monitor.endpoints()
    assert (row.endpoint, row.calls, row.queries) == ("stream", 1, 2)
    assert row.total_time > 50, "the time that the stream took, not the time to its first byte"
    assert {query.query: query.calls for query in monitor.queries()} == {EVERY: 1, "SELECT count(*) FROM word": 1}
    assert {query.endpoints for query in monitor.queries()} == {("stream",)}


def test_the_rows_of_a_generator_that_fetches_all_are_counted(streaming):
    client = streaming.test_client()
    assert len(client.get("/all").text) > 3_000
    (query,) = streaming.extensions["ours"].optimizer.monitor.queries()
    assert (query.calls, query.rows) == (1, 3_000)


def test_a_client_that_hangs_up_ends_the_request(streaming):
    chunks = ask(streaming, "/stream")
    next(chunks)
    chunks.close()
    (row,) = streaming.extensions["ours"].optimizer.monitor.endpoints()
    assert (row.calls, row.queries) == (1, 1)


def test_a_stream_that_breaks_off_is_a_request_that_failed(streaming):
    chunks = ask(streaming, "/torn")
    assert next(chunks) == b"some"
    with pytest.raises(LookupError):
        next(chunks)
    (row,) = streaming.extensions["ours"].optimizer.monitor.endpoints()
    assert (row.calls, row.errors, row.queries) == (1, 1, 1)
    chunks.close()
    assert streaming.extensions["ours"].optimizer.monitor.endpoints()[0].calls == 1


def test_responses_that_nobody_reads_end_their_requests_all_the_same(streaming):
    client = streaming.test_client()
    client.head("/stream")
    client.get("/nothing")
    client.get("/missing")
    client.get("/static/missing.css")
    rows = streaming.extensions["ours"].optimizer.monitor.endpoints()
    assert {row.endpoint: row.calls for row in rows} == {"stream": 1, "nothing": 1, "(no route)": 1, "static": 1}


def test_a_stream_that_is_dropped_ends_its_request(streaming):
    chunks = ask(streaming, "/lines")
    next(chunks)
    del chunks
    gc.collect()
    (row,) = streaming.extensions["ours"].optimizer.monitor.endpoints()
    assert (row.endpoint, row.calls) == ("lines", 1)


def test_a_cursor_that_is_read_in_part_counts_as_one_run(streaming):
    assert streaming.test_client().get("/lazy").json == {"first": ["word 0", "word 1", "word 2"]}
    (query,) = streaming.extensions["ours"].optimizer.monitor.queries()
    assert (query.calls, query.errors) == (1, 0)


# --- what the cursor catches ---


def test_a_slow_statement_of_a_real_request_is_kept_with_its_place_its_stack_and_its_plan(tmp_path, database):
    app = Flask("slow", instance_path=str(tmp_path / "instance"))
    app.config.update(DATABASE=str(database), DBOPT_MONITOR_SLOW_SECONDS=1e-7, DBOPT_MONITOR_RECORD_PARAMS=True)
    dbopt = DBOptimizer(app)
    search = "SELECT count(*) FROM word WHERE text = ?"

    @app.get("/slow")
    def slow():
        return {"count": dbopt.connection.execute(search, ("word 7",)).fetchone()[0]}

    try:
        assert app.test_client().get("/slow").json == {"count": 1}
        monitor = dbopt.optimizer.monitor
        for _ in range(2):
            monitor.sweep(time.time())
        name = identify(search)
        assert monitor.query(name).place.endswith(f"{Path(__file__).name}:{slow.__code__.co_firstlineno + 2}")
        details = monitor.details(name)
        (run,) = details.slow_runs
        assert (run.endpoint, run.parameters) == ("slow", "'word 7'")
        assert any(line.endswith("in slow") or "slow" in line for line in run.stack)
        (plan,) = details.plans
        assert "reads all 3,000 rows of word" in plan.lines[0]
    finally:
        dbopt.optimizer.close()


# --- processes without requests ---


@pytest.fixture
def flask(tmp_path, database):
    """Run ``flask …`` on the app; its output."""
    folder = tmp_path / "instance"
    (tmp_path / "words_app.py").write_text(dedent(APP.format(folder=str(folder), database=str(database))))

    def flask(*words, expected=0):
        told = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "words_app", *words],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert told.returncode == expected, told.stderr
        return told.stdout

    flask.folder = tmp_path
    return flask


def figures(flask):
    report = json.loads(flask("db-opt", "stats", "--json"))
    calls = {query["query"]: query["calls"] for query in report["queries"]}
    return calls, {row["endpoint"]: row for row in report["endpoints"]}, report


@pytest.mark.parametrize(
    ("words", "booked"),
    [
        (["-A", "streams", "words", "-v", "count"], {"command: words count"}),
        (["--app=streams", "single", "words"], {"command: single"}),
        (["unknown"], set()),
        ([], set()),
    ],
)
def test_what_runs_under_a_command_is_booked_on_the_words_that_name_it(streaming, monkeypatch, words, booked):
    dbopt = streaming.extensions["ours"]

    def count(**_):
        with dbopt.borrow() as connection:
            connection.execute("SELECT count(*) FROM word").fetchone()

    streaming.cli.command("single")(count)
    streaming.cli.add_command(click.Group("words", {"count": click.Command("count", callback=count)}))
    monkeypatch.setattr("sys.argv", ["flask", *words])
    assert streaming.test_cli_runner().invoke(args=["single"]).exit_code == 0
    monitor = dbopt.optimizer.monitor
    assert {row.endpoint for row in monitor.endpoints()} == booked
    assert monitor.queries()[0].endpoints == tuple(booked)
    with dbopt.borrow() as connection:
        connection.execute("SELECT max(id) FROM word").fetchone()
    assert () in {query.endpoints for query in monitor.queries()}, "the command is over"


def test_a_command_that_ends_at_once_has_told_all_it_did(flask):
    flask("words", "import", "20")
    flask("words", "import", "5")
    calls, endpoints, report = figures(flask)
    assert calls["INSERT INTO word(text) VALUES (?)"] == 25
    assert set(endpoints) == {"command: words import"}
    assert endpoints["command: words import"]["calls"] == 2
    assert endpoints["command: words import"]["transactions"] == 2
    assert report["overview"]["requests"] == 0
    assert report["workers"] == report["lost_workers"] == []
    figures(flask)
    assert set(figures(flask)[1]) == {"command: words import"}, "to look at the figures does not change them"


def test_a_command_that_fails_has_told_all_it_did(flask):
    flask("fails", expected=3)
    calls, endpoints, _ = figures(flask)
    assert calls["INSERT INTO word(text) VALUES (?)"] == 3
    assert endpoints["command: fails"]["queries"] >= 3


def test_jobs_and_threads_of_a_command_count(flask):
    flask("nightly")
    calls, endpoints, _ = figures(flask)
    assert calls["INSERT INTO word(text) VALUES (?)"] == 3
    assert endpoints["job: prune"]["calls"] == 1
    assert endpoints["command: nightly"]["queries"] >= 4


def test_a_long_command_is_seen_while_it_runs(flask):
    command = [sys.executable, "-m", "flask", "-A", "words_app", "words", "import", "7", "--rest", "60"]
    with subprocess.Popen(command, cwd=flask.folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "written\n"
            deadline = time.monotonic() + 20
            while not (found := figures(flask))[0] and time.monotonic() < deadline:
                time.sleep(0.2)
            calls, _, report = found
            assert calls["INSERT INTO word(text) VALUES (?)"] == 7
            assert [worker["pid"] for worker in report["workers"]] == [process.pid]
        finally:
            process.kill()


def test_plain_threads_count_too(streaming):
    dbopt = streaming.extensions["ours"]

    def work():
        with dbopt.borrow() as connection:
            connection.execute(EVERY).fetchall()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (query,) = dbopt.optimizer.monitor.queries()
    assert (query.calls, query.rows, query.endpoints) == (5, 15_000, ())
