"""What an app under SQLAlchemy does at its start leaves the cache in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Integer, String, func, inspect, select
from sqlalchemy.orm import Mapped, mapped_column

from flask_dbopt import DBOptimizer


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("words", instance_path=str(tmp_path / "instance"))
    app.testing = True
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/words.db"
    yield app
    with app.app_context():
        app.extensions["sqlalchemy"].engine.dispose()
    app.extensions["dbopt"].close()


def test_create_all_and_a_look_at_the_schema_leave_the_cache_in_place(app: Flask) -> None:
    dbopt = DBOptimizer(app)
    db = SQLAlchemy(app)

    class Word(db.Model):  # type: ignore[name-defined]
        id: Mapped[int] = mapped_column(Integer, primary_key=True)
        text: Mapped[str] = mapped_column(String)

    with app.app_context():
        db.create_all()  # asks for each table whether it is a temp one
        assert inspect(db.engine).has_table("word")
        db.session.add_all([Word(text=f"word {number}") for number in range(5)])
        db.session.commit()
        dbopt.optimizer.default.road.notable = dbopt.optimizer.default.shelf.worth = 0.0
        for _ in range(6):
            assert db.session.scalar(select(func.count()).select_from(Word)) == 5
            db.session.rollback()
        assert dbopt.cache.stats().hits > 0
