"""One keyword: its figures, its relations, and the same word in other languages."""

from __future__ import annotations

from flask import Blueprint, abort, render_template, request

from example_app.db import get_db, orm
from example_app.models import SavedList
from example_app.wording import clean, escape_like

bp = Blueprint("keywords", __name__)


@bp.get("/keywords/<int:number>")
def show(number: int) -> str:
    """A keyword's own page."""
    db = get_db()
    keyword = db.execute(
        "SELECT keyword.*, code, name FROM keyword JOIN language ON language.id = keyword.language_id"
        " WHERE keyword.id = ?",
        (number,),
    ).fetchone()
    if keyword is None:
        abort(404, "There is no such keyword.")
    related = db.execute(
        "SELECT id, word, per_million, zipf FROM keyword"
        " WHERE language_id = ? AND word LIKE ? ESCAPE '\\' AND id <> ?"
        " ORDER BY per_million DESC LIMIT 12",
        (keyword["language_id"], f"%{escape_like(keyword['word'])}%", number),
    ).fetchall()
    neighbours = db.execute(
        "SELECT id, word, rank FROM keyword WHERE language_id = ? AND rank BETWEEN ? AND ? ORDER BY rank",
        (keyword["language_id"], keyword["rank"] - 4, keyword["rank"] + 4),
    ).fetchall()
    elsewhere = db.execute(
        "SELECT keyword.id, name, code, per_million, zipf, rank FROM keyword"
        " JOIN language ON language.id = keyword.language_id"
        " WHERE word = ? AND keyword.id <> ? ORDER BY per_million DESC",
        (keyword["word"], number),
    ).fetchall()
    saved = db.execute("SELECT COUNT(*) FROM saved_item WHERE keyword_id = ?", (number,)).fetchone()[0]
    lists = orm.session.scalars(
        orm.select(SavedList).where(SavedList.starter.is_(False)).order_by(SavedList.name)
    ).all()
    return render_template(
        "keyword.html",
        keyword=keyword,
        related=related,
        neighbours=neighbours,
        elsewhere=elsewhere,
        saved=saved,
        lists=lists,
    )


@bp.get("/compare")
def compare() -> str:
    """How often one word is used in every language."""
    word = clean(request.args.get("word"))
    db = get_db()
    found, missing = [], []
    if word:
        for language in db.execute("SELECT * FROM language ORDER BY name").fetchall():
            row = db.execute(
                "SELECT id, per_million, zipf, rank FROM keyword WHERE language_id = ? AND word = ?",
                (language["id"], word),
            ).fetchone()
            if row is None:
                missing.append(language)
            else:
                found.append({"language": language, **dict(row)})
    found.sort(key=lambda entry: -entry["per_million"])
    return render_template("compare.html", word=word, found=found, missing=missing)
