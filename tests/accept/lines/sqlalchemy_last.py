"""Our line before ``db.init_app(app)``: the engines come later."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_dbopt import DBOptimizer

init_app = SQLAlchemy.init_app


def ours_and_init_app(self: Any, app: Flask) -> None:
    if "dbopt" not in app.extensions:
        DBOptimizer(app)
    init_app(self, app)


SQLAlchemy.init_app = ours_and_init_app  # type: ignore[method-assign]
