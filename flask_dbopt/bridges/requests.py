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
    request,
    request_finished,
    request_started,
    request_tearing_down,
)
from flask.globals import app_ctx

from flask_dbopt.errors import DBOptError
from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.optimizer import Optimizer

log = logging.getLogger("flask_dbopt")


class Listener:
    """One app's signals. They hold it weakly: whoever makes it keeps it, in ``app.extensions``.

    Signals, because an earlier ``before_request`` that answers skips ours, and ``after_request`` does not run when an
    exception propagates.
    """

    def __init__(self, app: Flask, optimizer: Optimizer, settle: Callable[[], None]) -> None:
        """``settle`` looks for databases that the app has set up since."""
        self._optimizer = optimizer
        self._settle = settle
        self._is_settled = False
        appcontext_pushed.connect(self.on_context, app)
        request_started.connect(self.on_request, app)
        request_finished.connect(self.on_response, app)
        request_tearing_down.connect(self.on_request_end, app)
        appcontext_tearing_down.connect(self.on_context_end, app)

    def on_context(self, app: Flask, **_: Any) -> None:
        try:
            self._settle()
        except Exception as fault:  # the context is half pushed: to raise here would leave it so
            problem = f"the app's databases were not found: {fault}"
            if problem not in self._optimizer.problems:
                self._optimizer.problems.append(problem)
                log.exception("%s", problem, exc_info=not isinstance(fault, DBOptError))

    def on_request(self, app: Flask, **_: Any) -> None:
        if not self._is_settled:
            # Flask takes no set-up after the first request: from here on there is nothing new to find.
            self._is_settled = True
            appcontext_pushed.disconnect(self.on_context, app)
        current = request._get_current_object()  # type: ignore[attr-defined]
        endpoint = current.endpoint or "(no route)"
        try:
            self._optimizer.wake()
            if not endpoint.startswith("dbopt."):  # to look at the figures must not change them
                self._optimizer.monitor.recorder.begin(endpoint, current.method)
        except Exception:
            log.exception("this request is not measured")

    def on_response(self, app: Flask, response: Response, **_: Any) -> None:
        cost = CURRENT.get()
        if cost is not None:
            cost.status = response.status_code

    def on_request_end(self, app: Flask, **_: Any) -> None:
        cost = CURRENT.get()
        try:
            if cost is not None and cost.recorder is self._optimizer.monitor.recorder:
                self._optimizer.monitor.recorder.end(cost, cost.status)
        except Exception:
            log.exception("this request was not measured")

    def on_context_end(self, app: Flask, **_: Any) -> None:
        """Take back what the context borrowed. The app's own teardown functions ran before, with their connection."""
        context: Any = app_ctx._get_current_object()  # type: ignore[attr-defined]
        try:
            if getattr(context, "_dbopt_loans", False):
                context._dbopt_loans = False
                for database in list(self._optimizer.databases.values()):
                    if database.pool is not None:
                        database.pool.take_back_from(context)
                close_kept(context)
            if app.testing:
                # A test removes its database right after: leave neither descriptors nor a -wal file behind.
                for database in self._optimizer.databases.values():
                    if database.pool is not None:
                        database.pool.let_go()
                self._optimizer.cache.let_go()
        except Exception:
            log.exception("what the app context borrowed was not taken back")


class Closer:
    """Switched off, all that is left to do: ``dbopt.connection`` ends with its app context."""

    def __init__(self, app: Flask) -> None:
        appcontext_tearing_down.connect(self.on_context_end, app)

    def on_context_end(self, app: Flask, **_: Any) -> None:
        close_kept(app_ctx._get_current_object())  # type: ignore[attr-defined]


def close_kept(context: Any) -> None:
    """Close ``dbopt.connection``, if no pool has taken it back."""
    kept = getattr(context, "_dbopt_connection", None)
    if kept is not None:
        context._dbopt_connection = None
        with suppress(sqlite3.Error):  # opened in another thread: to close it is that one's affair
            kept.close()
