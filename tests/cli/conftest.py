"""A small app with a table worth an index, and a terminal to talk to it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo

from flask_dbopt import DBOptimizer
from flask_dbopt.cli import group

ROWS = 3000
FIND = "SELECT id FROM word WHERE text = ?"


def make_database(path: Path) -> Path:
    """A table of words that nothing indexes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT, uses INTEGER)")
        words = [(f"word {number}", number % 7) for number in range(ROWS)]
        connection.executemany("INSERT INTO word (text, uses) VALUES (?, ?)", words)
        connection.commit()
    return path


@pytest.fixture
def database(tmp_path):
    return make_database(tmp_path / "app.db")


@pytest.fixture
def make_app(tmp_path, database):
    """Apps on that database, closed afterwards. Not under TESTING: the ledger is part of what is told."""
    made: list[Flask] = []

    def make(**config: Any) -> Flask:
        app = Flask("words", instance_path=str(tmp_path / "instance"))
        app.config.from_mapping(
            {"DBOPT_DATABASE": str(database), "DBOPT_ADVISOR_MIN_CALLS": 5, "DBOPT_ADVISOR_MIN_SECONDS": 0}
        )
        app.config.from_mapping(config)
        dbopt = DBOptimizer(app)

        @app.get("/find/<text>")
        def find(text: str) -> dict[str, Any]:
            return {"found": dbopt.connection.execute(FIND, (text,)).fetchall()}

        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["dbopt"].close()


@pytest.fixture
def site(make_app):
    """One of them. Not called "app": pytest-flask would put the whole test into one app context."""
    return make_app()


@pytest.fixture
def busy_site(site):
    """The app after some requests, figures flushed."""
    client = site.test_client()
    for number in range(12):
        client.get(f"/find/word {number}")
    site.extensions["dbopt"].housekeeper.stop(2.0)
    site.extensions["dbopt"].monitor.flush()
    return site


@pytest.fixture
def say(site) -> Callable[..., Result]:
    """`flask db-opt …` in this process; `creates` stands for the app's factory."""

    def run(*arguments: str, creates: Callable[[], Flask] | None = None, answer: str | None = None) -> Result:
        info = ScriptInfo(create_app=creates or (lambda: site))
        result = CliRunner().invoke(group, arguments, obj=info, input=answer, catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def ask(say) -> Callable[..., tuple[int, Any]]:
    """The same with --json: exit code and what was told."""

    def run(*arguments: str, **keywords: Any) -> tuple[int, Any]:
        result = say(*arguments, "--json", **keywords)
        return result.exit_code, json.loads(result.stdout)

    return run
