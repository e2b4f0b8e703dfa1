"""What Flask tells us: contexts and requests that begin and end. Nothing here touches the database."""

from __future__ import annotations

from collections.abc import Callable
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

from flask_dbopt.monitor.request import CURRENT
from flask_dbopt.optimizer import Optimizer


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
        self._settle()

    def on_request(self, app: Flask, **_: Any) -> None:
        if not self._is_settled:
            # Flask takes no set-up after the first request: from here on there is nothing new to find.
            self._is_settled = True
            appcontext_pushed.disconnect(self.on_context, app)
        self._optimizer.wake()
        current = request._get_current_object()  # type: ignore[attr-defined]
        endpoint = current.endpoint or "(no route)"
        if not endpoint.startswith("dbopt."):  # to look at the figures must not change them
            self._optimizer.monitor.recorder.begin(endpoint, current.method)

    def on_response(self, app: Flask, response: Response, **_: Any) -> None:
        cost = CURRENT.get()
        if cost is not None:
            cost.status = response.status_code

    def on_request_end(self, app: Flask, **_: Any) -> None:
        cost = CURRENT.get()
        if cost is not None and cost.recorder is self._optimizer.monitor.recorder:
            self._optimizer.monitor.recorder.end(cost, cost.status)

    def on_context_end(self, app: Flask, **_: Any) -> None:
        """Take back what the context borrowed. The app's own teardown functions ran before, with their connection."""
        context: Any = app_ctx._get_current_object()  # type: ignore[attr-defined]
        if getattr(context, "_dbopt_loans", False):
            context._dbopt_loans = False
            context._dbopt_connection = None
            for database in self._optimizer.databases.values():
                if database.pool is not None:
                    database.pool.take_back_from(context)
        if app.testing:
            # A test removes its database right after: leave neither descriptors nor a -wal file behind.
            for database in self._optimizer.databases.values():
                if database.pool is not None:
                    database.pool.let_go()
            self._optimizer.cache.let_go()
