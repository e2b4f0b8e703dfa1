"""The page over a real app: real queries, real advice, a real index, a real backup."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request

from flask_dbopt import DBOptimizer

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"}


class Shop:
    """An app with a table that misses an index."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.path = folder / "words.db"
        with sqlite3.connect(self.path) as connection:
            connection.execute("CREATE TABLE keyword (id INTEGER PRIMARY KEY, word TEXT, frequency REAL)")
            words = ((f"word{i}", i / 7) for i in range(20_000))
            connection.executemany("INSERT INTO keyword (word, frequency) VALUES (?, ?)", words)
        connection.close()
        self.app = Flask("shop", instance_path=str(folder / "instance"))
        self.app.config.update(
            TESTING=True,
            DBOPT_DATABASE=str(self.path),
            DBOPT_STATE_DIR=str(folder / "state"),
            DBOPT_BACKUP_DIR=str(folder / "backups"),
            DBOPT_ADVISOR_MIN_CALLS=5,
            DBOPT_ADVISOR_MIN_SECONDS=0.0001,
            **config,
        )
        self.dbopt = DBOptimizer(self.app)
        self.optimizer = self.app.extensions["dbopt"]

        @self.app.get("/word/<word>")
        def word(word: str) -> list[Any]:
            rows = self.dbopt.connection.execute("SELECT * FROM keyword WHERE word = ?", (word,))
            return [tuple(row) for row in rows.fetchall()]

        self.client = self.app.test_client()

    def use(self, times: int = 20) -> None:
        for n in range(times):
            assert len(self.client.get(f"/word/word{n}").json) == 1
        self.optimizer.monitor.sweep(time.time())

    def page(self, path: str = "") -> str:
        answer = self.client.get(f"/_dbopt/{path}", headers=BEARER)
        assert answer.status_code == 200, answer.text
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.text))

    def query_id(self) -> str:
        queries = self.client.get("/_dbopt/api/v1/queries", headers=BEARER).json["queries"]
        return next(each["id"] for each in queries if "keyword" in each["query"])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, DBOPT_ADMIN_TOKEN=TOKEN)
    yield shop
    shop.optimizer.close()


@pytest.mark.parametrize("path", ["", "queries", "indexes", "pool", "cache", "backups", "alerts", "audit", "settings"])
def test_every_page_opens_before_the_first_request_of_the_app(shop: Shop, path: str) -> None:
    assert "Flask-DBOpt" in shop.page(path)


def test_what_the_app_does_is_on_the_page_and_the_page_itself_is_not(shop: Shop) -> None:
    shop.use()
    for _ in range(3):
        shop.page()
    shop.optimizer.monitor.sweep(time.time())
    text = shop.page()
    assert "Figures cover 1 worker" in text
    assert "20 in this window" in text
    assert "20 requests" in text
    assert "dbopt." not in text
    assert "where word = ?" in text.lower()
    assert shop.client.get("/_dbopt/api/v1/overview", headers=BEARER).json["requests"] == 20


def test_a_slow_query_becomes_an_index_by_a_persons_word(shop: Shop) -> None:
    shop.use()
    path = f"queries/{shop.query_id()}"
    before = shop.page(path)
    assert "whole table" in before
    assert "An index would help" in before
    (advice,) = shop.client.get("/_dbopt/api/v1/indexes", headers=BEARER).json["recommendations"]
    assert advice["sql"] in shop.page("indexes")
    assert "nothing else can write" in shop.page(f"indexes/{advice['id']}")
    done = shop.client.post(f"/_dbopt/indexes/{advice['id']}/apply", headers=BEARER)
    assert done.status_code == 200, done.text
    with sqlite3.connect(shop.path) as connection:
        ((index,),) = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'").fetchall()
    connection.close()
    assert f"before index {advice['id']}" in shop.page("backups"), "the way back was kept first"
    after = shop.page(path)
    assert "whole table" not in after
    assert index in after
    assert index in shop.page("indexes")


def test_a_backup_is_taken_proved_and_listed(shop: Shop) -> None:
    assert "No backup yet" in shop.page("backups")
    taken = shop.client.post("/_dbopt/backups/take", headers=BEARER, data={"label": "by hand"})
    assert "restored and checked" in taken.json["done"]
    text = shop.page("backups")
    assert "Restorable up to" in text
    assert "by hand" in text
    listed = shop.client.get("/_dbopt/api/v1/backups", headers=BEARER).json["databases"]["default"]["backups"]
    again = shop.client.post("/_dbopt/backups/verify", headers=BEARER, data={"backup": listed[0]["id"]})
    assert "was restored and checked" in again.json["done"]
    unknown = shop.client.post("/_dbopt/backups/verify", headers=BEARER, data={"backup": "20000101-000000-1"})
    assert unknown.status_code == 503
    assert "20000101-000000-1" in unknown.json["done"]


def test_the_figures_can_be_reset_and_the_cache_cleared(shop: Shop) -> None:
    shop.use()
    assert shop.client.post("/_dbopt/cache/clear", headers=BEARER).status_code == 200
    assert shop.optimizer.cache.stats().entries == 0
    assert shop.client.post("/_dbopt/figures/reset", headers=BEARER).status_code == 200
    assert "No queries in this window" in shop.page("queries")


def test_the_apps_own_check_opens_the_page(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    try:
        assert shop.client.get("/_dbopt/").status_code == 404

        @shop.dbopt.admin_auth
        def is_admin() -> bool:
            return request.headers.get("X-User") == "ann"

        assert shop.client.get("/_dbopt/", headers={"X-User": "bob"}).status_code == 404
        assert shop.client.get("/_dbopt/", headers={"X-User": "ann"}).status_code == 200
    finally:
        shop.optimizer.close()


def test_a_missing_database_is_said_and_breaks_no_page(shop: Shop) -> None:
    shop.path.unlink()
    assert "is missing" in shop.page()
    health = shop.client.get("/_dbopt/health")
    assert (health.status_code, health.json) == (503, {"status": "degraded"})
    for path in ("queries", "indexes", "pool", "cache", "backups"):
        shop.page(path)
