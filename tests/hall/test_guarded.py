"""What the guard found, where people look for it: the report, the page, stats and doctor, from another process too."""

from __future__ import annotations

import json
import sqlite3
import time

import pytest
from click.testing import CliRunner
from flask import Flask, request
from flask.cli import ScriptInfo

from flask_dbopt import DBOptimizer
from flask_dbopt.cli import checks, group
from flask_dbopt.errors import StatementRefused
from flask_dbopt.report import Guarded, build

ATTACK = "x' OR 1=1 --"


@pytest.fixture
def make_site(tmp_path):
    """Apps on one database and one state folder, as workers and commands are."""
    made = []

    def make(**config):
        site = Flask("guarded", instance_path=str(tmp_path / "instance"))
        site.config.from_mapping(
            {"DBOPT_DATABASE": str(tmp_path / "app.db"), "DBOPT_ADMIN_TOKEN": "open-sesame", **config}
        )
        dbopt = DBOptimizer(site)
        optimizer = dbopt.optimizer
        optimizer.housekeeper.wake = lambda: None
        with dbopt.borrow() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS word (id INTEGER PRIMARY KEY, text TEXT)")

        @site.get("/find")
        def find():
            return {
                "found": dbopt.connection.execute(f"SELECT id FROM word WHERE text = '{request.args['q']}'").fetchall()
            }

        @site.get("/drop")
        def drop():
            try:
                dbopt.connection.execute("DROP TABLE word")
            except StatementRefused:
                return "refused"
            return "gone"

        made.append(site)
        return site

    yield make
    for site in made:
        site.extensions["dbopt"].close()


def told(site, *verb):
    result = CliRunner().invoke(group, [*verb, "--json"], obj=ScriptInfo(create_app=lambda: site))
    return json.loads(result.stdout)


def test_nobody_reads_the_audit_log_where_nothing_was_found(make_site):
    optimizer = make_site().extensions["dbopt"]
    optimizer.audit.entries = None
    assert build(optimizer).guarded == ()


def test_what_one_worker_found_is_told_by_all(make_site):
    site, other = make_site(), make_site()
    client = site.test_client()
    for _ in range(3):
        client.get("/find", query_string={"q": ATTACK})
    optimizer = site.extensions["dbopt"]
    optimizer.monitor.sweep(time.time())
    optimizer.audit.close()
    (one,) = build(other.extensions["dbopt"]).guarded
    assert (one.verdict, one.endpoint, one.count) == ("suspected", "find", 3)
    assert one.what == "SELECT id FROM word WHERE text = ? OR ? = ?"
    assert one.place.startswith("tests/hall/test_guarded.py:")
    assert one.reason == "a value from the request (query) changes it"
    assert ATTACK not in json.dumps(told(other, "stats"))
    assert told(other, "stats")["guarded"][0]["count"] == 3
    (finding,) = (each for each in told(other, "doctor")["findings"] if each["check"] == "guard")
    assert finding["level"] == "problem"
    assert finding["message"] == f"values of requests changed 3 statements in a week: {one.place}"
    text = CliRunner().invoke(group, ["stats"], obj=ScriptInfo(create_app=lambda: other)).output
    assert "looked like injections" in text
    headers = {"Authorization": "Bearer open-sesame"}
    page = other.test_client().get("/_dbopt/queries", headers={**headers, "Accept": "text/html"})
    listed = other.test_client().get("/_dbopt/api/v1/queries", headers=headers).json
    assert listed["guarded"][0]["endpoint"] == "find"
    assert page.status_code == 200


def test_what_the_policy_refused_is_told_too(make_site):
    site = make_site(DBOPT_SQLITE_POLICY={"deny": ["DROP"]})
    assert site.test_client().get("/drop").text == "refused"
    (one,) = build(site.extensions["dbopt"]).guarded
    assert (one.verdict, one.what, one.reason) == ("refused", "DROP_TABLE word", "DROP is denied")
    assert one.endpoint == "drop"


def test_the_page_shows_it(make_site):
    site = make_site(DBOPT_ADMIN_TOKEN=None)
    site.debug = True
    site.test_client().get("/find", query_string={"q": ATTACK})
    page = site.test_client().get("/_dbopt/queries", environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).text
    assert '<h2 id="guard">Guard</h2>' in page
    assert "suspected" in page
    assert "DBOPT_MONITOR_GUARD" in page
    assert "1=1" not in page


def one(verdict, count=2, place="app.py:7"):
    return Guarded(verdict, "SELECT ?", "find", place, "why", count, 0.0, 1.0)


@pytest.mark.parametrize(
    ("mode", "found", "level", "said"),
    [
        ("log", [one("suspected"), one("suspected", 3, "")], "problem", "5 statements in a week: app.py:7, find"),
        ("block", [one("refused")], "note", "2 statements refused in a week"),
        ("block", [one("refused", 1)], "note", "1 statement refused in a week"),
        ("off", [], "note", "nobody looks for injections"),
        ("log", [], "ok", "no value of a request changed a statement in a week"),
    ],
)
def test_the_doctors_word(mode, found, level, said):
    finding = checks.guard(mode, found)
    assert finding.level == level
    assert finding.message.endswith(said)


def test_an_audit_log_that_cannot_be_read_hides_nothing_else(make_site):
    site = make_site(DBOPT_SQLITE_POLICY={"deny": ["DROP"]})
    site.test_client().get("/drop")
    optimizer = site.extensions["dbopt"]

    def unreadable(*_, **__):
        raise PermissionError(13, "Permission denied")

    optimizer.audit.entries = unreadable
    report = build(optimizer)
    assert report.guarded == ()
    assert any(notice.startswith("what the guard found: ") for notice in report.notices)
    assert report.overview.requests == 1
    with sqlite3.connect(optimizer.default.path) as connection:
        connection.execute("SELECT id FROM word")
    connection.close()
