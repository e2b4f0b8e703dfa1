"""Where in the app a statement comes from: found at its first run, and for slow ones the whole way there."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.monitor.recorder import LOOKS, PLACES, Recorder

HERE = Path(__file__).name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO word VALUES (1, 'a')")
    connection.close()
    return path


def make(path: Path, **settings: Any) -> tuple[Flask, DBOptimizer]:
    app = Flask("places", instance_path=str(path.parent))
    app.testing = True
    return app, DBOptimizer(app, database=path, **settings)


def line_of(text: str) -> int:
    """Where in this file a text stands first, after this function."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line and "line_of" not in line)


def test_a_statement_is_known_by_the_line_of_the_app_that_runs_it(path: Path) -> None:
    _app, dbopt = make(path)
    with dbopt.borrow() as connection:
        connection.execute("SELECT text FROM word WHERE id = 1").fetchall()
    places = dbopt.monitor.recorder.places
    assert places["SELECT text FROM word WHERE id = 1"].endswith(f"{HERE}:{line_of('WHERE id = 1')}")


def test_what_a_library_runs_for_the_app_is_the_apps(path: Path) -> None:
    """``json`` stands for whatever an app calls that calls it back: the innermost line of the app's own counts."""
    _app, dbopt = make(path)

    def ask(pairs: Any) -> None:
        with dbopt.borrow() as connection:
            connection.execute("SELECT 2 FROM word").fetchall()

    json.loads("{}", object_pairs_hook=ask)
    assert dbopt.monitor.recorder.places["SELECT 2 FROM word"].endswith(f"{HERE}:{line_of('SELECT 2 FROM word')}")


def test_where_all_is_installed_the_innermost_installed_line_is_told(tmp_path: Path) -> None:
    """An app that came as a package has no lines of its own beside it: a process that runs nothing else."""
    folder = tmp_path / "site-packages" / "shop"
    folder.mkdir(parents=True)
    folder.joinpath("views.py").write_text(
        "import sys\nfrom flask_dbopt.monitor.recorder import Recorder\nrecorder = Recorder()\n"
        "recorder.sight('SELECT 3')\nprint(recorder.places['SELECT 3'])\n"
    )
    ran = subprocess.run(
        [sys.executable, str(folder / "views.py")], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert ran.stdout.strip() == "shop/views.py:4"


def test_a_slow_statement_leaves_the_way_to_it(path: Path) -> None:
    app, dbopt = make(path, monitor_slow_seconds=0.0)

    @app.get("/")
    def index() -> str:
        return str(dbopt.connection.execute("SELECT text FROM word WHERE id = ?", (1,)).fetchall())

    app.test_client().get("/")
    (sample,) = [s for s in dbopt.monitor.recorder.slow if "WHERE id = ?" in s.record[0]]
    assert sample.endpoint == "index"
    assert sample.parameters is None, "values are not kept unless they were asked for"
    assert sample.stack[0].endswith("in test_a_slow_statement_leaves_the_way_to_it.<locals>.index")
    assert not any("flask_dbopt" in line.rpartition("/")[0] for line in sample.stack)


@pytest.mark.parametrize("way", ["execute", "cursor", "executemany", "script", "commit"])
def test_every_way_to_run_a_statement_is_sampled(path: Path, way: str) -> None:
    _app, dbopt = make(path, monitor_slow_seconds=0.0)
    insert = "INSERT INTO word (text) VALUES (?)"
    with dbopt.borrow() as connection:
        if way == "execute":
            connection.execute(insert, ("b",))
        elif way == "cursor":
            connection.cursor().execute(insert, ("b",))
        elif way == "executemany":
            connection.executemany(insert, [("b",)])
        elif way == "script":
            connection.executescript("DELETE FROM word")
        else:
            connection.execute(insert, ("b",))
            connection.commit()
    wanted = {"script": "DELETE FROM word", "commit": "COMMIT"}.get(way, insert)
    assert wanted in [sample.record[0] for sample in dbopt.monitor.recorder.slow]


def test_parameters_are_kept_with_a_slow_statement_when_that_was_asked_for(path: Path) -> None:
    _app, dbopt = make(path, monitor_slow_seconds=0.0, monitor_record_params=True)
    with dbopt.borrow() as connection:
        for _ in range(3):
            connection.execute("SELECT text FROM word WHERE id = ?", (7,)).fetchall()
    assert {sample.parameters for sample in dbopt.monitor.recorder.slow if "id = ?" in sample.record[0]} == {(7,)}


def test_a_statement_that_is_slow_only_while_it_is_fetched_is_sampled_once(path: Path) -> None:
    _app, dbopt = make(path, monitor_slow_seconds=0.02)
    slow = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i), i % 7 FROM n"
        " GROUP BY i % 7"
    )
    every = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000) SELECT i FROM n"
    with dbopt.borrow() as connection:
        for _ in range(2):
            connection.execute(slow).fetchall()
            connection.execute(every).fetchall()
    sampled = [sample.record[0] for sample in dbopt.monitor.recorder.slow]
    assert sampled.count(slow) == sampled.count(every) == 2


def test_an_app_that_makes_a_new_text_each_time_is_looked_at_now_and_then_only() -> None:
    now = 0.0
    recorder = Recorder(timer=lambda: now)
    for number in range(10 * LOOKS):
        recorder.sight(f"SELECT {number}")
    assert len(recorder.places) == LOOKS
    now = 1.0
    recorder.sight("SELECT 'later'")
    assert "SELECT 'later'" in recorder.places
    for number in range(100):
        now += 1.0
        for again in range(LOOKS):
            recorder.sight(f"SELECT {number}, {again}")
    assert len(recorder.places) <= PLACES
