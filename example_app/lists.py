"""Saved lists: make one, fill it, rename it, take words out, throw it away, take it home as a file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from example_app.db import orm
from example_app.languages import as_csv, download
from example_app.models import Keyword, Language, SavedItem, SavedList
from example_app.wording import clean

bp = Blueprint("lists", __name__, url_prefix="/lists")

LONGEST_NAME = 80


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def named(text: str | None) -> str | None:
    """A list's name as it is kept, or None (and a message) where it can't be one."""
    name = " ".join((text or "").split())
    if not name:
        flash("A list needs a name.", "warning")
        return None
    if len(name) > LONGEST_NAME:
        flash(f"A name has at most {LONGEST_NAME} letters.", "warning")
        return None
    return name


def own(number: int) -> SavedList:
    """The list of this number if people may change it."""
    saved: SavedList = orm.get_or_404(SavedList, number)
    if saved.starter:
        abort(403, "Starter lists stay as they are. Make a list of your own and fill it from them.")
    return saved


def shown(saved: SavedList) -> BaseResponse:
    return redirect(url_for("lists.show", number=saved.id))


@bp.get("/")
def index() -> str:
    """All lists with how much is in them and their first words."""
    lists = orm.session.scalars(orm.select(SavedList).order_by(SavedList.starter, SavedList.name)).all()
    return render_template("lists.html", lists=lists)


@bp.post("/")
def create() -> BaseResponse:
    """Make a list, and put a first keyword into it where one is given."""
    name = named(request.form.get("name"))
    if name is None:
        return redirect(url_for("lists.index"))
    saved = SavedList(name=name, starter=False, created_at=now())
    orm.session.add(saved)
    keyword = orm.session.get(Keyword, request.form.get("keyword_id", 0, type=int))
    if keyword is not None:
        saved.items.append(SavedItem(keyword=keyword, added_at=now()))
    orm.session.commit()
    flash(f"“{name}” is ready.", "success")
    return shown(saved)


@bp.get("/<int:number>")
def show(number: int) -> str:
    """One list and its keywords."""
    saved = orm.get_or_404(SavedList, number)
    languages = orm.session.scalars(orm.select(Language).order_by(Language.name)).all()
    return render_template("list.html", saved=saved, languages=languages)


@bp.post("/<int:number>/items")
def add(number: int) -> BaseResponse:
    """Put a keyword into a list: by its number, or by language and word."""
    saved = own(number)
    keyword = orm.session.get(Keyword, request.form.get("keyword_id", 0, type=int))
    word = clean(request.form.get("word"))
    if keyword is None and word:
        keyword = orm.session.scalars(
            orm.select(Keyword)
            .join(Language)
            .where(Language.code == request.form.get("lang", ""), Keyword.word == word)
        ).first()
    if keyword is None:
        flash(f"We have no keyword “{word}” in that language.", "warning")
    elif any(item.keyword_id == keyword.id for item in saved.items):
        flash(f"“{keyword.word}” is in this list already.", "warning")
    else:
        saved.items.append(SavedItem(keyword=keyword, added_at=now()))
        orm.session.commit()
        flash(f"“{keyword.word}” was saved to “{saved.name}”.", "success")
    return shown(saved)


@bp.post("/save")
def save() -> BaseResponse:
    """Put a keyword into the list that was picked on the keyword's page."""
    return add(request.form.get("list_id", 0, type=int))


@bp.post("/<int:number>/items/<int:item>/remove")
def remove(number: int, item: int) -> BaseResponse:
    """Take a keyword out of a list."""
    saved = own(number)
    entry = orm.session.get(SavedItem, item)
    if entry is None or entry.list_id != saved.id:
        abort(404, "That keyword is not in this list any more.")
    flash(f"“{entry.keyword.word}” was taken out.", "success")
    saved.items.remove(entry)
    orm.session.commit()
    return shown(saved)


@bp.post("/<int:number>/rename")
def rename(number: int) -> BaseResponse:
    """Give a list another name."""
    saved = own(number)
    name = named(request.form.get("name"))
    if name is not None:
        saved.name = name
        orm.session.commit()
        flash("The list has its new name.", "success")
    return shown(saved)


@bp.post("/<int:number>/delete")
def delete(number: int) -> BaseResponse:
    """Throw a list away."""
    saved = own(number)
    flash(f"“{saved.name}” is gone.", "success")
    orm.session.delete(saved)
    orm.session.commit()
    return redirect(url_for("lists.index"))


@bp.get("/<int:number>.csv")
def export(number: int) -> Response:
    """A list as a file."""
    orm.get_or_404(SavedList, number)

    def rows() -> Iterator[tuple[object, ...]]:
        saved = orm.session.get(SavedList, number)  # inside the stream, where the session lives on
        for item in saved.items if saved else ():
            keyword = item.keyword
            yield keyword.language.name, keyword.word, keyword.per_million, keyword.zipf, keyword.rank

    columns = ("language", "word", "per_million", "zipf", "rank")
    return download(as_csv(columns, rows()), f"omni-keywords-list-{number}")
