"""One set of figures: summed over workers, honest about what is missing, ready for JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.report import Report, as_dict, build, plain


@pytest.fixture
def make_site(tmp_path):
    """Workers of one app: each has its own optimizer, all share ledger and database."""
    made = []

    def make(**config):
        site = Flask("shared", instance_path=str(tmp_path / "instance"))
        site.config.from_mapping({"DBOPT_DATABASE": str(tmp_path / "shared.db"), **config})
        dbopt = DBOptimizer(site)

        @site.get("/")
        def home():
            dbopt.connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
            return str(dbopt.connection.execute("SELECT count(*) FROM t").fetchall())

        @site.get("/broken")
        def broken():
            raise LookupError

        made.append(site)
        return site

    yield make
    for site in made:
        site.extensions["dbopt"].close()


def serve(site, requests):
    """So many requests, swept into the ledger; the optimizer."""
    optimizer = site.extensions["dbopt"]
    optimizer.housekeeper.abandon()
    optimizer.housekeeper.wake = lambda: None
    for _ in range(requests):
        assert site.test_client().get("/").status_code == 200
    optimizer.monitor.sweep(optimizer._clock())
    return optimizer


def test_figures_of_two_workers_add_up(make_site):
    first = serve(make_site(), 3)
    second = serve(make_site(), 4)
    for optimizer in (first, second):
        report = build(optimizer)
        assert report.overview.requests == 7
        assert len(report.workers) == 2
        (database,) = report.databases
        assert database.pool is not None
        assert database.pool.requests_num == 7
        assert database.pool.pool_size == 2
        assert database.pool.pool_max == 40
        assert report.overview.pool_hit_ratio == pytest.approx(5 / 7)
        assert report.overview.queries_per_request == 2
        assert 0 < report.overview.database_share < 1
        assert 0 < report.overview.p50 <= report.overview.p95 <= report.overview.p99


def test_what_the_cache_did_is_summed_too(make_site):
    first, second = serve(make_site(), 3), serve(make_site(), 3)
    own = [optimizer.cache.stats() for optimizer in (first, second)]
    told = build(first).cache
    assert told.max_entries == sum(each.max_entries for each in own)
    assert told.misses == sum(each.misses for each in own)
    assert (told.ttl, told.enabled) == (own[0].ttl, True)


def test_a_request_that_fails_is_an_error(make_site):
    site = make_site()
    assert site.test_client().get("/broken").status_code == 500
    assert build(serve(site, 1)).overview.errors == 1


def test_nothing_happened_yet_is_no_ratio_and_no_quantile(make_site):
    overview = build(make_site().extensions["dbopt"]).overview
    assert (overview.requests, overview.requests_per_second) == (0, 0)
    assert {overview.p50, overview.p95, overview.database_share, overview.pool_hit_ratio} == {None}


def test_a_window_tells_only_what_lies_in_it(make_site):
    optimizer = serve(make_site(), 2)
    now = optimizer._clock()
    assert build(optimizer, since=now - 60, now=now).overview.requests == 2
    assert build(optimizer, since=now + 3600, now=now + 3600).overview.requests == 0


def test_without_a_monitor_the_pool_still_tells_its_own(make_site):
    site = make_site()
    site.test_client().get("/")
    optimizer = site.extensions["dbopt"]
    optimizer.housekeeper.stop(2.0)
    (database,) = build(optimizer).databases
    assert database.pool == optimizer.default.pool_stats()


def test_a_room_in_trouble_becomes_a_notice_and_hides_nothing_else(make_site, tmp_path):
    optimizer = serve(make_site(), 2)
    folder = tmp_path / "instance/backups/default"
    folder.mkdir(parents=True)
    (folder / "catalog.json").write_text('{"format": 999}')
    report = build(optimizer)
    assert report.overview.requests == 2
    assert any("backups of default" in notice for notice in report.notices)


def test_a_report_is_json_by_the_same_names(make_site):
    report = build(serve(make_site(), 2))
    told = json.loads(json.dumps(as_dict(report)))
    assert set(told) == set(Report.__dataclass_fields__)
    assert told["databases"][0]["pool"]["hit_ratio"] == report.databases[0].pool.hit_ratio
    assert told["queries"][0]["total_exec_time"] == report.queries[0].total_exec_time
    assert told["cache"]["hit_ratio"] == report.cache.hit_ratio


def test_what_json_has_no_word_for_becomes_text_or_nothing():
    assert plain({"a": (math.nan, math.inf, 1.5), 2: Path("/x"), "s": {1}}) == {
        "a": [None, None, 1.5],
        "2": "/x",
        "s": [1],
    }
    assert as_dict(PoolStats(requests_num=4, requests_immediate=3))["hit_ratio"] == 0.75
