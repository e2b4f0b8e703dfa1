"""optimize, advise, doctor, worker: what is found, what is done, and what is left for a person."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

pytestmark = pytest.mark.usefixtures("busy_site")


def indexes(path):
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")]


def test_advice_is_shown_and_nothing_is_changed(say, ask, database):
    code, told = ask("advise")
    assert code == 1
    (advice,) = told["recommendations"]
    assert (advice["table"], advice["columns"]) == ("word", ["text"])
    shown = say("advise")
    assert shown.exit_code == 1
    assert f"flask db-opt advise --apply {advice['id']}" in shown.output
    assert indexes(database) == []


def test_advice_is_followed_when_told_to_after_a_backup(say, ask, database):
    identity = ask("advise")[1]["recommendations"][0]["id"]
    refused = say("advise", "--apply", identity)
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    told = say("advise", "--apply", identity, "--yes")
    assert told.exit_code == 0
    assert len(indexes(database)) == 1
    assert f"DROP INDEX {indexes(database)[0]}" in told.output.replace('"', "")
    assert ask("backups")[1]["backups"][0]["label"] == f"before index {identity}"
    assert ask("advise") == (0, {"database": "default", "recommendations": []})
    assert "No index would help" in say("advise").output


def test_advice_that_is_not_given_cannot_be_followed(ask):
    code, told = ask("advise", "--apply", "000000000000", "--yes")
    assert code == 2
    assert "there is now" in told["hint"]


def test_a_dry_run_of_optimize_changes_nothing(say, ask, database):
    code, told = ask("optimize", "--dry-run", "--vacuum", "--apply")
    assert code == 1
    assert [deed["name"] for deed in told["databases"][0]["deeds"]] == ["vacuum", "analyze", "checkpoint"]
    assert not any(deed["done"] for deed in told["databases"][0]["deeds"])
    assert "would analyze" in say("optimize", "--dry-run").output
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT * FROM sqlite_schema WHERE name = 'sqlite_stat1'").fetchall() == []


def test_optimize_brings_statistics_and_wal_into_order(ask, database):
    _, told = ask("optimize", "--database", "default")
    deeds = {deed["name"]: deed for deed in told["databases"][0]["deeds"]}
    assert deeds["analyze"]["done"]
    assert deeds["checkpoint"]["done"]
    assert not told["databases"][0]["recommendations"][0]["applied"]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_stat1").fetchone()[0] == 1


def test_optimize_builds_and_vacuums_only_when_told_to(say, database):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM word WHERE id > 1500")
        connection.commit()
    size = database.stat().st_size
    assert say("optimize", "--vacuum").exit_code == 2
    told = say("optimize", "--vacuum", "--apply", "--yes")
    assert "given back" in told.output
    assert "built: CREATE INDEX" in told.output
    assert len(indexes(database)) == 1
    assert database.stat().st_size < 2 * size


def test_optimize_asks_anew_after_each_index_since_one_may_do_for_two(ask, site, database):
    """A join may go either way: either table's index helps, and with one of them nobody wants the other."""
    join = "SELECT word.text FROM word JOIN use_ ON use_.word = word.text"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE use_ (word TEXT, place TEXT)")
        connection.execute("INSERT INTO use_ SELECT text, 'place ' || id FROM word")
        connection.commit()
    optimizer = site.extensions["dbopt"]
    for _ in range(12):
        optimizer.monitor.recorder.record(join, 0.1, 1, None, False)
        optimizer.monitor.recorder.record("SELECT word FROM use_ WHERE place = ?", 0.05, 1, None, False)
    optimizer.monitor.flush()
    _, told = ask("advise")
    offered = [each["id"] for each in told["recommendations"]]
    code, told = ask("optimize", "--apply", "--yes")
    assert code != 2, told
    built = told["databases"][0]["recommendations"]
    assert len(built) < len(offered), "one of those offered was not wanted any more"
    assert all(each["applied"] for each in built)
    assert len(indexes(database)) == len(built)
    labels = [each["label"] for each in ask("backups")[1]["backups"]]
    assert labels == [f"before index {each['id']}" for each in reversed(built)]
    assert ask("advise")[1]["recommendations"] == []


def test_optimize_goes_on_when_a_writer_holds_the_database(ask, make_app, database):
    app = make_app(DBOPT_SQLITE_BUSY_TIMEOUT=0.1)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        _, told = ask("optimize", creates=lambda: app)
    deeds = told["databases"][0]["deeds"]
    assert {deed["name"]: deed["done"] for deed in deeds} == {"analyze": False, "checkpoint": False}
    assert all("locked" in deed["result"] for deed in deeds)


def test_the_doctor_finds_what_is_missing(say, ask):
    code, told = ask("doctor")
    assert code == 1
    levels = {one["check"]: one["level"] for one in told["findings"]}
    assert levels["backup"] == "problem"
    assert levels["pragmas"] == "ok"
    assert levels["durability"] == "ok"
    assert {"sqlite", "wal", "file system", "disk", "limits", "scheduler", "admin page", "state folder"} <= set(levels)
    assert all(one["hint"] for one in told["findings"] if one["level"] == "problem")
    shown = say("doctor")
    assert "flask db-opt backup" in shown.output
    assert "1 problem" in shown.output


def test_the_doctor_leaves_the_figures_as_they_are(ask, busy_site):
    before = ask("stats")[1]["queries"]
    ask("doctor")
    assert [one["query"] for one in ask("stats")[1]["queries"]] == [one["query"] for one in before]


def test_the_doctor_is_content_when_all_is_well(ask):
    ask("backup")
    code, told = ask("doctor")
    assert (code, told["healthy"]) == (0, True), told


def test_the_doctor_says_that_a_database_is_not_there_or_is_none(ask, make_app, tmp_path):
    _, told = ask("doctor", creates=lambda: make_app(DBOPT_DATABASE=str(tmp_path / "none.db")))
    assert [one["check"] for one in told["findings"] if one["level"] == "problem"] == ["file"]
    (tmp_path / "text.db").write_text("this is no database, but long enough to look at" * 40)
    code, told = ask("doctor", creates=lambda: make_app(DBOPT_DATABASE=str(tmp_path / "text.db")))
    assert code == 1
    assert any("not a database" in one["message"] for one in told["findings"])


def test_the_doctor_says_that_the_optimizer_is_off(ask, make_app):
    _, told = ask("doctor", creates=lambda: make_app(DBOPT_ENABLED=False, DBOPT_DATABASE=None))
    assert ("optimizer", "switched off") in [(one["check"], one["message"]) for one in told["findings"]]


def test_a_worker_runs_until_it_is_told_to_stop(tmp_path):
    (tmp_path / "site_.py").write_text(
        "from flask import Flask\nfrom flask_dbopt import DBOptimizer\napp = Flask(__name__)\n"
        "DBOptimizer(app, database='app.db', backup_interval_hours=24)\n"
    )
    command = [sys.executable, "-m", "flask", "--app", "site_", "db-opt", "worker", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        started = json.loads(worker.stdout.readline())
        assert started["state"] == "started"
        assert started["next_backup"] > 0
        worker.send_signal(signal.SIGTERM)
        assert json.loads(worker.stdout.readline())["state"] == "stopped"
        assert worker.wait(timeout=20) == 0


def test_a_worker_of_an_optimizer_that_is_off_says_so(ask, make_app):
    code, told = ask("worker", creates=lambda: make_app(DBOPT_ENABLED=False))
    assert code == 2
    assert "DBOPT_ENABLED" in told["hint"]
