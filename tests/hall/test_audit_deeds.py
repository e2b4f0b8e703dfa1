"""No deed is forgotten: every change that the page, the terminal and Python offer leaves its line, with who did it."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo

from flask_dbopt import DBOptimizer, signals
from flask_dbopt.admin.routes import CHANGES
from flask_dbopt.audit.actor import system_user
from flask_dbopt.cli import VERBS, group
from flask_dbopt.deeds import DEEDS, deed
from flask_dbopt.errors import AdviceError, BackupError, RestoreError

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FIND = "SELECT id FROM word WHERE text = ?"

ON_THE_PAGE = {
    "indexes_one_apply": ("indexes/{advice}/apply", {}, ["backup.take", "index.apply"]),
    "cache_clear": ("cache/clear", {}, ["cache.clear"]),
    "backups_take": ("backups/take", {"database": "default"}, ["backup.take"]),
    "backups_verify": ("backups/verify", {"database": "default", "backup": "{backup}"}, ["backup.verify"]),
    "alerts_silence": ("alerts/silence", {"rule": "query_too_slow", "hours": "4"}, ["alert.silence"]),
    "alerts_unsilence": ("alerts/unsilence", {"rule": "query_too_slow"}, ["alert.unsilence"]),
    "figures_reset": ("figures/reset", {}, ["figures.reset"]),
}
"""Every change by its endpoint: where, with what, and what is written down. A new one has to be added here."""
NO_DEED = {"alerts_test"}
"""Changes nothing of the app's; written down as ``admin.change`` where it succeeds."""

IN_THE_TERMINAL = {
    "optimize": ("optimize --yes", ["database.optimize", "database.optimize"]),
    "advise": ("advise --apply {advice} --yes", ["backup.take", "index.apply"]),
    "cache": ("cache clear", ["cache.clear"]),
    "cache invalidate": ("cache invalidate word", ["cache.invalidate"]),
    "backup": ("backup --label l", ["backup.take"]),
    "backups": ("backups --verify all", ["backup.verify"]),
    "backups --prune": ("backups --prune", ["backup.prune"]),
    "restore": ("restore latest --yes", ["backup.restore"]),
    "restore --to": ("restore latest --to {file}", ["backup.restore"]),
    "stats": ("stats --reset --yes", ["figures.reset"]),
    "alerts": ("alerts --silence query_too_slow --for 4h", ["alert.silence"]),
    "alerts --unsilence": ("alerts --unsilence query_too_slow", ["alert.unsilence"]),
}
ONLY_LOOK = {"monitor", "explain", "config", "doctor", "audit"}
"""Verbs that change nothing; ``worker`` does what the schedule says."""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO word (text) VALUES (?)", [(f"word {n}",) for n in range(3000)])
        connection.commit()
    return path


@pytest.fixture
def dbopt(tmp_path, database):
    app = Flask("words", instance_path=str(tmp_path / "instance"))
    app.config.update(
        TESTING=True,
        DBOPT_DATABASE=str(database),
        DBOPT_STATE_DIR="state",
        DBOPT_ADMIN_TOKEN=TOKEN,
        DBOPT_ADVISOR_MIN_CALLS=5,
        DBOPT_ADVISOR_MIN_SECONDS=0,
    )
    made = DBOptimizer(app)

    @app.get("/find/<text>")
    def find(text: str) -> dict[str, Any]:
        return {"found": made.connection.execute(FIND, (text,)).fetchall()}

    @app.post("/tidy")
    def tidy() -> dict[str, Any]:
        return {"dropped": made.cache.clear()}

    made.app = app
    yield made
    made.optimizer.close()


