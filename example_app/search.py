"""The front page, the search and its suggestions."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from example_app.db import get_db
from example_app.wording import clean, escape_like, page_number

bp = Blueprint("search", __name__)

PAGE_SIZE = 25
SUGGESTIONS = 8


@bp.get("/")
def home() -> str:
    """What is here: every language, with how many keywords it has."""
    languages = get_db().execute(
        "SELECT code, name, native_name, COUNT(*) AS keywords, MAX(per_million) AS peak"
        " FROM language JOIN keyword ON keyword.language_id = language.id"
        " GROUP BY language.id ORDER BY name"
    )
    return render_template("home.html", languages=languages.fetchall())


@bp.get("/search")
def results() -> str:
    """Keywords that contain what was typed, most frequent first."""
    query = clean(request.args.get("q"))
    code = request.args.get("lang", "")
    page = page_number()
    db = get_db()
    languages = db.execute("SELECT code, name FROM language ORDER BY name").fetchall()
    found, total, by_language = [], 0, []
    if query:
        like = f"%{escape_like(query)}%"
        narrowed = " AND language.code = ?" if code else ""
        values = (like, code) if code else (like,)
        total = db.execute(
            "SELECT COUNT(*) FROM keyword JOIN language ON language.id = keyword.language_id"
            f" WHERE word LIKE ? ESCAPE '\\'{narrowed}",
            values,
        ).fetchone()[0]
        by_language = db.execute(
            "SELECT code, name, COUNT(*) AS keywords FROM keyword"
            " JOIN language ON language.id = keyword.language_id"
            " WHERE word LIKE ? ESCAPE '\\' GROUP BY language.id ORDER BY keywords DESC",
            (like,),
        ).fetchall()
        found = db.execute(
            "SELECT keyword.id, word, per_million, zipf, rank, code, name FROM keyword"
            " JOIN language ON language.id = keyword.language_id"
            f" WHERE word LIKE ? ESCAPE '\\'{narrowed}"
            " ORDER BY per_million DESC, word LIMIT ? OFFSET ?",
            (*values, PAGE_SIZE, (page - 1) * PAGE_SIZE),
        ).fetchall()
    return render_template(
        "search.html",
        query=query,
        code=code,
        languages=languages,
        found=found,
        total=total,
        by_language=by_language,
        page=page,
        pages=-(-total // PAGE_SIZE),
        first=(page - 1) * PAGE_SIZE + 1,
    )


@bp.get("/suggest")
def suggest() -> Response:
    """What somebody may be typing, as JSON: ``[{"word", "language", "url"}]``."""
    query = clean(request.args.get("q"))
    if not query:
        return jsonify([])
    rows = get_db().execute(
        "SELECT keyword.id, word, name FROM keyword JOIN language ON language.id = keyword.language_id"
        " WHERE word LIKE ? ESCAPE '\\' ORDER BY per_million DESC LIMIT ?",
        (f"{escape_like(query)}%", SUGGESTIONS),
    )
    return jsonify(
        [
            {"word": row["word"], "language": row["name"], "url": url_for("keywords.show", number=row["id"])}
            for row in rows
        ]
    )


@bp.get("/random")
def random_keyword() -> BaseResponse:
    """Somewhere to begin: any keyword that is not too rare."""
    row = get_db().execute("SELECT id FROM keyword WHERE zipf > 3.5 ORDER BY RANDOM() LIMIT 1").fetchone()
    if row is None:
        return redirect(url_for("search.home"))
    return redirect(url_for("keywords.show", number=row["id"]))
