"""Gunicorn workers under SQLAlchemy: what the app did before the fork stays the parent's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import PostgresServer
from tests.stories.conftest import TOKEN

APP = f"""
import os
from flask import Flask
from flask_dbopt import DBOptimizer
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

BORN_IN = os.getpid()
app = Flask("story", instance_path=os.environ["STORY_FOLDER"])
app.config.update(SQLALCHEMY_DATABASE_URI=os.environ["STORY_URL"], DBOPT_ADMIN_TOKEN="{TOKEN}")
db = SQLAlchemy(app)
dbopt = DBOptimizer(app)
context = app.app_context()
context.push()  # and never popped, as in many an app
db.session.execute(text("CREATE TABLE IF NOT EXISTS visit (pid int)"))
db.session.commit()
kept = db.engine.connect()  # under --preload it is out while the workers are forked
INHERITED = id(kept.connection.dbapi_connection)
pool_at_start = db.engine.pool

@app.get("/visit")
def visit():
    db.session.execute(text("INSERT INTO visit VALUES (:pid)"), {{"pid": os.getpid()}})
    db.session.commit()
    return {{"pid": os.getpid()}}

@app.get("/count")
def count():
    return {{"pid": os.getpid(), "visits": db.session.scalar(text("SELECT count(*) FROM visit"))}}

@app.get("/inside")
def inside():
    pool = db.engine.pool
    return {{
        "pid": os.getpid(),
        "born_in": BORN_IN,
        "inherited": os.getpid() != BORN_IN and id(db.session.connection().connection.dbapi_connection) == INHERITED,
        "pool": [type(pool).__name__, pool.lender.stats().connections_num],
    }}
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["forked first", "preloaded"])
def test_each_worker_has_connections_of_its_own(
    serve: Callable[..., Any], options: tuple[str, ...], kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/story.db"
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(request.getfixturevalue("postgres_database"))
    story = serve(*options, app=APP, STORY_URL=url)
    sent = 0
    pids: set[int] = set()
    while len(pids) < 2 or sent < 40:
        pids.add(story.get("/visit")["pid"])
        sent += 1
        assert sent < 2000
    assert story.get("/count")["visits"] == sent
    inside = story.workers()
    assert len(inside) == 2
    for pid, seen in inside.items():
        assert not seen["inherited"]
        assert (seen["born_in"] != pid) == bool(options)
        name, opened = seen["pool"]
        assert name == "FairPool"
        assert 1 <= opened <= 7, "lent again and again, and a few ahead of need"
    assert story.stop() == 0
