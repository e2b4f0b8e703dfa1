"""Alerts and the rest of the house: what is counted, what is looked at, and who is told."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer, alerting, signals
from flask_dbopt.connection import build_road
from flask_dbopt.engines.sqlite import sizes
from flask_dbopt.engines.sqlite.sizes import count_tables
from flask_dbopt.errors import BackupError, ConfigurationError
from flask_dbopt.optimizer import Optimizer
from flask_dbopt.settings import Settings
from tests.receiver import until

DAY = 86_400.0


@pytest.fixture
def make_site(tmp_path):
    """An app whose rules are applied when the test says so; its DBOptimizer is ``site.dbopt``."""
    made = []

    def make(**config):
        site = Flask("shop", instance_path=str(tmp_path / "instance"))
        site.config.from_mapping({"DBOPT_DATABASE": str(tmp_path / "shop.db"), "DBOPT_BACKUP_ENABLED": False, **config})
        site.dbopt = DBOptimizer(site)
        site.dbopt.optimizer.housekeeper.abandon()
        site.dbopt.optimizer.housekeeper.wake = lambda: None
        made.append(site)
        return site

    yield make
    for site in made:
        site.extensions["dbopt"].close()


@pytest.fixture
def swollen(tmp_path):
    """An app's WAL limit far below what its WAL has: a reader holds the WAL open."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as writer, closing(sqlite3.connect(path)) as reader:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (a)")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchall()
        with writer:
            writer.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 500)

        def shrink():
            reader.rollback()
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        yield shrink


def look(site, seconds=0.0):
    now = time.time() + seconds
    site.dbopt.monitor.sweep(now)
    site.dbopt.monitor.evaluate(now)


def heard(signal, site):
    told = []

    def hear(sender, **details):
        told.append(details)

    signal.connect(hear, site)
    return told, hear


def test_an_alert_is_posted_when_it_is_raised_and_when_it_is_resolved(make_site, swollen, receiver):
    site = make_site(
        DBOPT_SQLITE_WAL_LIMIT="64 KiB",
        DBOPT_ALERT_WEBHOOK=receiver.address,
        DBOPT_ALERT_WEBHOOK_SECRET="key",
        SERVER_NAME="shop.example",
        PREFERRED_URL_SCHEME="https",
    )
    look(site)
    until(lambda: receiver.taken)
    (body,) = receiver.bodies()
    (alert,) = site.dbopt.monitor.alerts()
    assert body["version"] == 1
    assert (body["event"], body["app"]) == ("raised", "shop")
    assert body["link"] == "https://shop.example/_dbopt/alerts"
    assert body["text"] == f"[shop] alert raised: {alert.message}"
    assert body["alert"] == {
        "rule": "wal_size",
        "subject": "default",
        "message": alert.message,
        "hint": alert.hint,
        "value": alert.value,
        "threshold": 2.0,
        "raised_at": alert.raised_at,
        "resolved_at": None,
    }
    assert receiver.taken[0][1]["x-dbopt-signature"].startswith("sha256=")
    swollen()
    look(site, 10)
    look(site, 80)
    until(lambda: len(receiver.taken) == 2)
    assert receiver.bodies()[1]["event"] == "resolved"
    assert receiver.bodies()[1]["alert"]["resolved_at"] is not None
    assert receiver.bodies()[0]["id"] != receiver.bodies()[1]["id"]


def test_a_webhook_that_is_dead_is_told_among_the_notices_and_closing_waits_a_second_at_most(make_site, swollen):
    site = make_site(DBOPT_SQLITE_WAL_LIMIT="64 KiB", DBOPT_ALERT_WEBHOOK="http://127.0.0.1:9/T0PSECRET")
    begun = time.monotonic()
    look(site)
    assert time.monotonic() - begun < 1
    optimizer = site.extensions["dbopt"]
    until(optimizer.tidings.notices)
    (notice,) = (each for each in optimizer.notices() if "webhook" in each)
    assert notice.startswith("alerts do not reach the webhook: cannot be reached")
    assert "T0PSECRET" not in repr(optimizer.settings) + notice
    begun = time.monotonic()
    optimizer.close()
    assert time.monotonic() - begun < 3


def test_every_alert_is_heard_by_who_asked_for_all_and_by_who_asked_for_this(make_site, swollen):
    site = make_site(DBOPT_SQLITE_WAL_LIMIT="64 KiB")
    told = []
    site.dbopt.on_alert()(lambda alert: told.append(("all", alert.rule)))
    site.dbopt.on_alert("*")(lambda alert: told.append(("star", alert.rule)))
    site.dbopt.on_alert("wal_size")(lambda alert: told.append(("this", alert.rule)))
    site.dbopt.on_alert("pool_wait")(lambda alert: told.append(("other", alert.rule)))
    look(site)
    assert sorted(told) == [("all", "wal_size"), ("star", "wal_size"), ("this", "wal_size")]
    with pytest.raises(ConfigurationError, match="no alert rule 'wal_sice'") as caught:
        site.dbopt.on_alert("wal_sice")
    assert "'wal_size'" in caught.value.hint


