"""An app, its optimizer and engines on a real file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.bridges.sqlalchemy_pool import FairPool

Make = Callable[..., sa.Engine]
MakeSite = Callable[..., DBOptimizer]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    fill(path, 2000)
    return path


def fill(path: Path, words: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as c:
        c.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        c.executemany("INSERT INTO word (text) VALUES (?)", [(f"word{n}",) for n in range(words)])
        c.commit()


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Optimizers of apps with settings of their own."""
    sites: list[Flask] = []

    def make(testing: bool = True, **config: Any) -> DBOptimizer:
        site = Flask(f"site{len(sites)}", instance_path=str(tmp_path / f"instance{len(sites)}"))
        site.testing = testing
        site.config.update(config)
        sites.append(site)
        return DBOptimizer(site)

    yield make
    for site in sites:
        site.extensions["dbopt"].close()


@pytest.fixture
def dbopt(make_site: MakeSite) -> DBOptimizer:
    return make_site()


@pytest.fixture
def make_engine(path: Path) -> Iterator[Make]:
    made: list[sa.Engine] = []

    def make(url: str = "", **options: Any) -> sa.Engine:
        made.append(sa.create_engine(url or f"sqlite:///{path}", **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


def ask(engine: sa.Engine) -> Any:
    with engine.connect() as c:
        return c.exec_driver_sql("SELECT count(*) FROM word").scalar()


def lender(engine: sa.Engine) -> Any:
    assert isinstance(engine.pool, FairPool)
    return engine.pool.lender
