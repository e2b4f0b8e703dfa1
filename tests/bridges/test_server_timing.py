"""In debug mode each response says what it cost, in a header that browsers draw; otherwise none does."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing

import pytest
from flask import Flask, Response, request_finished, request_started, stream_with_context

from flask_dbopt import DBOptimizer
from flask_dbopt.bridges.server_timing import header
from flask_dbopt.monitor.request import RequestCost

FIND = "SELECT text FROM word WHERE id = ?"


@pytest.fixture
def make_app(tmp_path):
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.commit()
    made: list[Flask] = []

    def make(*, debug: bool, **config) -> Flask:
        app = Flask("timed", instance_path=str(tmp_path / "instance"))
        app.config.from_mapping(TESTING=True, DBOPT_DATABASE=str(tmp_path / "app.db"), **config)
        app.debug = debug
        dbopt = DBOptimizer(app)

        @app.get("/five")
        def five():
            for key in range(5):
                dbopt.connection.execute(FIND, (key,)).fetchall()
            return "done"

        @app.get("/stream")
        def stream():
            dbopt.connection.execute(FIND, (1,)).fetchall()

            def lines():
                yield str(dbopt.connection.execute(FIND, (2,)).fetchall())

            return Response(stream_with_context(lines()))

        @app.get("/own")
        def own():
            return "", {"Server-Timing": "render;dur=3"}

        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["dbopt"].close()


def durations(told: str) -> dict[str, float]:
    return {name: float(dur) for name, dur in re.findall(r"(\w+);dur=([\d.]+)", told)}


def test_a_response_says_how_many_queries_it_took_and_how_long_they_were(make_app):
    told = make_app(debug=True).test_client().get("/five").headers["Server-Timing"]
    assert '"5 queries"' in told
    took = durations(told)
    assert 0 < took["db"] < took["total"]
    assert took["db"] + took["app"] == pytest.approx(took["total"], abs=0.02)
    assert "SELECT" not in told


def test_outside_debug_mode_no_response_says_anything_and_nothing_listens(make_app):
    app = make_app(debug=False)
    client = app.test_client()
    assert "Server-Timing" not in client.get("/five").headers
    assert "Server-Timing" not in client.get("/five").headers
    told = [each.__module__ for signal in (request_started, request_finished) for each in signal.receivers_for(app)]
    assert "flask_dbopt.bridges.server_timing" not in told


def test_debug_mode_may_be_switched_on_until_the_first_request(make_app):
    app = make_app(debug=False)
    app.debug = True
    assert "Server-Timing" in app.test_client().get("/five").headers


def test_what_a_stream_will_yet_run_is_not_in_it(make_app):
    response = make_app(debug=True).test_client().get("/stream")
    assert '"1 query before the body"' in response.headers["Server-Timing"]
    assert response.data


def test_what_is_no_stream_does_not_look_like_one(make_app):
    client = make_app(debug=True).test_client()
    for path in ("/five", "/nowhere", "/_dbopt"):
        assert "before the body" not in client.get(path).headers.get("Server-Timing", "")


def test_the_app_s_own_header_stays(make_app):
    told = make_app(debug=True).test_client().get("/own").headers.getlist("Server-Timing")
    assert told[0] == "render;dur=3"
    assert '"0 queries"' in told[1]


def test_without_a_monitor_there_is_nothing_to_say(make_app):
    assert "Server-Timing" not in make_app(debug=True, DBOPT_MONITOR_ENABLED=False).test_client().get("/five").headers


def test_our_own_pages_say_nothing(make_app):
    response = make_app(debug=True).test_client().get("/_dbopt/health")
    assert response.status_code == 200
    assert "Server-Timing" not in response.headers


def test_answers_of_the_cache_are_hits_and_take_no_time():
    cost = RequestCost("page", "GET", 10.0, object())
    for seconds, cached in ((0.012, False), (0.0, True), (0.0, True)):
        cost.records.append([FIND, seconds, 1, None, cached, 10.0, "default"])
    assert header(cost, 10.02) == (
        'db;dur=12.00;desc="1 query", cache;desc="2 hits", app;dur=8.00;desc="everything else", total;dur=20.00'
    )


def test_threads_of_a_request_may_take_longer_than_it_took():
    cost = RequestCost("page", "GET", time.perf_counter(), object())
    cost.records.append([FIND, 60.0, 1, None, False, 10.0, "default"])
    assert durations(header(cost, time.perf_counter()))["app"] == 0
