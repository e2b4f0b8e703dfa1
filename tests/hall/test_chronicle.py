"""What the log files tell of an app's life, in one process and in several."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer, signals
from flask_dbopt.chronicle import SUMMARY_EVERY
from flask_dbopt.errors import PoolTimeout, RestoreError


class Shop:
    """An app with log files, whose housekeeping is called by hand."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.database = folder / "shop.db"
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS word (text TEXT)")
            connection.commit()
        self.app = Flask("shop", instance_path=str(folder / "instance"))
        self.app.config.update(
            TESTING=True,
            DBOPT_DATABASE=str(self.database),
            DBOPT_STATE_DIR="state",
            DBOPT_LOG_DIR="logs",
            DBOPT_MONITOR_SLOW_SECONDS=0,
        )
        self.app.config.update(config)
        self.dbopt = DBOptimizer(self.app)
        self.optimizer = self.app.extensions["dbopt"]

        @self.app.get("/word/<text>")
        def word(text: str) -> list[Any]:
            return self.dbopt.connection.execute(f"SELECT text FROM word WHERE text = '{text}'").fetchall()

    def read(self, name: str) -> list[str]:
        """A log's lines, without time and process."""
        path = Path(self.app.instance_path, "logs", f"{name}.log")
        lines = path.read_text().splitlines() if path.exists() else []
        return [re.sub(r"^\S+Z \d+ ", "", line).replace("flask_dbopt.", "") for line in lines]


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    shop.optimizer.close()


def test_a_process_and_its_pools_begin_and_end(shop):
    shop.app.test_client().get("/word/a")
    shop.optimizer.chronicle.sweep(0.0)
    shop.optimizer.chronicle.sweep(10.0)
    shop.optimizer.close()
    assert shop.read("monitoring") == [
        f"INFO monitoring: shop: process {os.getpid()} started, Flask-DBOpt {shop.optimizer.version}",
        f"INFO monitoring: shop: process {os.getpid()} stopped",
    ]
    opened, *_, closed = shop.read("connection_pool")
    assert opened == f"INFO connection_pool: default: a pool of 5 to 20 connections to {shop.database}"
    assert closed.startswith("INFO connection_pool: default: the pool is closed after 1 loans, 0 that had to wait")


def test_a_slow_statement_is_told_without_its_values(shop):
    shop.app.test_client().get("/word/a-secret-word")
    shop.optimizer.monitor.sweep(time.time())
    line = r"WARNING query_metrics: slow query \w{12}: [\d.]+ ms in word at \S+:\d+: SELECT text FROM word WHERE .*\?"
    assert any(re.fullmatch(line, each) for each in shop.read("query_metrics")), shop.read("query_metrics")
    logs = Path(shop.app.instance_path, "logs")
    assert not any("a-secret-word" in each.read_text() for each in logs.glob("*.log"))


def test_who_has_the_lease_is_told_when_it_changes(shop):
    for is_leading in (False, True, True, False):
        shop.optimizer.chronicle.leads(is_leading)
    assert [line.partition(str(os.getpid()))[2] for line in shop.read("monitoring")[1:]] == [
        " took the lease: alerts and scheduled work run here",
        " has the lease no more",
    ]


def test_notices_are_told_as_they_come_and_go(shop):
    shop.optimizer.chronicle.leads(True)
    shop.optimizer.problems.append("the cellar is flooded")
    for _ in range(3):
        shop.optimizer.chronicle.sweep(0.0)
    shop.optimizer.problems.clear()
    shop.optimizer.chronicle.sweep(0.0)
    assert [line for line in shop.read("monitoring") if "cellar" in line] == [
        "WARNING monitoring: shop: the cellar is flooded",
        "INFO monitoring: shop: no longer so: the cellar is flooded",
    ]


def test_the_app_hears_a_notice_from_one_worker_only(shop, caplog):
    caplog.set_level("INFO", "flask_dbopt")
    chronicle = shop.optimizer.chronicle
    shop.optimizer.problems.append("the cellar is flooded")
    chronicle.leads(False)
    chronicle.sweep(0.0)
    chronicle.leads(True)
    for _ in range(2):
        chronicle.sweep(0.0)
    assert [each.levelname for each in caplog.records if "cellar" in each.message] == ["INFO", "WARNING"]


def test_where_no_worker_can_lead_each_speaks_for_itself(shop, caplog):
    shop.optimizer.problems.append("the cellar is flooded")
    shop.optimizer.chronicle.leads(False, can_be_led=False)
    shop.optimizer.chronicle.sweep(0.0)
    assert [each.levelname for each in caplog.records if "cellar" in each.message] == ["WARNING"]


def test_a_notice_whose_number_grows_is_told_once_an_hour(shop):
    now = 1_795_000_000.0
    shop.optimizer.chronicle._clock = lambda: now
    shop.optimizer.chronicle.leads(True)
    for minute in range(121):
        now += 60
        shop.optimizer.problems[:] = [f"{minute} feet of water in cellar2"]
        shop.optimizer.chronicle.sweep(0.0)
    told = [line for line in shop.read("monitoring") if "cellar" in line]
    assert told == [f"WARNING monitoring: shop: {minute} feet of water in cellar2" for minute in (0, 60, 120)]


