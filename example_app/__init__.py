"""Omni Keywords: keyword research over the word frequencies of many languages."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException

DATABASE_NAME = "omni.sqlite"


def instance_folder() -> Path:
    """Where the data lives: ``$OMNI_INSTANCE``, else ``instance/`` beside the package (as Flask has it)."""
    chosen = os.environ.get("OMNI_INSTANCE")
    return Path(chosen).resolve() if chosen else Path(__file__).resolve().parent.parent / "instance"


def secret_key(folder: Path) -> str:
    """The key that signs sessions: ``$SECRET_KEY``, else one made once and shared by all workers."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    path = folder / "secret_key"
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(dir=folder, prefix=".secret_key-")
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)  # atomic: of two workers that start together, one wins and both read it
        except FileExistsError:
            pass
        finally:
            Path(draft).unlink()
    return path.read_text().strip()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The app. ``DBOPT=off`` in the environment runs it without the extension."""
    folder = Path((config or {}).get("INSTANCE") or instance_folder())
    folder.mkdir(parents=True, exist_ok=True)
    app = Flask(__name__, instance_path=str(folder), instance_relative_config=True)
    app.config.from_mapping(
        DATABASE=str(folder / DATABASE_NAME),
        OPTIMIZE=os.environ.get("DBOPT", "on").lower() not in ("off", "0", "no", "false"),
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=64 * 1024,
    )
    app.config.from_mapping(config or {})
    if not app.config.get("SECRET_KEY"):
        app.config["SECRET_KEY"] = secret_key(folder)

    from example_app import csrf, db, keywords, languages, lists, search, wording

    db.init_app(app)
    csrf.init_app(app)
    wording.init_app(app)
    for blueprint in (search.bp, languages.bp, keywords.bp, lists.bp):
        app.register_blueprint(blueprint)

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    @app.before_request
    def data_is_there() -> tuple[str, int] | None:
        own = request.blueprint in ("search", "languages", "keywords", "lists")
        if own and not Path(app.config["DATABASE"]).exists():
            return render_template("no_data.html"), 503
        return None

    @app.after_request
    def guard(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    @app.errorhandler(HTTPException)
    def explain(error: HTTPException) -> tuple[str, int] | HTTPException:
        if request.path.startswith("/_"):
            return error
        return render_template("error.html", error=error), error.code or 500

    return app
