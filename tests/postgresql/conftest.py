"""Engines on a real PostgreSQL, in the care of an app."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_dbopt import DBOptimizer
from tests.postgres import PostgresServer

MakeEngine = Callable[..., tuple[DBOptimizer, sa.Engine]]


@pytest.fixture
def make_engine(tmp_path: Path, postgres: PostgresServer, postgres_database: str) -> Iterator[MakeEngine]:
    """An optimizer and its engine; ``config`` is the app's, ``options`` are the engine's."""
    made: list[tuple[DBOptimizer, sa.Engine]] = []

    def make(
        server: PostgresServer = postgres, database: str = postgres_database, config: Any = None, **options: Any
    ) -> tuple[DBOptimizer, sa.Engine]:
        site = Flask(f"site{len(made)}", instance_path=str(tmp_path / f"instance{len(made)}"))
        site.testing = True
        site.config.update(config or {})
        dbopt, engine = DBOptimizer(site), sa.create_engine(server.url(database), **options)
        dbopt.attach(engine)
        dbopt.site = site  # type: ignore[attr-defined]  # which has to live as long
        made.append((dbopt, engine))
        with engine.begin() as c:
            c.exec_driver_sql("CREATE TABLE IF NOT EXISTS word (id int PRIMARY KEY, text text)")
            c.exec_driver_sql("INSERT INTO word VALUES (1, 'one'), (2, 'two') ON CONFLICT DO NOTHING")
        return dbopt, engine

    yield make
    for dbopt, engine in made:
        engine.dispose()
        dbopt.optimizer.close()


def ask(engine: sa.Engine) -> Any:
    with engine.connect() as c:
        return c.execute(sa.text("SELECT count(*) FROM word")).scalar()