def test_a_silenced_alert_does_not_degrade_the_health(make_site, swollen):
    site = make_site(DBOPT_SQLITE_WAL_LIMIT="64 KiB")
    look(site)
    assert site.dbopt.health().status == "degraded"
    site.dbopt.monitor.silence("wal_size", hours=1)
    assert site.dbopt.health().status == "ok"


def test_a_leaked_connection_is_an_alert_about_its_borrower(make_site):
    site = make_site(DBOPT_POOL_LEAK_AFTER=0.01)
    with site.test_request_context("/"):
        held = site.dbopt.connect()
        time.sleep(0.02)
        site.extensions["dbopt"].databases.default.upkeep.sweep(0)
        held.close()
    look(site)
    (alert,) = site.dbopt.monitor.alerts()
    assert alert.rule == "connection_leaked"
    assert alert.message.startswith("1 connection of default was lent for too long within an hour, most of all to ")


def test_endpoints_that_repeat_a_statement_are_counted_by_the_hour(make_site):
    site = make_site(DBOPT_ALERT_RULES={"n_plus_one": 2})

    @site.get("/list")
    def list_all():
        for number in range(20):
            site.dbopt.connection.execute("SELECT ?", (number,)).fetchall()
            site.dbopt.connection.execute("SELECT ?, 'of the same request'", (number,)).fetchall()
        return ""

    for _ in range(3):
        site.test_client().get("/list")
    look(site)
    look(site, 2)
    (alert,) = site.dbopt.monitor.alerts()
    assert (alert.rule, alert.subject, alert.value) == ("n_plus_one", "list_all", 3)


def test_what_a_guard_suspects_is_an_alert_about_the_endpoint(make_site):
    site = make_site()
    site.extensions["dbopt"].emit("suspicious_query", sql="SELECT ?", endpoint="search.v2")
    site.extensions["dbopt"].emit("suspicious_query", sql="SELECT ?", endpoint=None)
    look(site)
    assert {alert.subject for alert in site.dbopt.monitor.alerts()} == {"search.v2", ""}


def test_threads_are_counted_by_their_kind_and_endpoints_by_their_name(make_site):
    site = make_site()
    counted = []
    tidings = site.extensions["dbopt"].tidings
    tidings.heed(counted.append, lambda name: None)
    for borrower in ("Thread-12 (work)", "Thread-7 (work)", "GET api.v2", "pool-1"):
        tidings("connection_leaked", database="main", borrower=borrower, age=1, stack="")
    assert counted == ["leaks.main.Thread-N (work)"] * 2 + ["leaks.main.GET api.v2", "leaks.main.pool-1"]


def test_a_missed_backup_is_told_once_with_the_time_it_was_due(make_site):
    site = make_site(DBOPT_BACKUP_ENABLED=True)
    with site.dbopt.transaction() as connection:
        connection.execute("CREATE TABLE t (a)")
    taken = site.dbopt.backups.take().taken_at
    missed, _keep = heard(signals.backup_missed, site)
    look(site)
    assert missed == []
    for days in (1.4, 1.6, 1.7):
        look(site, days * DAY)
    assert missed == [{"database": "default", "due": pytest.approx(taken + DAY)}]
    site.dbopt.backups.take()
    (rule,) = (state for state in site.dbopt.monitor.rules() if state.rule.name == "backup_unproved")
    assert rule.worst.value == 0


def test_backups_that_nobody_proved_are_counted_from_the_newest(make_site):
    site = make_site(DBOPT_BACKUP_ENABLED=True)
    with site.dbopt.transaction() as connection:
        connection.execute("CREATE TABLE t (a)")
    databases, settings = site.extensions["dbopt"].databases, site.extensions["dbopt"].settings

    def facts(**changed):
        return alerting.backups(databases.values(), dataclasses.replace(settings, **changed), {})["default"]

    assert facts() == {"interval": DAY, "unproved": 0, "backups": 0}
    site.dbopt.backups.take()
    assert facts()["unproved"] == 0
    site.dbopt.backups.take(verify=False)
    last = site.dbopt.backups.take(verify=False)
    assert (facts()["unproved"], facts()["newest"], facts()["backups"]) == (2, last.taken_at, 3)
    assert facts(backup_verify=False)["unproved"] == 0, "who proves none of them is not told of each"
    with Path(last.path).open("r+b") as file:
        file.seek(200)
        file.write(b"\0" * 50)
    with pytest.raises(Exception, match=r"."):
        site.dbopt.backups.verify(last.id)
    assert facts(backup_verify=False)["unproved"] == 1, "one whose proof failed counts always"
    assert facts()["newest"] < last.taken_at


