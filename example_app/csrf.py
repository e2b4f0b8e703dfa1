"""Forms prove that they came from our own pages: one token a session, compared on every POST of ours."""

from __future__ import annotations

import secrets

from flask import Flask, abort, request, session

FIELD = "csrf_token"


def token() -> str:
    """This session's token, made at first use."""
    if FIELD not in session:
        session[FIELD] = secrets.token_urlsafe(24)
    return str(session[FIELD])


def check() -> None:
    """Refuse a POST to the app's own pages that does not carry the session's token."""
    if request.method != "POST" or request.blueprint != "lists":
        return
    known = session.get(FIELD, "")
    if not known or not secrets.compare_digest(known.encode(), request.form.get(FIELD, "").encode()):
        abort(400, "This form is out of date. Go back, reload the page and send it again.")


def init_app(app: Flask) -> None:
    app.before_request(check)
    app.jinja_env.globals["csrf_token"] = token
