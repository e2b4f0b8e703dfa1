"""The writers' line and lost updates in the report: of all workers, whichever of them is asked."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.monitor import lookout
from flask_dbopt.report import build, plain
from flask_dbopt.signals import lost_update_detected

WRITE = "UPDATE item SET sold = ?"


class Site:
    """One worker of an app. Nobody sweeps its figures but the test."""

    def __init__(self, folder: Path) -> None:
        self.app = Flask("shared", instance_path=str(folder / "instance"))
        self.app.config.update(DBOPT_DATABASE=str(folder / "shared.db"))
        self.dbopt = DBOptimizer(self.app)
        self.optimizer.housekeeper.wake = lambda: None  # type: ignore[method-assign]
        self.deed: Callable[[], Any] = lambda: None
        self.app.add_url_rule("/<endpoint>", "deed", lambda endpoint: str(self.deed()), methods=["POST"])
        with self.app.app_context(), self.dbopt.borrow() as connection:
            connection.executescript("CREATE TABLE IF NOT EXISTS item (sold); INSERT INTO item VALUES (0)")

    @property
    def optimizer(self) -> Any:
        return self.app.extensions["dbopt"]

    @property
    def found(self) -> list[str]:
        return [one.endpoint for one in self.optimizer.monitor.lost_updates()]

    def ask(self, deed: Callable[[], Any]) -> None:
        self.deed = deed
        assert self.app.test_client().post("/x").status_code == 200

    @property
    def worker(self) -> str:
        return self.optimizer.monitor._id

    @property
    def told_by(self) -> set[str]:
        """The workers whose commits stand in the ledger."""
        with closing(sqlite3.connect(self.optimizer.state_dir / "ledger.db")) as ledger:
            return {name for (name,) in ledger.execute("SELECT name FROM note WHERE kind = 'commits'")}

    def meanwhile(self) -> None:
        """Another request, in another thread."""
        thread = threading.Thread(target=self.ask, args=(self.write,))
        thread.start()
        thread.join()

    def sweep(self) -> None:
        self.optimizer.monitor.sweep(time.time())

    def write(self, seconds: float = 0.0) -> None:
        with self.dbopt.transaction() as connection:
            time.sleep(seconds)
            connection.execute(WRITE, (1,))

    def sell(self, between: Callable[[], Any]) -> None:
        """Read, let others do something, write."""
        connection = self.dbopt.connection
        (sold,) = connection.execute("SELECT sold FROM item").fetchone()
        between()
        connection.execute(WRITE, (sold + 1,))
        connection.commit()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Site]]:
    made: list[Site] = []

    def make() -> Site:
        made.append(Site(tmp_path))
        return made[-1]

    yield make
    for site in made:
        site.optimizer.close()


def test_the_writers_of_two_workers_add_up(make):
    first, second = make(), make()
    waiting = threading.Thread(target=second.ask, args=(second.write,))

    def hold() -> None:
        with first.dbopt.transaction() as connection:
            waiting.start()
            while not second.optimizer.default.lane.stats().writers_waiting:
                time.sleep(0.001)
            time.sleep(0.01)
            connection.execute(WRITE, (1,))

    first.ask(hold)
    waiting.join()
    first.sweep()
    second.sweep()
    for site in (first, second):
        (database,) = build(site.optimizer).databases
        line = database.writers
        assert (line.writers_num, line.writers_queued, line.writers_errors) == (2, 1, 0)
        assert line.writers_wait_ms == pytest.approx(line.writers_wait_max_ms)
        assert line.writers_wait_ms > 10
        ((who, turns, held),) = [(one.who, one.turns, one.ms) for one in database.holders]
        assert (who, turns) == ("POST deed", 2)
        assert held == pytest.approx(line.writers_usage_ms)


def test_the_longest_wait_is_that_of_one_worker_and_no_sum(make):
    first, second = make(), make()
    for site, longest in ((first, 30.0), (second, 40.0)):
        site.optimizer.default.lane._counts.take(longest / 1e3, has_queued=True)
        site.sweep()
    line = build(first.optimizer).databases[0].writers
    assert (line.writers_wait_ms, line.writers_wait_max_ms) == (70.0, 40.0)
    assert json.dumps(plain(line))


def test_one_worker_finds_what_another_one_did_and_all_can_tell(make):
    first, second = make(), make()
    heard: list[tuple[str, str, str]] = []

    def hear(app: Flask, *, database: str, table: str, endpoint: str, **_: Any) -> None:
        heard.append((database, table, endpoint))

    lost_update_detected.connect(hear, first.app)
    first.sweep()
    second.sweep()
    first.ask(lambda: first.sell(between=lambda: second.ask(second.write)))
    first.sweep()
    assert first.found == [], "the other has not told yet"
    second.sweep()
    first.sweep()
    assert first.found == second.found == ["deed"]
    assert heard == [("default", "item", "deed")]
    report = build(second.optimizer)
    assert [(one.table, one.other) for one in report.lost_updates] == [("item", "deed")]
    assert second.optimizer.monitor.counters()["lost_updates.default.item"] == 1
    assert json.dumps(plain(report.lost_updates))
    assert not second.optimizer.monitor.lost_updates(since=time.time() + 60)


def test_what_is_told_by_another_machine_or_long_ago_is_not_believed(make, monkeypatch):
    first, second = make(), make()
    first.sweep()
    second.sweep()
    first.ask(lambda: first.sell(between=lambda: second.ask(second.write)))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(lookout, "_clock", lambda: "another machine's")
        second.sweep()
    first.sweep()
    assert first.found == []
    assert first.told_by == {first.worker, second.worker}
    first.optimizer.monitor.sweep(time.time() + 1000)
    assert second.worker not in first.told_by, "what is out of date goes"


def test_what_ended_workers_told_goes_even_if_nobody_waits_for_it(make):
    first, second = make(), make()
    first.sweep()
    second.sweep()
    second.ask(second.write)
    second.sweep()
    assert first.told_by == {second.worker}
    first.optimizer.monitor.sweep(time.time() + 1000)
    assert first.told_by == set()


def test_who_is_alone_tells_nobody(make):
    only = make()
    only.sweep()
    only.ask(only.write)
    only.sweep()
    assert only.told_by == set()


def test_only_the_latest_of_each_endpoint_and_table_are_kept_and_not_too_many(make, monkeypatch):
    monkeypatch.setattr(lookout, "MOST_FOUND", 3)
    site = make()
    for number in range(5):
        with site.app.app_context(), site.dbopt.monitor.job(f"job-{number // 2 * 2}"):
            site.sell(between=site.meanwhile)
        site.sweep()
    assert site.found == ["job: job-4", "job: job-2", "job: job-0"]
    assert site.optimizer.monitor.counters()["monitor.lost_updates"] == 5
    site.optimizer.monitor.reset()
    assert site.found == []


def test_a_watch_that_fails_is_told_and_the_figures_go_on(make, monkeypatch, caplog):
    site = make()
    monkeypatch.setattr(site.optimizer.databases, "footprint", lambda *_: 1 / 0, raising=False)
    site.ask(lambda: site.sell(between=lambda: None))
    site.sweep()
    assert "lost updates were not watched for" in caplog.text
    caplog.clear()
    site.ask(lambda: site.sell(between=lambda: None))
    site.sweep()
    assert "lost updates" not in caplog.text, "only the first of a row"
    assert site.optimizer.monitor.overall().calls == 2


def test_where_there_is_no_boot_to_tell_by_the_host_is_the_clock(monkeypatch):
    lookout._clock.cache_clear()
    monkeypatch.setattr(lookout, "Path", lambda _: Path("/nowhere/at/all"))
    assert lookout._clock()
    lookout._clock.cache_clear()
