"""Inside Flask: contexts, requests, streams, several apps, and nothing that stays when an app goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, appcontext_pushed, g, request, stream_with_context
from freezegun import freeze_time

from flask_dbopt import DBOptimizer, signals
from flask_dbopt.errors import ConfigurationError, PoolTimeout

COUNT = "SELECT count(*) FROM keyword"


def holders(app: Flask) -> tuple[Any, ...]:
    return app.extensions["dbopt"].default.pool.holders()


def calls(app: Flask) -> dict[str, int]:
    """Requests by endpoint."""
    return {each.endpoint: each.calls for each in app.extensions["dbopt"].monitor.endpoints(None)}


# --- which app


def test_init_app_twice_on_one_app_is_refused(site: Flask, dbopt: DBOptimizer) -> None:
    for again in (dbopt, DBOptimizer()):
        with pytest.raises(RuntimeError, match="already initialised"):
            again.init_app(site)


def test_one_object_may_serve_several_apps(make_app: Callable[..., Flask], path: Path, tmp_path: Path) -> None:
    dbopt = DBOptimizer(pool_max=3)
    with pytest.raises(RuntimeError, match="has no app yet"):
        dbopt.connect()
    one, two = make_app(DBOPT_DATABASE=str(path)), make_app(DBOPT_DATABASE=str(tmp_path / "two.db"))
    dbopt.init_app(one)
    with dbopt.borrow() as c:
        assert c.execute(COUNT).fetchone() == (3000,)
    dbopt.init_app(two)
    with pytest.raises(RuntimeError, match="several apps"):
        dbopt.connect()
    with two.app_context():
        dbopt.connection.execute("CREATE TABLE keyword (a)")
        assert dbopt.connection.execute(COUNT).fetchone() == (0,)
        with one.app_context():
            assert dbopt.connection.execute(COUNT).fetchone() == (3000,)
        assert dbopt.connection.execute(COUNT).fetchone() == (0,)
        assert dbopt.pool.maximum == 3
    with make_app().app_context(), pytest.raises(RuntimeError, match="not initialised on the app"):
        dbopt.connect()


def test_an_app_without_a_database_starts_and_says_so_when_asked(make_app: Callable[..., Flask]) -> None:
    app = make_app(testing=False)
    dbopt = DBOptimizer(app)
    app.add_url_rule("/", "index", lambda: "fine")
    assert app.test_client().get("/").text == "fine"
    with pytest.raises(ConfigurationError, match=r"there is no database 'default'; known: none .*DBOPT_DATABASE"):
        dbopt.connect()
    assert dbopt.health().ok
    assert dbopt.report().databases == ()


def test_a_module_may_use_it_before_the_app_is_set_up(make_app: Callable[..., Flask], path: Path) -> None:
    dbopt = DBOptimizer(database=path)
    app = make_app()
    dbopt.init_app(app)
    with dbopt.transaction() as c:
        c.execute("CREATE TABLE made_at_import (a)")

    @app.get("/")
    def index() -> str:
        return str(dbopt.connection.execute("SELECT count(*) FROM made_at_import").fetchone())

    assert app.test_client().get("/").text == "(0,)"


# --- contexts


def test_each_context_has_its_own_connection_and_gives_it_back(site: Flask, dbopt: DBOptimizer) -> None:
    with pytest.raises(RuntimeError, match="needs an app context"):
        dbopt.connection
    with site.app_context():
        outer = dbopt.connection
        assert dbopt.connection is outer
        with site.app_context():
            inner = dbopt.connection
            assert inner is not outer
            inner.execute(COUNT)
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            inner.execute(COUNT)
        assert outer.execute(COUNT).fetchone() == (3000,)
        outer.close()
        assert dbopt.connection is not outer
        assert dbopt.connection.execute(COUNT).fetchone() == (3000,)
    assert holders(site) == ()


def test_a_context_inside_a_request_is_another_one(site: Flask, dbopt: DBOptimizer) -> None:
    @site.get("/")
    def index() -> str:
        mine = dbopt.connection
        with site.app_context():
            assert dbopt.connection is not mine
        return str(mine.execute(COUNT).fetchone()[0])

    assert site.test_client().get("/").text == "3000"
    assert holders(site) == ()


def test_the_apps_own_teardown_still_has_its_connection(site: Flask, dbopt: DBOptimizer) -> None:
    told: list[Any] = []

    @site.teardown_appcontext
    def close_db(fault: BaseException | None) -> None:
        db = g.pop("db", None)
        if db is not None:
            told.append(db.execute(COUNT).fetchone())
            db.close()

    @site.teardown_request
    def look(fault: BaseException | None) -> None:
        told.append(g.db.execute(COUNT).fetchone())

    @site.get("/")
    def index() -> str:
        g.db = dbopt.connect()
        return "fine"

    assert site.test_client().get("/").text == "fine"
    assert told == [(3000,), (3000,)]
    assert holders(site) == ()


@pytest.mark.parametrize("when", ["appcontext", "request"])
def test_a_teardown_of_the_apps_that_raises_costs_no_connection(
    make_app: Callable[..., Flask], path: Path, when: str
) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_POOL_MAX=2, DBOPT_POOL_TIMEOUT=5)
    dbopt = DBOptimizer(app)

    def careless(fault: BaseException | None) -> None:
        raise LookupError("in teardown")

    (app.teardown_appcontext if when == "appcontext" else app.teardown_request)(careless)

    @app.get("/")
    def index() -> str:
        return str(dbopt.connection.execute(COUNT).fetchone()[0])

    for _ in range(6):
        with pytest.raises(LookupError, match="in teardown"):
            app.test_client().get("/")
    with dbopt.borrow() as one, dbopt.borrow() as two:
        assert one.execute(COUNT).fetchone() == two.execute(COUNT).fetchone() == (3000,)


def test_a_view_that_raises_is_rolled_back_and_counted(site: Flask, dbopt: DBOptimizer) -> None:
    site.testing = False
    site.config["PROPAGATE_EXCEPTIONS"] = False

    @site.get("/")
    def index() -> str:
        dbopt.connection.execute("INSERT INTO note VALUES (1, 'x')")
        raise LookupError

    assert site.test_client().get("/").status_code == 500
    with dbopt.borrow() as c:
        assert c.execute("SELECT count(*) FROM note").fetchone() == (0,)
    (figures,) = site.extensions["dbopt"].monitor.endpoints(None)
    assert (figures.endpoint, figures.calls, figures.errors) == ("index", 1, 1)
    site.testing = True


def test_a_stream_keeps_its_connection_to_its_end(site: Flask, dbopt: DBOptimizer) -> None:
    @site.get("/")
    def index() -> Response:
        def rows() -> Iterator[str]:
            for (word,) in dbopt.connection.execute("SELECT word FROM keyword ORDER BY id LIMIT 1000"):
                yield f"{word}\n"

        return Response(stream_with_context(rows()))

    with site.test_client() as client:
        response = client.get("/")
        assert len(response.text.split()) == 1000
    response.close()
    assert holders(site) == ()
    assert calls(site) == {"index": 1}


def test_a_stream_that_is_dropped_in_the_middle_gives_its_connection_back(site: Flask, dbopt: DBOptimizer) -> None:
    @site.get("/")
    def index() -> Response:
        def rows() -> Iterator[str]:
            for (word,) in dbopt.connection.execute("SELECT word FROM keyword"):
                yield word

        return Response(stream_with_context(rows()))

    response = site.test_client().get("/", buffered=False)
    next(iter(response.response))
    response.close()
    del response
    gc.collect()
    with dbopt.borrow() as c:
        c.execute(COUNT)
    site.extensions["dbopt"].default.pool.collect_dropped()
    assert holders(site) == ()


def test_an_early_answer_is_counted_too(site: Flask, dbopt: DBOptimizer) -> None:
    site.before_request_funcs.setdefault(None, []).insert(0, lambda: ("early", 203))
    site.add_url_rule("/", "index", lambda: "late")
    assert site.test_client().get("/").text == "early"
    assert site.test_client().get("/nowhere").status_code == 203
    assert calls(site) == {"index": 1, "(no route)": 1}


def test_the_database_is_not_touched_before_the_view_does(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    app = make_app(testing=False, DBOPT_DATABASE=str(tmp_path / "later.db"))
    DBOptimizer(app)

    @app.get("/")
    def index() -> str:
        return str(sorted(vars(g)))

    assert app.test_client().get("/").text == "[]"
    app.extensions["dbopt"].housekeeper.run_due(1e9)
    app.extensions["dbopt"].close()
    assert list(tmp_path.glob("later.db*")) == []


def test_views_that_await_share_their_requests_figures(site: Flask, dbopt: DBOptimizer) -> None:
    """What an async view does counts, whichever thread runs it."""

    async def view() -> str:
        await asyncio.sleep(0)
        with contextlib.closing(dbopt.connect(check_same_thread=False)) as c:
            return str(c.execute(COUNT).fetchone()[0])

    @site.get("/")
    def index() -> str:
        return asyncio.run(view())

    assert site.test_client().get("/").text == "3000"
    (figures,) = [each for each in dbopt.monitor.queries() if "keyword" in each.query]
    assert figures.endpoints == ("index",)


def test_a_thread_of_a_request_has_a_connection_of_its_own(site: Flask, dbopt: DBOptimizer) -> None:
    told: list[Any] = []

    @site.get("/")
    def index() -> str:
        def work() -> None:
            with dbopt.borrow() as c:
                told.append(c.execute(COUNT).fetchone())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "fine"

    assert site.test_client().get("/").text == "fine"
    assert told == [(3000,)]


def test_exhaustion_is_told_with_who_holds_what(make_app: Callable[..., Flask], path: Path) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_POOL_MAX=1, DBOPT_POOL_MIN=0, DBOPT_POOL_TIMEOUT=0.1)
    dbopt = DBOptimizer(app)

    @app.get("/report")
    def report() -> str:
        with dbopt.borrow(), pytest.raises(PoolTimeout, match=r"1 of 1 are lent .*GET report"):
            dbopt.connect()
        return "fine"

    assert app.test_client().get("/report").text == "fine"
    with dbopt.borrow() as c:
        for kind in (sqlite3.OperationalError, TimeoutError):
            with pytest.raises(kind, match=r"no connection within 0\.1 s"):
                dbopt.connect()
        assert c.execute(COUNT).fetchone() == (3000,)


def test_a_still_or_backward_clock_stops_nothing(site: Flask, dbopt: DBOptimizer) -> None:
    @site.get("/")
    def index() -> str:
        return str(dbopt.connection.execute(COUNT).fetchone()[0])

    client = site.test_client()
    assert client.get("/").text == "3000"
    with freeze_time("2020-01-01") as frozen:
        for back in (0, -1000, -100000):
            frozen.tick(back)
            assert client.get("/").text == "3000"
            site.extensions["dbopt"].housekeeper.run_due(1e9)
            dbopt.report()
    assert client.get("/").text == "3000"


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
    after = threading.active_count(), listeners(), len(descriptors(Path("/")))
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
    assert descriptors(path) == []


def test_nothing_starts_before_the_first_request(make_app: Callable[..., Flask], path: Path) -> None:
    threads = threading.active_count()
    app = make_app(testing=False, DBOPT_DATABASE=str(path))
    dbopt = DBOptimizer(app)
    with app.app_context(), dbopt.borrow() as c:
        c.execute(COUNT)
    assert threading.active_count() == threads
    app.add_url_rule("/", "index", lambda: "fine")
    app.test_client().get("/")
    assert threading.active_count() == threads + 1
    app.extensions["dbopt"].close()
    app.extensions["dbopt"].close()
    assert threading.active_count() == threads


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
