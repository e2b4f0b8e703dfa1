"""Apps with an admin page over figures that never change: real records, and rooms that remember what was asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_dbopt.admin import register
from flask_dbopt.advisor.advisor import Recommendation
from flask_dbopt.audit.audit import Audit
from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.cache.cache import CacheStats
from flask_dbopt.engines.protocol import Index, Plan, Step, Table
from flask_dbopt.health import Health
from flask_dbopt.monitor.alerts import Alert, RuleState, Silence
from flask_dbopt.monitor.figures import (
    EndpointFigures,
    PlanFigures,
    Point,
    QueryDetails,
    QueryFigures,
    RepeatedStatement,
    RequestFigures,
    SlowRunFigures,
    Worker,
)
from flask_dbopt.monitor.lookout import LostUpdate
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.pool.writers import Holder, WriterStats
from flask_dbopt.report import DatabaseReport, Overview, Report
from flask_dbopt.settings import resolve
from flask_dbopt.settings.alert_rules import ALERT_RULES
from tests.clock import Clock

NOW = 1_795_000_000.0
TOKEN = "a-token-of-the-tests-0123456789"
LIKE = "SELECT word, frequency FROM keyword WHERE language = ? AND word LIKE ? ORDER BY frequency DESC LIMIT ?"
BY_WORD = "SELECT * FROM keyword WHERE word = ?"
SCAN = Step(
    "SCAN keyword",
    0,
    "keyword",
    reads_whole_table=True,
    rows=320_000,
    reading="reads all 320,000 rows of keyword",
)
SORT = Step("USE TEMP B-TREE FOR ORDER BY", 0, sorts=True, reading="sorts the result by frequency")
SEARCH = Step(
    "SEARCH keyword USING INDEX keyword_word (word=?)",
    0,
    "keyword",
    "keyword_word",
    reading="finds rows of keyword by word",
)


def query(query_id: str, sql: str, calls: int, mean: float, **more: Any) -> QueryFigures:
    given = {
        "rows": calls * 20,
        "errors": 0,
        "cache_hits": 0,
        "total_exec_time": calls * mean,
        "min_exec_time": mean / 5,
        "max_exec_time": mean * 9,
        "mean_exec_time": mean,
        "stddev_exec_time": mean / 2,
        "p50": mean * 0.9,
        "p95": mean * 2.4,
        "p99": mean * 5,
        "endpoints": ("search",),
        "place": None,
        "first_seen": NOW - 90_000,
        "last_seen": NOW - 4,
    }
    return QueryFigures(query_id, sql, calls, **{**given, **more})


ADVICE = Recommendation(
    id="feedc0ffee01",
    table="keyword",
    columns=("word",),
    sql="CREATE INDEX keyword_word ON keyword (word)",
    reason="Every run reads all 320,000 rows of keyword to find a few. With the index it goes to them.",
    query_ids=("bbbbbbbbbbbb",),
    queries=(BY_WORD,),
    before=Plan(BY_WORD, (SCAN,)),
    after=Plan(BY_WORD, (SEARCH,)),
    rows=320_000,
    seconds=61.4,
)


DETAILS = QueryDetails(
    slow_runs=(
        SlowRunFigures(
            NOW - 60, 812.5, 3, None, "keyword", "app/views.py:41", ("app/views.py:41 in keyword",), "'schlafen'"
        ),
        SlowRunFigures(NOW - 600, 340.0, None, "OperationalError", "", None, (), None),
    ),
    plans=(
        PlanFigures(NOW - 4000, None, ("reads all 320,000 rows of keyword",)),
        PlanFigures(NOW - 90_000, NOW - 4000, ("finds rows of keyword by word",)),
    ),
)


def backup(number: int, age: float, **more: Any) -> BackupRecord:
    given = {
        "database": "default",
        "kind": "snapshot",
        "label": None,
        "taken_at": NOW - age,
        "pages": 8605,
        "page_size": 4096,
        "bytes": 9_100_000,
        "source_bytes": 35_246_080,
        "seconds": 1.31,
        "verified_at": NOW - age + 2,
        "proof": "restored, same content, quick_check ok",
        "path": f"ltx/9/{number}.ltx",
        "txid": number,
    }
    return BackupRecord(f"20261118-0{number}0500-{number}", **{**given, **more})


def busy(now: float = NOW) -> Report:
    """An app in use, with something to say on every page."""
    series = tuple(
        Point(
            start=now - (60 - i) * 60,
            requests=int(300 + 180 * math.sin(i / 7)),
            queries=int(1100 + 700 * math.sin(i / 7)),
            errors=3 if i in (31, 32) else 0,
            request_ms=(300 + 180 * math.sin(i / 7)) * (12 + 3 * math.cos(i / 3)),
            p95=None if i == 12 else 40 + 15 * math.cos(i / 4),
            database_ms=(300 + 180 * math.sin(i / 7)) * (7 + 2 * math.cos(i / 3)),
            cache_hits=int(700 + 500 * math.sin(i / 7)),
            cache_misses=int(150 + 90 * math.cos(i / 5)),
        )
        for i in range(60)
    )
    return Report(
        at=now,
        since=now - 3600,
        version="0.1.0",
        workers=(
            Worker("w1", 4101, "web-1", now - 7000, now - 1, {"pool.default.pool_size": 5}),
            Worker("w2", 4102, "web-1", now - 7000, now - 1.5, {"pool.default.pool_size": 5}),
        ),
        overview=Overview(17_913, 66_211, 6, 4.97, 8.4, 51.2, 130.0, 0.61, 3.7, 0.824, 0.997),
        series=series,
        queries=(
            query("aaaaaaaaaaaa", LIKE, 1900, 71.3, endpoints=("search", "suggest", "compare", "export"), errors=6),
            query("bbbbbbbbbbbb", BY_WORD, 940, 65.3, endpoints=("keyword",), place="app/views.py:41"),
            query("cccccccccccc", "SELECT count(*) FROM keyword WHERE language = ?", 8000, 18.2, cache_hits=7000),
            query(
                "dddddddddddd", "INSERT INTO saved (list, word) VALUES (?, ?)", 210, 0.42, endpoints=("save",), rows=210
            ),
            query("eeeeeeeeeeee", "SELECT * FROM list WHERE id = ?", 31_004, 0.031, endpoints=("lists",)),
            query("ffffffffffff", "SELECT name FROM language", 900, 0.0, cache_hits=900, endpoints=()),
        ),
        endpoints=(
            EndpointFigures("search", 9100, 4, 512_000, 56.2, 44, 131, 300, 27_300, 390_000, 11_000),
            EndpointFigures("keyword", 4100, 0, 96_000, 23.4, 18, 71, 140, 16_400, 61_000, 9000),
            EndpointFigures("static", 3000, 0, 1500, 0.5, 0.4, 1.1, 3.0, 0, 0, 0),
        ),
        cache=CacheStats(
            hits=41_200,
            misses=8800,
            fills=8000,
            entries=412,
            bytes=9_400_000,
            evictions=12,
            expirations=40,
            invalidations=7100,
            refused=31,
            max_entries=2000,
            max_bytes=134_217_728,
            max_result=1_048_576,
            ttl=3600,
        ),
        databases=(
            DatabaseReport(
                "default",
                "sqlite",
                "/srv/omni/instance/keywords.db",
                35_246_080,
                412_000,
                "wal",
                PoolStats(
                    pool_min=10,
                    pool_max=40,
                    pool_size=11,
                    pool_available=8,
                    requests_waiting=0,
                    requests_num=66_000,
                    requests_immediate=65_800,
                    requests_queued=200,
                    requests_wait_ms=812.0,
                    usage_ms=210_000,
                    connections_num=31,
                    connections_ms=44.0,
                ),
                (
                    backup(1, 3 * 3600, label="before the release"),
                    backup(2, 27 * 3600),
                    backup(3, 51 * 3600, verified_at=None, proof="page 31 differs"),
                    backup(4, 75 * 3600, verified_at=None, proof=""),
                ),
                now + 21 * 3600,
                WriterStats(
                    writers_wait_max_ms=412.0,
                    writers_num=5200,
                    writers_queued=400,
                    writers_wait_ms=4800.0,
                    writers_usage_ms=9900.0,
                    writers_errors=2,
                ),
                (Holder("POST save", 4100, 8200.0), Holder("POST lists.create", 1100, 1700.0)),
            ),
        ),
        recommendations=(ADVICE,),
        lost_updates=(
            LostUpdate("default", "saved", "save", "eeeeeeeeeeee", "dddddddddddd", "lists.create", now - 130),
            LostUpdate("default", "list", "lists.rename", "eeeeeeeeeeee", "dddddddddddd", "", now - 900),
        ),
        alerts=(
            Alert(
                "query_too_slow", "aaaaaaaaaaaa", f"a query took 2.6 s, more than 2 s: {LIKE}", 2.61, 2.0, now - 1300
            ),
            Alert(
                "cache_hit_ratio",
                "default",
                "the cache answered 41 % of 900 look-ups",
                0.41,
                0.5,
                now - 9000,
                now - 5000,
            ),
        ),
        requests=(
            RequestFigures(
                "lists",
                "GET",
                200,
                now - 70,
                930.0,
                214,
                610.0,
                1,
                200,
                (RepeatedStatement("eeeeeeeeeeee", "SELECT * FROM list WHERE id = ?", "app/lists.py:12", 201),),
            ),
            RequestFigures("search", "POST", None, now - 400, 410.0, 3, 400.0, 0, 0),
            RequestFigures("job: nightly", "", 0, now - 800, 90.0, 3, 20.0, 0, 0),
        ),
        lost_workers=(Worker("w0", 4099, "web-1", now - 9000, now - 3000, {}, 2.1),),
        notices=("SQLite 3.40.1 has the WAL-reset bug: use 3.51.3 or later, or checkpoint with one writer only",),
    )


def empty(now: float = NOW) -> Report:
    """The first minute of a new app."""
    points = tuple(Point(now - (60 - i) * 60, 0, 0, 0, 0.0, None, 0.0, 0, 0) for i in range(60))
    nothing = Overview(0, 0, 0, 0.0, None, None, None, None, None, None, None)
    database = DatabaseReport("default", "sqlite", "/srv/app/app.db", 8192, 0, "wal", None, (), None)
    return Report(now, now - 3600, "0.1.0", (), nothing, points, (), (), CacheStats(), (database,), (), (), ())


class Rooms:
    """What the tabs ask of a database's rooms. ``asked`` keeps every change that reached them."""

    writers_wait = True

    def __init__(self, report: Report) -> None:
        self.report = report
        self.asked: list[tuple[Any, ...]] = []
        self.fault: Exception | None = None

    def build(self, optimizer: Any, *, since: float, now: float) -> Report:
        return self.report

    def recommend(self, force: bool = False) -> tuple[Recommendation, ...]:
        return self.report.recommendations

    def explain(self, sql: str) -> Plan:
        return Plan(sql, (SCAN, SORT)) if "keyword" in sql else Plan(sql, problem="no such table: list")

    def details(self, query_id: str) -> QueryDetails:
        return DETAILS if query_id == "bbbbbbbbbbbb" else QueryDetails()

    def why_not(self, sql: str) -> str:
        return "`word LIKE ?` may begin with %, and then no index can help"

    def hindrance(self) -> str:
        return ""

    def apply(self, advice_id: str) -> None:
        self._change("apply", advice_id)

    def tables(self) -> dict[str, Table]:
        return {
            "keyword": Table(
                "keyword",
                ("id", "word"),
                320_000,
                (Index("keyword_language", "keyword", ("language", None), unique=True, partial=True),),
            ),
            "list": Table("list", ("id",), 41),
        }

    def take(self, *, label: str | None = None) -> BackupRecord:
        self._change("take", label)
        return backup(9, 0)

    def verify(self, backup_id: str) -> BackupRecord:
        self._change("verify", backup_id)
        return next(each for each in self.report.databases[0].backups if each.id == backup_id)

    def clear(self) -> None:
        self._change("clear")

    def reset(self) -> None:
        self._change("reset")

    def rules(self) -> list[RuleState]:
        states = []
        for name, rule in ALERT_RULES.items():
            raised = sum(alert.rule == name and alert.resolved_at is None for alert in self.report.alerts)
            states.append(RuleState(rule, rule.default, None, raised, 0))
        return states

    def silences(self) -> list[Silence]:
        return []

    def query(self, query_id: str) -> QueryFigures | None:
        return query(query_id, "SELECT old FROM keyword", 3, 2.0) if query_id == "0123456789ab" else None

    def _change(self, *what: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.asked.append(what)


@dataclasses.dataclass
class Stage:
    """An app, its rooms, and a clock to turn."""

    app: Flask
    rooms: Rooms
    clock: Clock
    optimizer: Any
    hook: Any = None

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def signed_in(self) -> FlaskClient:
        client = self.client
        assert client.post("/_dbopt/sign-in", data={"token": TOKEN}).status_code == 303
        return client


Build = Callable[..., Stage]


def stage(app: Flask | None = None, report: Report | None = None, *, real_time: bool = False, **config: Any) -> Stage:
    """An app with the page over ``report``; ``config`` as in app.config. Without a token unless one is given."""
    app = app or Flask("omni")
    resolved = resolve(config, {})
    rooms, clock = Rooms(report or busy()), Clock(NOW)
    database = SimpleNamespace(name="default", advisor=rooms, planner=rooms, backups=rooms)
    reasons = tuple(alert.message for alert in rooms.report.alerts if alert.resolved_at is None)
    optimizer = SimpleNamespace(
        settings=resolved.settings,
        sources=resolved.sources,
        databases={"default": database},
        monitor=rooms,
        cache=rooms,
        audit=Audit(None),
        tidings=SimpleNamespace(courier=None),
        version="0.1.0",
        health=lambda: Health(True, "degraded" if reasons else "ok", reasons),
    )
    staged = Stage(app, rooms, clock, optimizer)
    more = {} if real_time else {"clock": clock}
    register(
        app,
        optimizer,
        hook=lambda: staged.hook,
        build=lambda *given, **more: rooms.build(*given, **more),
        **more,  # type: ignore[arg-type]
    )
    return staged


@pytest.fixture
def build() -> Build:
    return stage


@pytest.fixture
def empty_report() -> Report:
    return empty()


@pytest.fixture
def busy_report() -> Report:
    return busy()
