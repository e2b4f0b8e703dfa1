"""Inside Flask: which app, contexts, requests and streams."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, g, stream_with_context
from freezegun import freeze_time

from flask_dbopt import DBOptimizer
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
    make_app: Callable[..., Flask], path: Path, when: str, descriptors: Callable[[Path], list[str]]
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
    del one, two
    with pytest.raises(LookupError, match="in teardown"):
        app.test_client().get("/")
    app.extensions["dbopt"].close()
    assert descriptors(path) == [], "nothing is left for the garbage collector"


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