def audit_of(dbopt: DBOptimizer) -> list[dict[str, Any]]:
    path = dbopt.optimizer.audit.path
    return [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.exists() else []


def use(dbopt: DBOptimizer) -> dict[str, str]:
    """Requests, so that there is advice; a backup; and what the deeds below are about."""
    client = dbopt.app.test_client()
    for number in range(12):
        client.get(f"/find/word {number}")
    dbopt.optimizer.monitor.sweep(time.time())
    dbopt.monitor.silence("query_too_slow", hours=1)
    (advice,) = dbopt.advisor.recommend(force=True)
    return {"advice": advice.id, "backup": dbopt.backups.take().id}


def test_every_change_of_the_page_is_known_here():
    assert set(ON_THE_PAGE) | NO_DEED == set(CHANGES)


def test_every_verb_is_known_here():
    assert {name.partition(" ")[0] for name in IN_THE_TERMINAL} | ONLY_LOOK | {"worker"} == set(VERBS)


@pytest.mark.parametrize("endpoint", ON_THE_PAGE)
def test_a_change_on_the_page_leaves_its_line(dbopt, endpoint):
    known = use(dbopt)
    path, form, deeds = ON_THE_PAGE[endpoint]
    before = len(audit_of(dbopt))
    sent = {name: value.format(**known) for name, value in form.items()}
    answer = dbopt.app.test_client().post(f"/_dbopt/{path.format(**known)}", headers=BEARER, data=sent)
    assert answer.status_code == 200, answer.text
    entries = audit_of(dbopt)[before:]
    assert [entry["deed"] for entry in entries] == deeds
    for entry in entries:
        assert entry["outcome"] == "done"
        assert {name: entry["who"][name] for name in ("by", "via", "address", "app")} == {
            "by": "page", "via": "bearer", "address": "127.0.0.1", "app": "words",
        }  # fmt: skip
    assert TOKEN not in dbopt.optimizer.audit.path.read_text()


@pytest.mark.parametrize("name", IN_THE_TERMINAL)
def test_a_change_in_the_terminal_leaves_its_line(dbopt, name, tmp_path, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "anna")
    known = use(dbopt)
    command, deeds = IN_THE_TERMINAL[name]
    before = len(audit_of(dbopt))
    words = command.format(file=tmp_path / "restored.db", **known).split()
    result = CliRunner().invoke(group, words, obj=ScriptInfo(create_app=lambda: dbopt.app))
    assert result.exit_code in (0, 1), result.output
    entries = audit_of(dbopt)[before:]
    assert [entry["deed"] for entry in entries] == deeds
    for entry in entries:
        assert entry["outcome"] == "done"
        assert (entry["who"]["by"], entry["who"]["user"], entry["who"]["sudo"]) == ("cli", system_user(), "anna")
        assert name.partition(" ")[0] in entry["who"]["command"]


def test_looking_leaves_nothing(dbopt):
    use(dbopt)
    before = audit_of(dbopt)
    client = dbopt.app.test_client()
    for path in ("", "queries", "indexes", "pool", "cache", "backups", "alerts", "audit", "settings", "api/v1/audit"):
        assert client.get(f"/_dbopt/{path}", headers=BEARER).status_code == 200
    for words in (["backups"], ["stats"], ["doctor"], ["config"], ["audit"], ["advise"], ["cache", "stats"],
                  ["backups", "--prune", "--dry-run"], ["restore", "latest", "--dry-run"],
                  ["optimize", "--dry-run"]):  # fmt: skip
        CliRunner().invoke(group, words, obj=ScriptInfo(create_app=lambda: dbopt.app))
    assert audit_of(dbopt) == before


def test_every_deed_that_python_offers_leaves_its_line_done_and_failed(dbopt, tmp_path):
    known = use(dbopt)
    dbopt.advisor.apply(known["advice"])
    dbopt.cache.invalidate("word")
    dbopt.monitor.unsilence("query_too_slow")
    dbopt.monitor.reset()
    dbopt.backups.restore("latest", to=tmp_path / "there.db")
    dbopt.backups.prune()
    for fails, error in (
        (lambda: dbopt.advisor.apply("000"), AdviceError),
        (lambda: dbopt.backups.verify("000"), BackupError),
        (lambda: dbopt.backups.restore("000"), RestoreError),
    ):
        with pytest.raises(error):
            fails()
    dbopt.app.test_client().post("/tidy")
    entries = audit_of(dbopt)
    assert [(entry["deed"], entry["outcome"]) for entry in entries] == [
        ("alert.silence", "done"), ("backup.take", "done"), ("index.apply", "done"), ("cache.invalidate", "done"),
        ("alert.unsilence", "done"), ("figures.reset", "done"), ("backup.restore", "done"), ("backup.prune", "done"),
        ("index.apply", "failed"), ("backup.verify", "failed"), ("backup.restore", "failed"), ("cache.clear", "done"),
    ]  # fmt: skip
    assert entries[2]["what"]["sql"].startswith("CREATE INDEX")
    assert entries[3]["what"]["tables"] == ["word"]
    assert entries[8]["what"]["reason"].startswith("AdviceError: there is no index advice")
    assert {entry["who"]["by"] for entry in entries} == {"app"}
    assert entries[-1]["who"]["request"] == "POST tidy"
    assert dbopt.optimizer.audit.verdict().intact


def test_a_backup_that_was_due_is_the_schedulers(dbopt):
    dbopt.optimizer.timetable.back_up()
    (entry,) = audit_of(dbopt)
    assert (entry["deed"], entry["who"]["by"]) == ("backup.take", "scheduler")


def test_backups_that_retention_removes_are_told_beside_the_one_that_was_taken(dbopt):
    dbopt.backups.take()
    dbopt.backups.policy = type(dbopt.backups.policy)(0.0000001, 0, 0)
    dbopt.backups.take()
    assert [entry["deed"] for entry in audit_of(dbopt)] == ["backup.take", "backup.prune", "backup.take"]
    assert len(audit_of(dbopt)[1]["what"]["removed"]) == 1


def test_a_suspicious_statement_is_told_with_its_place(dbopt):
    details = {"sql": "SELECT ?", "endpoint": "search", "place": "shop.py:7", "source": "query q"}
    signals.send("suspicious_query", dbopt.app, blocked=False, **details)
    signals.send("suspicious_query", dbopt.app, blocked=True, **details)
    dbopt.optimizer.audit.sweep(0.0)
    allowed, refused = audit_of(dbopt)
    assert (allowed["deed"], allowed["outcome"]) == ("statement.suspect", "allowed")
    assert (refused["deed"], refused["outcome"]) == ("statement.refuse", "refused")
    assert refused["what"] == details


def test_the_app_hears_of_every_deed_too(dbopt):
    heard = []

    @signals.deed_done.connect_via(dbopt.app)
    def hear(app, *, deed, outcome, details, **more):
        heard.append((deed, outcome, details))

    dbopt.cache.clear()
    assert heard == [("cache.clear", "done", {"dropped": 0})]


def test_an_audit_log_that_cannot_be_written_breaks_no_deed_and_is_said(dbopt):
    path = dbopt.optimizer.audit.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")
    assert dbopt.backups.take().verified_at
    assert any("the audit log is not written (entries lost so far: 1)" in each for each in dbopt.optimizer.notices())


def test_a_deed_has_to_have_a_name_that_is_known():
    with pytest.raises(ValueError, match=r"'backup\.steal' is not among the deeds"):
        deed("backup.steal")
    assert all(meaning and name.count(".") == 1 for name, meaning in DEEDS.items())
