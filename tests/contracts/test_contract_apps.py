"""Beside the host's own extensions, pages and forks; and nothing that stays when an app goes."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, appcontext_pushed, request

from flask_dbopt import DBOptimizer, signals
from flask_dbopt.monitor.alerts import Alert

COUNT = "SELECT count(*) FROM keyword"


def holders(app: Flask) -> tuple[Any, ...]:
    return app.extensions["dbopt"].default.pool.holders()


# --- the host's own ways


def test_catch_all_routes_and_before_request_locks_leave_our_pages_alone(
    make_app: Callable[..., Flask], path: Path
) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_ADMIN_TOKEN="a-long-enough-token-for-the-page")
    app.add_url_rule("/", "root", lambda: "root")
    app.add_url_rule("/<path:anything>", "all", lambda anything: f"all {anything}")
    DBOptimizer(app)
    app.before_request(lambda: None if request.path in ("/", "/x") else ("log in first", 302))
    client = app.test_client()
    assert client.get("/x").text == "all x"
    page = client.get("/_dbopt/", headers={"Authorization": "Bearer a-long-enough-token-for-the-page"})
    assert page.status_code == 200
    assert "Flask-DBOpt" in page.text


def test_an_app_with_a_blueprint_of_our_name_is_left_whole(make_app: Callable[..., Flask], path: Path) -> None:
    app = make_app(DBOPT_DATABASE=str(path))
    mine = Blueprint("admin", __name__, url_prefix="/admin")
    mine.add_url_rule("/", "index", lambda: "mine")
    app.register_blueprint(mine)
    DBOptimizer(app)
    assert app.test_client().get("/admin/").text == "mine"


def test_a_broken_admin_page_breaks_no_other(
    make_app: Callable[..., Flask], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_ADMIN_TOKEN="a-long-enough-token-for-the-page")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    dbopt = DBOptimizer(app)

    def broken(*about: Any, **more: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(dbopt.optimizer.monitor, "series", broken)
    monkeypatch.setattr(dbopt.optimizer.monitor, "queries", broken)
    app.add_url_rule("/", "index", lambda: "fine")
    client = app.test_client()
    assert (
        client.get("/_dbopt/", headers={"Authorization": "Bearer a-long-enough-token-for-the-page"}).status_code >= 500
    )
    assert client.get("/").text == "fine"


def test_the_hosts_own_cache_and_scheduler_are_left_alone(make_app: Callable[..., Flask], path: Path) -> None:
    from flask_apscheduler import APScheduler
    from flask_caching import Cache

    app = make_app(testing=False, DBOPT_DATABASE=str(path), CACHE_TYPE="SimpleCache", SCHEDULER_API_ENABLED=True)
    cache = Cache(app)
    scheduler = APScheduler()
    scheduler.init_app(app)
    rules = {rule.rule for rule in app.url_map.iter_rules() if "scheduler" in rule.rule}
    dbopt = DBOptimizer(app)
    assert app.apscheduler is scheduler
    with app.app_context():
        cache.set("mine", 1)
        dbopt.cache.clear()
        dbopt.connection.execute("INSERT INTO note VALUES (1, 'x')")
        dbopt.connection.commit()
        assert cache.get("mine") == 1
    app.extensions["dbopt"].lease.acquire()
    app.extensions["dbopt"].housekeeper.run_due(1e9)
    assert scheduler.get_jobs() == []
    assert {rule.rule for rule in app.url_map.iter_rules() if "scheduler" in rule.rule} == rules


def test_every_signal_has_the_app_as_sender_and_a_raising_receiver_breaks_nothing(
    site: Flask, dbopt: DBOptimizer
) -> None:
    heard: list[Any] = []

    def listen(sender: Any, **details: Any) -> None:
        heard.append(sender)
        raise LookupError("a receiver of the app's")

    site.extensions["dbopt"].default.shelf.worth = 0.0
    with contextlib.ExitStack() as stack:
        for signal in (signals.cache_hit, signals.cache_miss, signals.cache_invalidated, signals.query_executed):
            stack.enter_context(signal.connected_to(listen))
        for _ in range(5):
            with dbopt.borrow() as c:
                assert c.execute("SELECT count(*), language FROM keyword").fetchone()[0] == 3000
        dbopt.cache.clear()
        dbopt.monitor.sweep(1e9)
    assert set(heard) == {site}
    assert len(heard) >= 4


# --- many apps


def one_life(make: Callable[[], Flask]) -> list[weakref.ref[Any]]:
    """An app that is made, asked, and forgotten; what of it should be gone then."""
    app = make()
    dbopt = DBOptimizer(app)

    @app.get("/")
    def index() -> str:
        return str(dbopt.connection.execute(COUNT).fetchone()[0])

    assert app.test_client().get("/").text == "3000"
    optimizer = app.extensions["dbopt"]
    return [weakref.ref(each) for each in (app, dbopt, optimizer, optimizer.default, optimizer.default.pool)]


@pytest.mark.parametrize("testing", [True, False])
def test_many_apps_in_one_process_leave_nothing_behind(
    tmp_path: Path, path: Path, testing: bool, descriptors: Callable[[Path], list[str]]
) -> None:
    def make() -> Flask:
        app = Flask("one", instance_path=str(tmp_path / "instance"))
        app.testing = testing
        app.config["DBOPT_DATABASE"] = str(path)
        return app

    def listeners() -> int:
        kinds = [value for value in vars(signals).values() if hasattr(value, "receivers")]
        return sum(len(kind.receivers) for kind in (*kinds, appcontext_pushed))

    def collect() -> None:
        """What ends in the first round frees more for the next."""
        for _ in range(3):
            gc.collect()

    one_life(make)
    collect()
    before = threading.active_count(), listeners(), len(descriptors(Path("/")))
    left = [each for _ in range(5) for each in one_life(make)]
    collect()
    assert [each() for each in left if each() is not None] == []
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(5)  # they were told to end
    after = threading.active_count(), listeners(), len(descriptors(Path("/")))
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
    assert descriptors(path) == []


def test_nothing_starts_before_the_first_request(make_app: Callable[..., Flask], path: Path) -> None:
    before = set(threading.enumerate())

    def started() -> int:
        return len(set(threading.enumerate()) - before)

    app = make_app(testing=False, DBOPT_DATABASE=str(path))
    dbopt = DBOptimizer(app)
    with app.app_context(), dbopt.borrow() as c:
        c.execute(COUNT)
    assert started() == 0
    app.add_url_rule("/", "index", lambda: "fine")
    app.test_client().get("/")
    assert started() == 1
    app.extensions["dbopt"].close()
    app.extensions["dbopt"].close()
    assert started() == 0


def test_a_forked_child_serves_with_handles_of_its_own(make_app: Callable[..., Flask], path: Path) -> None:
    app = make_app(testing=False, DBOPT_DATABASE=str(path))
    dbopt = DBOptimizer(app)

    @app.get("/")
    def index() -> str:
        return str(dbopt.connection.execute(COUNT).fetchone()[0])

    assert app.test_client().get("/").text == "3000"
    kept = dbopt.connect()
    kept.execute("INSERT INTO note VALUES (1, 'parent')")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            served = app.test_client().get("/").text == "3000"
            fresh = dbopt.pool.stats().connections_num >= 1 and holders(app) == ()
            kept.close()
            code = 0 if served and fresh else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kept.commit()
    kept.close()
    with dbopt.borrow() as c:
        assert c.execute("SELECT text FROM note").fetchall() == [("parent",)]
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_import_starts_nothing(tmp_path: Path) -> None:
    """So that gevent may patch the world first."""
    code = (
        "import threading, sys; before = threading.active_count();"
        "import flask_dbopt, flask_dbopt.extension, flask_dbopt.sqlite3;"
        "assert threading.active_count() == before == 1; assert 'sqlalchemy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    lazy = "import flask_dbopt, sys; assert 'flask' not in sys.modules"
    subprocess.run([sys.executable, "-c", lazy], check=True, timeout=60)


def test_an_alert_reaches_who_asked_for_it(make_app: Callable[..., Flask], path: Path) -> None:
    app, other = make_app(DBOPT_DATABASE=str(path)), make_app(DBOPT_DATABASE=str(path))
    dbopt, others = DBOptimizer(app), DBOptimizer(other)
    heard: list[str] = []
    dbopt.on_alert("query_too_slow")(lambda alert: heard.append(alert.message))
    others.on_alert("query_too_slow")(lambda alert: heard.append("of another app"))
    alert = Alert("query_too_slow", "", "too slow", 3.0, 2.0, 0.0, None)
    signals.send("alert_raised", app, alert=alert)
    signals.send("alert_raised", app, alert=replace(alert, rule="cache_hit_ratio"))
    assert heard == ["too slow"]
