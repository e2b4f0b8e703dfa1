"""The languages, each one's most frequent keywords, and a whole language as a file."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterable, Iterator

from flask import Blueprint, Response, abort, render_template, stream_with_context

from example_app.db import get_db
from example_app.wording import page_number

bp = Blueprint("languages", __name__, url_prefix="/languages")

PAGE_SIZE = 50
COLUMNS = ("rank", "word", "per_million", "zipf")


def find(code: str) -> sqlite3.Row:
    """The language of this code, or 404."""
    row = get_db().execute("SELECT * FROM language WHERE code = ?", (code,)).fetchone()
    if row is None:
        abort(404, f"There is no language “{code}” here.")
    language: sqlite3.Row = row
    return language


@bp.get("/")
def index() -> str:
    """All languages, each with its size and its first words."""
    db = get_db()
    languages = []
    for language in db.execute("SELECT * FROM language ORDER BY name").fetchall():
        count = db.execute("SELECT COUNT(*) FROM keyword WHERE language_id = ?", (language["id"],))
        top = db.execute("SELECT id, word FROM keyword WHERE language_id = ? ORDER BY rank LIMIT 6", (language["id"],))
        languages.append({"language": language, "keywords": count.fetchone()[0], "top": top.fetchall()})
    return render_template("languages.html", languages=languages)


@bp.get("/<code>")
def top(code: str) -> str:
    """A language's keywords, most frequent first, a page at a time."""
    language = find(code)
    page = page_number()
    db = get_db()
    total = db.execute("SELECT COUNT(*) FROM keyword WHERE language_id = ?", (language["id"],)).fetchone()[0]
    keywords = db.execute(
        "SELECT id, word, per_million, zipf, rank FROM keyword WHERE language_id = ? ORDER BY rank LIMIT ? OFFSET ?",
        (language["id"], PAGE_SIZE, (page - 1) * PAGE_SIZE),
    ).fetchall()
    peak = db.execute("SELECT MAX(zipf) FROM keyword WHERE language_id = ?", (language["id"],)).fetchone()[0]
    return render_template(
        "language.html",
        language=language,
        keywords=keywords,
        total=total,
        peak=peak or 1,
        page=page,
        pages=-(-total // PAGE_SIZE),
    )


def as_csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """CSV text, a few hundred rows a piece, so that a large file starts at once and stays small in memory."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for number, row in enumerate(rows, 1):
        writer.writerow(row)
        if number % 500 == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def download(pieces: Iterator[str], name: str) -> Response:
    """Stream these pieces as a file of this name."""
    response = Response(stream_with_context(pieces), mimetype="text/csv")
    response.headers.set("Content-Disposition", "attachment", filename=f"{name}.csv")
    return response


@bp.get("/<code>.csv")
def export(code: str) -> Response:
    """Every keyword of a language, in order of frequency."""
    language_id = find(code)["id"]

    def rows() -> Iterator[Iterable[object]]:
        # Asked for inside the stream: the request's own connection ends when the first byte is sent.
        yield from get_db().execute(
            "SELECT rank, word, per_million, zipf FROM keyword WHERE language_id = ? ORDER BY rank",
            (language_id,),
        )

    return download(as_csv(COLUMNS, rows()), f"omni-keywords-{code}")
