"""What Flask tells us: contexts and requests that begin and end. Nothing here touches the database."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import (
    Flask,
    Response,
    appcontext_pushed,
    appcontext_tearing_down,
    request_finished,
    request_started,
    request_tearing_down,
)
from flask.globals import _cv_app, _cv_request

from flask_dbopt.bridges import commands, streams
from flask_dbopt.errors import DBOptError
from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.optimizer import Optimizer

log = logging.getLogger("flask_dbopt")


_KEPT = "dbopt_listener"
"""Where the app's own is in ``app.extensions``."""


class Listener:
    """What one app's signals need; whoever makes it keeps it, in ``app.extensions["dbopt_listener"]``.

    Signals, because an earlier ``before_request`` that answers skips ours, and ``after_request`` does not run when an
    exception propagates. Their receivers are plain functions that are never let go, one for all apps: to call a method
    through a weak reference takes blinker twice as long, at every request.
    """

    __slots__ = ("optimizer", "settle")

    def __init__(self, app: Flask, optimizer: Optimizer, settle: Callable[[], None]) -> None:
        """``settle`` looks for databases that the app has set up since."""
        self.optimizer = optimizer
        self.settle = settle
        appcontext_pushed.connect(_on_context, app, weak=False)
        request_started.connect(_on_first_request, app, weak=False)
        request_started.connect(_on_request, app, weak=False)
        request_finished.connect(_on_response, app, weak=False)
        request_tearing_down.connect(_on_request_end, app, weak=False)
        appcontext_tearing_down.connect(_on_context_end, app, weak=False)


def _on_context(app: Flask, **_: Any) -> None:
    listener: Listener = app.extensions[_KEPT]
    try:
        if listener.optimizer.settings.monitor_enabled:
            commands.note(app, listener.optimizer)
        listener.settle()
    except Exception as fault:  # the context is half pushed: to raise here would leave it so
        problem = f"the app's databases were not found: {fault}"
        problems = listener.optimizer.problems
        if problem not in problems:
            problems.append(problem)
            log.exception("%s", problem, exc_info=not isinstance(fault, DBOptError))


def _on_first_request(app: Flask, **_: Any) -> None:
    # Flask takes no set-up after the first request: from here on there is nothing new to find.
    request_started.disconnect(_on_first_request, app)
    appcontext_pushed.disconnect(_on_context, app)


def _on_request(app: Flask, **_: Any) -> None:
    optimizer: Optimizer = app.extensions[_KEPT].optimizer
    request = _cv_request.get().request
    rule = request.url_rule
    endpoint = "(no route)" if rule is None else rule.endpoint
    try:
        optimizer.wake()
        if not endpoint.startswith("dbopt."):  # to look at the figures must not change them
            optimizer.monitor.recorder.begin(endpoint, request.method)
    except Exception:
        log.exception("this request is not measured")


def _on_response(app: Flask, response: Response, **_: Any) -> None:
    cost = CURRENT.get()
    if cost is not None:
        cost.status = response.status_code
        if type(response.response) is not list:
            optimizer: Optimizer = app.extensions[_KEPT].optimizer
            if cost.recorder is optimizer.monitor.recorder:
                streams.follow(response, cost, optimizer.monitor.recorder)


def _on_request_end(app: Flask, **_: Any) -> None:
    cost = CURRENT.get()
    try:
        if cost is not None:
            optimizer: Optimizer = app.extensions[_KEPT].optimizer
            if not optimizer.settings.monitor_enabled:
                CURRENT.set(cost.outer)
            elif cost.recorder is optimizer.monitor.recorder and not cost.streams:
                optimizer.monitor.recorder.end(cost, cost.status)
    except Exception:
        log.exception("this request was not measured")


def _on_context_end(app: Flask, **_: Any) -> None:
    """Take back what the context borrowed. The app's own teardown functions ran before, with their connection."""
    context: Any = _cv_app.get()
    optimizer: Optimizer = app.extensions[_KEPT].optimizer
    try:
        if getattr(context, "_dbopt_loans", False):
            context._dbopt_loans = False
            close_kept(context)
            for database in list(optimizer.databases.values()):
                if database.pool is not None:
                    database.pool.take_back_from(context)
        if optimizer.settings.sqlite_transactions == "immediate":
            for database in list(optimizer.databases.values()):
                if database.turns is not None:
                    database.turns.end_forgotten()
        if app.config["TESTING"]:
            # A test removes its database right after: leave neither descriptors nor a -wal file behind.
            for database in optimizer.databases.values():
                if database.pool is not None:
                    database.pool.let_go()
            optimizer.cache.let_go()
    except Exception:
        log.exception("what the app context borrowed was not taken back")


class Closer:
    """Switched off, all that is left to do: ``dbopt.connection`` ends with its app context."""

    def __init__(self, app: Flask) -> None:
        appcontext_tearing_down.connect(self.on_context_end, app)

    def on_context_end(self, app: Flask, **_: Any) -> None:
        close_kept(_cv_app.get())


def close_kept(context: Any) -> None:
    """Close ``dbopt.connection``, which gives it back where a pool lent it."""
    kept = getattr(context, "_dbopt_connection", None)
    if kept is not None:
        context._dbopt_connection = None
        with suppress(sqlite3.Error):  # opened in another thread: then the pool takes it back, if it is the pool's
            kept.close()
