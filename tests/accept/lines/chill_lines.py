"""Our two lines for chill, added while its tests run: the drop-in module, and an optimizer for each app."""

from __future__ import annotations

from chill import database
from flask import Flask

from flask_dbopt import DBOptimizer, sqlite3

database.sqlite3 = sqlite3
init_app = database.init_app


def init_app_and_ours(app: Flask) -> None:
    init_app(app)
    DBOptimizer(app, database=app.config["CHILL_DATABASE_URI"])


database.init_app = init_app_and_ours
