"""Puts the page on a Flask app, ahead of the app's own hooks; the page itself is made when somebody opens it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response
from flask.globals import _cv_request
from werkzeug.routing import BuildError

if TYPE_CHECKING:
    from flask_dbopt.admin.access import Hook
    from flask_dbopt.admin.site import Site
    from flask_dbopt.optimizer import Optimizer
    from flask_dbopt.report import Report

BLUEPRINT = "dbopt"
_OURS = f"{BLUEPRINT}."
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""All of them, so that which of them an address takes is told to nobody outside the door."""
_FLASKS = ("_anchor", "_method", "_scheme", "_external")
"""What ``url_for`` takes for itself."""


def register(
    app: Flask,
    optimizer: Optimizer,
    *,
    hook: Callable[[], Hook | None] = lambda: None,
    build: Callable[..., Report] | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Add the page to ``app`` at ``settings.admin_url``, unless ``admin_enabled`` is off.

    ``hook`` returns the ``admin_auth`` function that is set when a request comes, or None. ``build`` makes a
    Report; by default ``flask_dbopt.report.build``.
    """
    if not optimizer.settings.admin_enabled:
        return

    @cache
    def site() -> Site:
        from flask_dbopt.admin.site import Site

        return Site(app, optimizer, hook=hook, build=build, clock=clock)

    def serve(**_arguments: Any) -> Response:
        return site().serve()

    def dispatch() -> Response | None:
        """Answer our own requests before the app's hooks see them; let all others pass."""
        # At every request of the app: an attribute of the proxy would take 2 µs.
        rule = _cv_request.get().request.url_rule
        return serve() if rule is not None and rule.endpoint.startswith(_OURS) else None

    def name(error: Exception, endpoint: str, values: dict[str, Any]) -> str:
        """Where a page is, for ``url_for``: the app's own map has no such endpoint."""
        if not endpoint.startswith(_OURS):
            raise error
        from flask_dbopt.admin import routes

        flasks = {key: value for key, value in values.items() if key in _FLASKS}
        asked = {key: value for key, value in values.items() if key not in _FLASKS}
        try:
            path, rest = routes.address(endpoint.removeprefix(_OURS), asked)
        except BuildError:
            raise error from None
        return app.url_for(f"{_OURS}page", path=path, **rest, **flasks)

    # Two rules for the whole page: to compile one takes werkzeug a quarter of a millisecond, in every app.
    blueprint = Blueprint(BLUEPRINT, __name__, url_prefix=optimizer.settings.admin_url)
    for rule, endpoint in (("/", "overview"), ("/<path:path>", "page")):
        blueprint.add_url_rule(
            rule, endpoint, serve, methods=_METHODS, strict_slashes=False, provide_automatic_options=False
        )
    app.register_blueprint(blueprint)
    # First in line: a login redirect, a CSRF check or a Talisman of the app never sees our requests.
    app.before_request_funcs.setdefault(None, []).insert(0, dispatch)
    app.url_build_error_handlers.append(name)
