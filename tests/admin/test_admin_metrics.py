"""What a Prometheus server reads at /_dbopt/metrics: by a real parser, linted, and never falling."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from flask_dbopt import DBOptimizer
from flask_dbopt.admin.exposition import Family, text
from flask_dbopt.admin.metrics import STATEMENTS

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FIND = "SELECT text FROM word WHERE id = ?"


def make_app(folder, **config) -> Flask:
    """An app of one worker; two of them on one folder are two workers. Nobody sweeps but the test."""
    with closing(sqlite3.connect(folder / "app.db")) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.commit()
    app = Flask("shop", instance_path=str(folder / "instance"))
    app.config.from_mapping(
        {"DBOPT_DATABASE": str(folder / "app.db"), "DBOPT_ADMIN_TOKEN": TOKEN, "DBOPT_STATE_DIR": "state", **config},
        TESTING=True,
    )
    dbopt = DBOptimizer(app)

    @app.get("/find/<int:key>")
    def find(key):
        return {"found": dbopt.connection.execute(FIND, (key,)).fetchall()}

    @app.get("/broken")
    def broken():
        return "", 500

    return app


@pytest.fixture
def workers(tmp_path):
    made = [make_app(tmp_path), make_app(tmp_path)]
    yield made
    for app in made:
        app.extensions["dbopt"].close()


@pytest.fixture
def site(workers):
    return workers[0]


def scrape(app: Flask) -> str:
    response = app.test_client().get("/_dbopt/metrics", headers=BEARER)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return response.get_data(as_text=True)


def families(told: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(told)}


def value(app_or_text: Flask | str, name: str, /, **labels: str) -> float:
    """The sum of the samples of that name that have these labels."""
    told = scrape(app_or_text) if isinstance(app_or_text, Flask) else app_or_text
    samples = (sample for family in families(told).values() for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def visit(app: Flask, times: int = 1) -> None:
    client = app.test_client()
    for number in range(times):
        client.get(f"/find/{number}")


def lint(told: str) -> list[str]:
    """What promtool would say: names, units, help, kinds, and nothing twice."""
    faults, seen, kinds, helps = [], set(), {}, set()
    for line in told.splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            (kinds.__setitem__(name, rest) if word == "TYPE" else helps.add(name))
            if word == "TYPE" and not rest.startswith(("counter", "gauge", "histogram")):
                faults.append(f"kind of {name}")
            continue
        sample = re.match(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? \S+$", line)
        if sample is None:
            faults.append(f"not a sample: {line}")
            continue
        if (series := line.rsplit(" ", 1)[0]) in seen:
            faults.append(f"twice: {series}")
        seen.add(series)
        base = re.sub(r"_(bucket|sum|count)$", "", sample[1])
        name = base if kinds.get(base) == "histogram" else sample[1]
        if name not in kinds or name not in helps:
            faults.append(f"{name} has no TYPE or HELP before it")
        if (kinds.get(name) == "counter") != name.endswith("_total"):
            faults.append(f"{name} is a {kinds.get(name)}")
    for name in kinds:
        words = name.split("_")
        if not name.startswith("flask_dbopt_") or {"ms", "milliseconds", "kb", "ratio", "percent"} & set(words):
            faults.append(f"name of {name}")
    if not told.endswith("\n") or "# EOF" in told:
        faults.append("its end")
    return faults


def test_a_real_parser_reads_it_and_a_linter_finds_no_fault(workers):
    for app in workers:
        visit(app, 5)
        app.test_client().get("/broken")
        app.test_client().get("/nowhere")
        app.extensions["dbopt"].monitor.sweep(time.time())
    told = scrape(workers[0])
    assert lint(told) == []
    kinds = {family.type for family in families(told).values()}
    assert kinds == {"counter", "gauge", "histogram"}
    assert {
        *("flask_dbopt_requests", "flask_dbopt_request_seconds", "flask_dbopt_queries", "flask_dbopt_query_seconds"),
        *("flask_dbopt_pool_requests", "flask_dbopt_pool_connections", "flask_dbopt_cache_hits"),
        *("flask_dbopt_cache_entries", "flask_dbopt_wal_bytes", "flask_dbopt_backup_timestamp_seconds"),
        *("flask_dbopt_alerts", "flask_dbopt_workers", "flask_dbopt_statement_info"),
    } <= families(told).keys()


def test_every_metric_is_explained(site):
    visit(site)
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    names = re.findall(r"^# TYPE flask_dbopt_(\w+)", scrape(site), flags=re.M)
    assert len(names) > 40
    assert [name for name in names if f"`{name}`" not in page] == []


def test_figures_are_of_all_workers(workers):
    for app in workers:
        visit(app, 5)
        app.test_client().get("/broken")
        app.extensions["dbopt"].monitor.sweep(time.time())
    for app in workers:
        told = scrape(app)
        assert value(told, "flask_dbopt_workers") == 2
        assert value(told, "flask_dbopt_requests_total", endpoint="find") == 10
        assert value(told, "flask_dbopt_request_errors_total", endpoint="broken") == 2
        assert value(told, "flask_dbopt_queries_total", endpoint="find") == 10
        assert value(told, "flask_dbopt_pool_connections_max", database="default") == 40
        assert value(told, "flask_dbopt_pool_requests_total", database="default") == 10


def test_the_worker_that_is_asked_is_up_to_date(site):
    visit(site, 3)
    assert value(site, "flask_dbopt_requests_total", endpoint="find") == 3


def test_no_counter_falls_whichever_worker_is_asked(workers):
    one, other = workers
    before: dict[tuple[str, str], float] = {}
    for turn in range(6):
        visit(one, 3)
        visit(other, 1)
        if turn == 3:
            one.extensions["dbopt"].monitor.reset()
        now = {
            (sample.name, str(sorted(sample.labels.items()))): sample.value
            for family in families(scrape(workers[turn % 2])).values()
            if family.type in ("counter", "histogram") and "statement" not in family.name
            for sample in family.samples
        }
        assert {key: (was, now.get(key)) for key, was in before.items() if now.get(key, -1) < was} == {}
        before = now


def test_histograms_are_cumulative_and_agree_with_their_count(site):
    for family, name in ((visit, "flask_dbopt_request_seconds"), (visit, "flask_dbopt_query_seconds")):
        family(site, 20)
        samples = families(scrape(site))[name].samples
        buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
        assert buckets == sorted(buckets)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        count = next(s.value for s in samples if s.name.endswith("_count"))
        assert buckets[-1] == (float("inf"), count)
        assert 0 < next(s.value for s in samples if s.name.endswith("_sum")) < count


def test_a_duration_is_counted_where_it_lies(site):
    monitor = site.extensions["dbopt"].monitor
    for seconds in (0.00005, 0.004, 0.004, 0.3, 50.0):
        monitor.recorder.record("SELECT 1", seconds, 1, None, False)
    told = scrape(site)
    upto = {
        le: value(told, "flask_dbopt_query_seconds_bucket", le=le) for le in ("0.0001", "0.0025", "0.005", "1", "10")
    }
    assert upto == {"0.0001": 1, "0.0025": 1, "0.005": 3, "1": 4, "10": 4}
    assert value(told, "flask_dbopt_query_seconds_bucket", le="+Inf") == 5
    assert value(told, "flask_dbopt_query_seconds_sum") == pytest.approx(50.30805)


def test_a_statement_has_its_text_beside_its_id_and_no_value_in_it(site):
    recorder = site.extensions["dbopt"].monitor.recorder
    recorder.record("SELECT \"a\\b\" FROM word\nWHERE text = 'a secret'", 0.5, 3, None, False)
    told = scrape(site)
    samples = families(told)["flask_dbopt_statement_info"].samples
    assert [s.labels["query"] for s in samples] == ['SELECT "a\\b" FROM word WHERE text = ?']
    known = samples[0].labels["id"]
    assert value(told, "flask_dbopt_statement_seconds_total", id=known) == 0.5
    assert value(told, "flask_dbopt_statement_rows_total", id=known) == 3
    assert "secret" not in told


def test_the_number_of_series_is_bounded(site):
    recorder = site.extensions["dbopt"].monitor.recorder
    for number in range(STATEMENTS + 30):
        recorder.record(f"SELECT c{number} FROM {'wide_' * 60}word", number / 1000, 1, None, False)
    for number in range(300):
        recorder.end(recorder.begin(f"page_{number}", "GET"), 200)
    told = scrape(site)
    shown = families(told)["flask_dbopt_statement_info"].samples
    assert len(shown) == STATEMENTS
    assert max(len(s.labels["query"]) for s in shown) == 200
    endpoints = {s.labels["endpoint"]: s.value for s in families(told)["flask_dbopt_requests"].samples}
    assert len(endpoints) <= 201
    assert endpoints["(other endpoints)"] > 90
    assert sum(endpoints.values()) == 300
    recorder.end(recorder.begin("one_more", "GET"), 200)
    assert value(site, "flask_dbopt_requests_total") == 301


def test_other_rooms_counters_are_there_too(site):
    site.extensions["dbopt"].monitor.count("guard.refused", 3)
    assert value(site, "flask_dbopt_events_total", name="guard.refused") == 3


def test_a_backup_is_told_by_its_time_and_none_by_zero(site):
    assert value(site, "flask_dbopt_backup_timestamp_seconds", database="default") == 0
    before = time.time()
    visit(site)
    site.extensions["dbopt"].default.backups.take()
    told = scrape(site)
    assert before - 1 < value(told, "flask_dbopt_backup_timestamp_seconds", database="default") < time.time() + 1
    assert before - 1 < value(told, "flask_dbopt_backup_proved_timestamp_seconds", database="default")
    assert value(told, "flask_dbopt_backups", database="default") == 1
    assert value(told, "flask_dbopt_backup_next_timestamp_seconds") > before + 3600


def test_standing_alerts_are_told_by_their_rule(site):
    monitor = site.extensions["dbopt"].monitor
    assert value(site, "flask_dbopt_alerts") == 0
    monitor.recorder.record("SELECT slowly", 9.0, 1, None, False)
    monitor.flush()
    monitor.evaluate(time.time())
    told = scrape(site)
    assert value(told, "flask_dbopt_alerts_by_rule", rule="query_too_slow") == 1
    assert value(told, "flask_dbopt_alerts") >= 1


def test_while_the_ledger_cannot_be_read_counters_are_missing_and_not_smaller(site, tmp_path):
    visit(site, 4)
    scrape(site)
    monitor = site.extensions["dbopt"].monitor
    monitor.let_go()
    ledger = next((tmp_path / "instance" / "state").glob("ledger.db"))
    kept = ledger.rename(ledger.with_name("elsewhere"))
    ledger.mkdir()  # a folder of its name: no more a file that can be opened
    told = scrape(site)
    assert value(told, "flask_dbopt_ledger_readable") == 0
    assert "flask_dbopt_requests_total" not in told
    assert "flask_dbopt_pool_connections" in told
    assert lint(told) == []
    ledger.rmdir()
    kept.rename(ledger)


def test_a_scraper_needs_the_token(site):
    refused = site.test_client().get("/_dbopt/metrics")
    assert refused.status_code == 401
    assert refused.mimetype == "application/json"
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert site.test_client().post("/_dbopt/metrics", headers=BEARER).status_code == 405


def test_without_a_token_there_is_no_such_page(tmp_path):
    app = make_app(tmp_path, DBOPT_ADMIN_TOKEN=None)
    assert app.test_client().get("/_dbopt/metrics").status_code == 404
    app.extensions["dbopt"].close()


def test_odd_values_and_texts_are_written_as_the_format_wants_them():
    family = Family("flask_dbopt_odd", "gauge", "A \\ and\na line.")
    for told, number in (("inf", float("inf")), ("-inf", float("-inf")), ("nan", float("nan")), ("big", 1e18)):
        family.add(number, of=told)
    family.add(0.25, of='"\\\n\ud800')
    written = text([family, Family("flask_dbopt_empty", "gauge", "Nothing.")])
    assert "empty" not in written
    assert written.startswith("# HELP flask_dbopt_odd A \\\\ and\\na line.\n")
    (parsed,) = text_string_to_metric_families(written)
    values = {sample.labels["of"]: sample.value for sample in parsed.samples}
    assert (values["inf"], values["-inf"], values["big"]) == (float("inf"), float("-inf"), 1e18)
    assert values['"\\\n?'] == 0.25
    assert values["nan"] != values["nan"]