def test_tables_are_counted_and_large_ones_measured_by_their_rowids(tmp_path):
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            CREATE TABLE small (a); INSERT INTO small VALUES (1), (2);
            CREATE TABLE "odd ""name" (a PRIMARY KEY) WITHOUT ROWID; INSERT INTO "odd ""name" VALUES (1);
            CREATE TABLE numbered (id INTEGER PRIMARY KEY AUTOINCREMENT);
            CREATE VIEW seen AS SELECT 1;
            CREATE VIRTUAL TABLE text USING fts5 (body);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
            INSERT INTO numbered SELECT i FROM n;
            DELETE FROM numbered WHERE id < 1001;
            """
        )
    assert count_tables(path) == ({"numbered": 199_000, 'odd "name': 1, "small": 2}, {})
    rows, spans = count_tables(path, seconds=0.0)
    assert spans["numbered"] == 199_000
    assert "numbered" not in rows
    assert count_tables(tmp_path / "none.db") == ({}, {})
    assert not (tmp_path / "none.db").exists()
    path.write_bytes(b"no database at all" * 100)
    assert count_tables(path) == ({}, {})


def test_a_database_that_is_locked_meanwhile_is_not_waited_for_at_each_table(tmp_path, monkeypatch):
    path = tmp_path / "some.db"
    names = [f"t{n}" for n in range(30)]
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("".join(f"CREATE TABLE {name} (a);" for name in names))
        connection.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sizes, "_tables", lambda _: names)  # looked at just before
        began = time.monotonic()
        assert count_tables(path, seconds=0.1) == ({}, {})
        assert time.monotonic() - began < 1.5


def test_scheduled_work_goes_on_though_alerts_cannot_be_evaluated(make_site, monkeypatch):
    optimizer = make_site().extensions["dbopt"]

    class Schedule:
        started, problem = 0, ""

        def start(self):
            self.started += 1

        def stop(self): ...

    optimizer.schedule = schedule = Schedule()
    monkeypatch.setattr(optimizer.monitor, "evaluate", lambda now: 1 / 0)
    optimizer.wake()
    optimizer.housekeeper.run_due()
    assert schedule.started == 1


def test_backups_grow_old_though_their_folder_cannot_be_read_any_more(make_site, monkeypatch):
    site = make_site(DBOPT_BACKUP_ENABLED=True)
    with site.dbopt.transaction() as connection:
        connection.execute("CREATE TABLE t (a)")
    site.dbopt.backups.take()
    look(site)

    def fail():
        raise BackupError("it does not answer")

    monkeypatch.setattr(site.extensions["dbopt"].default.backups, "list", fail)
    look(site, DAY)
    assert not site.dbopt.monitor.alerts()
    look(site, 2 * DAY)
    assert [alert.rule for alert in site.dbopt.monitor.alerts()] == ["backup_overdue"]


def test_a_disk_is_known_by_the_first_folder_on_it(tmp_path):
    (tmp_path / "a").mkdir()
    found = alerting.disks([tmp_path / "a" / "not" / "yet", tmp_path])
    assert list(found) == [str(tmp_path / "a")]
    (facts,) = found.values()
    assert 0 < facts["free"] <= facts["total"]


def test_a_table_that_grows_beyond_measure_is_an_alert_a_day_later(tmp_path):
    now = [1_800_000_000.0]
    settings = dataclasses.replace(Settings(), backup_enabled=False)
    optimizer = Optimizer(
        "growing",
        settings,
        {},
        state_dir=tmp_path / "state",
        backup_dir=tmp_path / "backups",
        build_road=build_road,
        clock=lambda: now[0],
        in_background=False,
    )
    with closing(optimizer), closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE log (a)")
        optimizer.databases.adopt("shop", tmp_path / "shop.db")

        def grow(rows):
            with connection:
                connection.executemany("INSERT INTO log VALUES (?)", [(1,)] * rows)

        grow(12_000)
        for hour in range(26):
            if hour == 20:
                grow(30_000)
            optimizer.monitor.evaluate(now[0])
            now[0] += 3_600
        alerts = optimizer.monitor.alerts()
    assert [(alert.rule, alert.subject) for alert in alerts] == [("table_growth", "shop.log")]
    assert "from 12,000 to 42,000 rows" in alerts[0].message
