"""An app on PostgreSQL: its statements are explained in the terminal, on the page and to whoever asks."""

from __future__ import annotations

import gc
import html
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, text

from flask_dbopt import DBOptimizer
from flask_dbopt.cli import group
from flask_dbopt.errors import DatabaseUnavailable
from tests.postgres import PostgresServer

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"}
FIND = "SELECT id FROM word WHERE text = %(text)s"


class Shop:
    """Flask-SQLAlchemy on PostgreSQL, with a table that misses an index."""

    def __init__(self, server: PostgresServer, database: str, folder: Path) -> None:
        with server.connect(database, autocommit=True) as connection:
            connection.execute("CREATE TABLE word (id int PRIMARY KEY, text varchar, lang text)")
            connection.execute("INSERT INTO word SELECT n, 'w' || n, 'l' || n % 9 FROM generate_series(1, 9000) AS n")
            connection.execute("ANALYZE")
        self.app = Flask("shop", instance_path=str(folder / "instance"))
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=server.url(database),
            DBOPT_ADMIN_TOKEN=TOKEN,
            DBOPT_ADVISOR_MIN_CALLS=5,
            DBOPT_ADVISOR_MIN_SECONDS=0,
        )
        self.db = SQLAlchemy(self.app)
        self.dbopt = DBOptimizer(self.app)
        self.optimizer = self.app.extensions["dbopt"]

        @self.app.get("/word/<word>")
        def word(word: str) -> list[Any]:
            table = self.db.table("word", self.db.column("id"), self.db.column("text", self.db.String))
            found = self.db.session.execute(self.db.select(table.c.id).where(table.c.text == word).limit(3))
            return [tuple(row) for row in found]

        self.client = self.app.test_client()

    def use(self, times: int = 20) -> None:
        for number in range(1, times):
            assert self.client.get(f"/word/w{number}").json == [[number]]
        self.optimizer.monitor.sweep(time.time())

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(group, arguments, obj=ScriptInfo(create_app=lambda: self.app))

    def page(self, path: str) -> str:
        answer = self.client.get(f"/_dbopt/{path}", headers=BEARER)
        assert answer.status_code == 200, answer.text
        return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.text)))


@pytest.fixture
def shop(postgres: PostgresServer, postgres_database: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(postgres, postgres_database, tmp_path)
    yield shop
    shop.optimizer.close()
    with shop.app.app_context():
        shop.db.engine.dispose()


def test_the_terminal_explains(shop: Shop) -> None:
    told = shop.run("explain", FIND)
    assert told.exit_code == 1, told.output
    assert "Seq Scan on word  (rows=1)" in told.output
    assert "• reads all ~9,000 rows of word, keeps about 1 (text = ?); no index helps `text = ?`" in told.output
    assert "Why no index: An index on word (text) may help; an index can not be tried without HypoPG" in told.output
    told = shop.run("explain", "--json", "SELECT * FROM word WHERE id = %(id)s", "--param", "id=7")
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert said["explained"] == ["finds about 1 row of word by the index word_pkey (id = 7)"]
    told = shop.run("explain", "SELECT * FROM word WHERE id = %s", "--param", "7")
    assert told.exit_code == 0, told.output
    told = shop.run("explain", "DROP TABLE word")
    assert told.exit_code == 2, told.output


def test_the_page_of_a_query_shows_how_it_is_read(shop: Shop) -> None:
    shop.use()
    (query,) = (one for one in shop.optimizer.monitor.queries() if "FROM word" in one.query)
    shown = shop.page(f"queries/{query.id}")
    assert "reads rows of word (text = ?), until as many as LIMIT wants are found" in shown
    assert "An index on word (text) may help; an index can not be tried without HypoPG" in shown
    listed = shop.page("indexes")
    assert "Nothing is advised here: an index can not be tried without HypoPG" in listed
    assert "word_pkey" in listed


def test_a_slow_statement_keeps_its_plan(shop: Shop) -> None:
    with shop.app.app_context():
        shop.db.session.execute(text("SELECT pg_sleep(0.12), count(*) FROM word WHERE lang = :lang"), {"lang": "l1"})
        shop.db.session.rollback()
    for later in (0, 10, 20):  # sampled, explained, written
        shop.optimizer.monitor.sweep(time.time() + later)
    (query,) = (one for one in shop.optimizer.monitor.queries() if "pg_sleep" in one.query)
    (plan,) = shop.optimizer.monitor.details(query.id).plans
    assert any("reads all ~9,000 rows of word, keeps about 1,000 (lang = ?)" in line for line in plan.lines)


def test_nothing_is_advised_where_nothing_can_be_tried_and_that_is_said(shop: Shop) -> None:
    shop.use()
    told = shop.run("advise")
    assert told.exit_code == 0, told.output
    assert "Nothing is advised for default: an index can not be tried without HypoPG" in told.output


def test_explaining_takes_no_connection_of_the_apps_pool(shop: Shop) -> None:
    with shop.app.app_context():
        pool = shop.db.engine.pool
        before = pool.checkedin() + pool.checkedout()
        assert not shop.optimizer.databases.named().advisor.explain(FIND).problem
        assert pool.checkedin() + pool.checkedout() == before


def test_an_engine_that_is_gone_is_told(postgres: PostgresServer, tmp_path: Path) -> None:
    app = Flask("bare", instance_path=str(tmp_path))
    dbopt = DBOptimizer(app)
    engine = create_engine(postgres.url())
    with app.app_context():
        dbopt.attach(engine, name="server")
        database = app.extensions["dbopt"].databases["server"]
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        assert not database.planner.explain("SELECT 1").problem
        engine.dispose()
        del engine, connection
        gc.collect()
        assert "its engine is gone" in database.planner.explain("SELECT 1").problem
        with pytest.raises(DatabaseUnavailable, match="its engine is gone"):
            database.planner.tables()
    app.extensions["dbopt"].close()


def test_other_servers_are_timed_and_not_explained(tmp_path: Path) -> None:
    app = Flask("bare", instance_path=str(tmp_path))
    DBOptimizer(app)
    database = app.extensions["dbopt"].databases.adopt_foreign("other", "mysql", lambda: None)
    assert (database.planner, database.advisor) == (None, None)
    app.extensions["dbopt"].close()
