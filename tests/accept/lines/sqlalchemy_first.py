"""Our line after ``db.init_app(app)``: the engines are there already."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_dbopt import DBOptimizer

init_app = SQLAlchemy.init_app


def init_app_and_ours(self: Any, app: Flask) -> None:
    init_app(self, app)
    if "dbopt" not in app.extensions:
        DBOptimizer(app)


SQLAlchemy.init_app = init_app_and_ours  # type: ignore[method-assign]