def test_the_one_that_leads_sums_up_every_five_minutes(tmp_path):
    now = [time.time()]
    shop = Shop(tmp_path)
    chronicle = shop.optimizer.chronicle
    chronicle._clock = lambda: now[0]
    chronicle.leads(True)
    for number in range(4):
        shop.app.test_client().get(f"/word/{number}")
    shop.optimizer.monitor.sweep(time.time())
    before = len(shop.read("query_metrics"))
    now[0] += SUMMARY_EVERY - 1
    chronicle.leads(True)
    assert len(shop.read("query_metrics")) == before
    now[0] += 1
    chronicle.leads(True)
    summary, *statements = shop.read("query_metrics")[before:]
    assert re.match(r"INFO query_metrics: shop: in 300 s 4 requests \(0 failed, p95 [\d.]+ ms\), ", summary)
    assert "cache hits unused, immediate loans " in summary
    assert any(re.search(r"statement \w{12} ran 4 times in .*: SELECT text FROM word", line) for line in statements)
    now[0] += 10 * SUMMARY_EVERY
    chronicle.leads(True)
    assert len(shop.read("query_metrics")) == before + 1 + len(statements), "nothing happened, nothing is told"
    shop.optimizer.close()


def test_a_loan_that_never_came_and_a_connection_that_went_are_told(tmp_path):
    shop = Shop(tmp_path, DBOPT_POOL_MAX=1, DBOPT_POOL_MIN=0, DBOPT_POOL_TIMEOUT=0.05)
    with shop.dbopt.borrow(), pytest.raises(PoolTimeout):
        shop.dbopt.connect()
    signals.send("connection_recycled", shop.app, database="default", reason="it grew old")
    lines = shop.read("connection_pool")
    assert "WARNING connection_pool: default: no connection came free within 0.1 s" in lines
    assert "INFO connection_pool: default: a connection was closed: it grew old" in lines
    shop.optimizer.close()


def test_backups_begin_end_and_fail_in_their_log(shop):
    record = shop.dbopt.backups.take()
    with pytest.raises(RestoreError):
        shop.dbopt.backups.restore("no such")
    begin, taken, failed = shop.read("backup")
    assert begin == "INFO backup: backup of default begins"
    assert taken.startswith(f"INFO backup: backup {record.id} of default: ")
    assert failed.startswith("ERROR backup: a restore of default failed: RestoreError: ")


def test_two_apps_of_one_process_are_told_apart_by_their_folders(tmp_path, shop):
    (tmp_path / "other").mkdir()
    other = Shop(tmp_path / "other")
    other.dbopt.backups.take()
    assert len(other.read("backup")) == 2
    other.optimizer.close()
    shop.dbopt.backups.take()
    assert len(other.read("backup")) == 2


def test_log_files_that_cannot_be_written_are_a_notice_and_nothing_else(tmp_path):
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "logs").write_text("a file is in the way")
    shop = Shop(tmp_path)
    assert shop.app.test_client().get("/word/a").status_code == 200
    shop.dbopt.backups.take()
    notices = " ".join(shop.optimizer.notices())
    assert "backup.log cannot be written (lines lost so far: 2): " in notices
    assert "the audit log is not written (entries lost so far: 1): " in notices
    shop.optimizer.close()


def test_an_app_without_log_files_changes_no_logger(tmp_path):
    before = logging.getLogger("flask_dbopt").level
    shop = Shop(tmp_path, DBOPT_LOG_DIR=None)
    shop.dbopt.backups.take()
    assert logging.getLogger("flask_dbopt").level == before
    assert not Path(shop.app.instance_path, "logs").exists()
    assert Path(shop.app.instance_path, "state", "audit.log").exists()
    shop.optimizer.close()


def test_an_optimizer_that_is_off_writes_nothing(tmp_path):
    shop = Shop(tmp_path, DBOPT_ENABLED=False)
    shop.app.test_client().get("/word/a")
    assert not Path(shop.app.instance_path).exists()


def test_a_dropped_optimizer_gives_its_files_back(tmp_path):
    filters = list(logging.getLogger("flask_dbopt.backup").filters)
    shop = Shop(tmp_path)
    assert len(logging.getLogger("flask_dbopt.backup").filters) == len(filters) + 1
    shop.optimizer._at_exit()
    assert logging.getLogger("flask_dbopt.backup").filters == filters


def test_settings_are_written_down_when_they_have_changed(tmp_path):
    def lead(**config: Any) -> list[Any]:
        shop = Shop(tmp_path, DBOPT_ADMIN_TOKEN="a-secret-of-the-tests", **config)
        shop.optimizer.chronicle.leads(True)
        shop.optimizer.close()
        return [entry.what for entry in shop.optimizer.audit.entries(deed="settings")]

    (first,) = lead(DBOPT_POOL_MAX=7)
    assert first["in_force"]["DBOPT_POOL_MAX"] == 7
    assert first["in_force"]["DBOPT_ADMIN_TOKEN"] == "(hidden)"
    assert len(lead(DBOPT_POOL_MAX=7)) == 1
    newest, _ = lead(DBOPT_POOL_MAX=8, DBOPT_CACHE_TTL=5)
    assert newest["changed"] == ["DBOPT_CACHE_TTL", "DBOPT_POOL_MAX"]
