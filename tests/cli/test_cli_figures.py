"""stats, monitor, cache, config, explain: what is told is what happened."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from tests.cli.conftest import FIND


@pytest.mark.usefixtures("busy_site")
def test_stats_tells_what_every_worker_flushed(ask):
    code, told = ask("stats")
    assert code == 0
    assert told["overview"]["requests"] == 12
    assert told["overview"]["p95"] > 0
    (query,) = [one for one in told["queries"] if one["query"].startswith("SELECT id FROM word")]
    assert query["calls"] == 12
    assert query["endpoints"] == ["find"]
    assert [one["name"] for one in told["databases"]] == ["default"]
    assert told["databases"][0]["journal_mode"] == "wal"
    assert told["databases"][0]["pool"]["requests_num"] >= 12


@pytest.mark.usefixtures("busy_site")
def test_stats_tells_people_the_same(say):
    told = say("stats", "--since", "1h").output
    assert "SELECT id FROM word WHERE text = ?" in told
    assert "12" in told
    assert "the last 60 min" in told
    assert "Failed requests" in told


@pytest.mark.usefixtures("busy_site")
def test_stats_forgets_when_told_to(say, ask):
    told = say("stats", "--reset")
    assert told.exit_code == 2
    assert "Say --yes" in told.stderr
    assert ask("stats")[1]["overview"]["requests"] == 12
    assert ask("stats", "--reset", "--yes") == (0, {"reset": True})
    _, told = ask("stats")
    assert told["overview"]["requests"] == 0
    assert told["overview"]["p50"] is None


@pytest.mark.parametrize("length", ["soon", "3 fortnights", "-1h", ""])
def test_a_length_of_time_that_is_none_is_misuse(say, length):
    told = say("stats", "--since", length)
    assert told.exit_code == 2
    assert "30s, 15m, 1h or 7d" in told.stderr


@pytest.mark.usefixtures("busy_site")
def test_a_look_at_the_monitor_shows_figures_and_ends(say, ask):
    told = say("monitor", "--once")
    assert told.exit_code == 0
    assert "SELECT id FROM word" in told.output
    assert ask("monitor", "--once")[1]["overview"]["requests"] == 12


def test_a_look_at_the_monitor_exits_with_1_while_an_alert_is_raised(say, busy_site):
    monitor = busy_site.extensions["dbopt"].monitor
    monitor.recorder.record("SELECT slowly", 9.0, 1, None, False)
    monitor.flush()
    monitor.evaluate(time.time())
    told = say("monitor", "--once")
    assert told.exit_code == 1
    assert "query_too_slow" in told.output


@pytest.mark.usefixtures("busy_site")
def test_a_statement_is_explained_without_being_run(say, ask, database):
    code, told = ask("explain", "SELECT * FROM word WHERE text = ?", "--param", "word 3")
    assert code == 1
    assert told["steps"][0]["reads_whole_table"]
    assert told["explained"]
    code, told = ask("explain", "SELECT * FROM word WHERE id = :id", "--param", "id=3")
    assert code == 0
    ask("explain", "DELETE FROM word")
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM word").fetchone() == (3000,)
    assert "word" in say("explain", "SELECT * FROM word WHERE text = 'a'").output


def test_a_recorded_statement_is_explained_by_its_id_with_its_slow_runs(say, ask, make_app):
    site = make_app(DBOPT_MONITOR_SLOW_SECONDS=1e-7, DBOPT_MONITOR_RECORD_PARAMS=True)
    assert site.test_client().get("/find/word 7").status_code == 200
    for _ in range(2):
        site.extensions["dbopt"].monitor.sweep(time.time())
    code, told = ask("stats", creates=lambda: site)
    (query,) = [each for each in told["queries"] if each["query"] == FIND]
    assert query["database"] == "default"
    code, told = ask("explain", query["id"], creates=lambda: site)
    assert code == 1
    assert told["recorded"]["query"] == FIND
    assert told["slow_runs"][0]["parameters"] == "'word 7'"
    assert told["slow_runs"][0]["endpoint"] == "find"
    assert "reads all 3,000 rows of word" in told["plans"][0]["lines"][0]
    text = say("explain", query["id"], creates=lambda: site).output
    assert f"Comes from {query['place']}" in text
    assert "with 'word 7'" in text
    code, told = ask("explain", "0123456789ab", creates=lambda: site)
    assert (code, told["hint"]) == (2, "flask db-opt stats lists their ids")


def test_what_is_no_statement_cannot_be_explained(ask):
    code, told = ask("explain", "SELEKT 1")
    assert code == 2
    assert "SELECT, INSERT, UPDATE and DELETE" in told["error"]


@pytest.mark.usefixtures("busy_site")
def test_the_cache_tells_its_figures(say, ask):
    code, told = ask("cache", "stats", "--since", "1h")
    assert code == 0
    assert {"hits", "misses", "entries", "hit_ratio"} <= told.keys()
    assert "hit ratio" in say("cache", "stats").output


def kept_and_asked_again(app: Flask, text: str) -> int:
    """How many hits two more requests for the same word bring."""
    cache = app.extensions["dbopt"].cache
    before = cache.stats().hits
    for _ in range(2):
        app.test_client().get(f"/find/{text}")
    return cache.stats().hits - before


def test_clearing_the_cache_reaches_every_worker(say, ask, site):
    for _ in range(5):
        site.test_client().get("/find/word 5")
    # Now and then a hit is run again instead, to see whether it still saves anything.
    assert any(kept_and_asked_again(site, "word 5") == 2 for _ in range(5))
    assert ask("cache", "clear") == (0, {"database": "default", "cleared": True})
    assert kept_and_asked_again(site, "word 5") < 2
    assert ask("cache", "invalidate", "word")[0] == 0
    assert kept_and_asked_again(site, "word 5") < 2
    assert "drops" in say("cache", "clear").output
    assert "drops" in say("cache", "invalidate", "WORD").output


def test_a_table_that_is_not_there_cannot_be_invalidated(ask):
    code, told = ask("cache", "invalidate", "wodr")
    assert code == 2
    assert "wodr" in told["error"]
    assert "word" in told["hint"]


def test_a_database_in_memory_has_no_cache_to_clear(ask):
    def fleeting() -> Flask:
        app = Flask("fleeting")
        DBOptimizer(app, database=":memory:")
        return app

    code, told = ask("cache", "clear", creates=fleeting)
    assert code == 2
    assert "another process" in told["error"]


def test_config_tells_value_and_source(say, ask, make_app):
    def chosen() -> Flask:
        return make_app(DBOPT_POOL_MAX=7, DBOPT_ADMIN_TOKEN="secret", DBOPT_SQLITE_WAL_LIMIT="1 MiB")

    _, told = ask("config", "--changed", creates=chosen)
    assert told["DBOPT_POOL_MAX"]["value"] == 7
    assert told["DBOPT_POOL_MAX"]["source"] == "app.config DBOPT_POOL_MAX"
    assert "DBOPT_POOL_MIN" not in told
    assert "secret" not in str(told)
    assert set(ask("config", "pool", "cache_ttl", creates=chosen)[1]) >= {"DBOPT_POOL_MIN", "DBOPT_CACHE_TTL"}
    assert "DBOPT_POOL_MAX" in say("config", "DBOPT_POOL_MAX", creates=chosen).output


def test_config_knows_which_settings_there_are(say):
    told = say("config", "pol")
    assert told.exit_code == 2
    assert "there is no setting pol" in told.stderr


def test_config_lists_the_settings_when_the_app_s_own_cannot_work(say, ask):
    def wrong() -> Flask:
        app = Flask("wrong")
        app.config["DBOPT_POOL_MAXX"] = 3
        DBOptimizer(app)
        return app

    told = say("config", creates=wrong)
    assert told.exit_code == 2
    assert "DBOPT_POOL_MAXX" in told.stderr
    assert "DBOPT_POOL_TIMEOUT" in told.stdout
    code, told = ask("config", "pool", creates=wrong)
    assert code == 2
    assert told["settings"]["DBOPT_POOL_MAX"]["value"] is None
    assert "DBOPT_POOL_MAXX" in told["error"]
