"""The app's database, by both entrances: plain `sqlite3` for pages, Flask-SQLAlchemy for lists."""

from __future__ import annotations

import sqlite3
from functools import partial

from flask import Flask, current_app, g
from flask_sqlalchemy import SQLAlchemy

orm = SQLAlchemy()


def get_db() -> sqlite3.Connection:
    """The connection of this request."""
    if "db" not in g:
        g.db = current_app.extensions["omni_connect"]()
        g.db.row_factory = sqlite3.Row
    connection: sqlite3.Connection = g.db
    return connection


def close_db(error: BaseException | None = None) -> None:
    """End this request's connection, if it had one."""
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


def init_app(app: Flask) -> None:
    """Open the database for this app, with the optimizer unless it is switched off."""
    path = app.config["DATABASE"]
    app.config.setdefault("SQLALCHEMY_DATABASE_URI", f"sqlite:///{path}")
    orm.init_app(app)
    app.teardown_appcontext(close_db)
    if app.config["OPTIMIZE"]:
        from flask_dbopt import DBOptimizer

        app.extensions["omni_connect"] = DBOptimizer(app, database=path).connect
    else:
        app.extensions["omni_connect"] = partial(sqlite3.connect, path)
