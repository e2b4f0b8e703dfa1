"""The saved lists and what is in them, as objects."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from example_app.db import orm


class Language(orm.Model):  # type: ignore[name-defined, misc]
    """A language we know."""

    __tablename__ = "language"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str]
    name: Mapped[str]
    native_name: Mapped[str]


class Keyword(orm.Model):  # type: ignore[name-defined, misc]
    """A word of one language and how often it is used."""

    __tablename__ = "keyword"
    id: Mapped[int] = mapped_column(primary_key=True)
    language_id: Mapped[int] = mapped_column(ForeignKey("language.id"))
    word: Mapped[str]
    per_million: Mapped[float]
    zipf: Mapped[float]
    rank: Mapped[int]
    language: Mapped[Language] = relationship()


class SavedList(orm.Model):  # type: ignore[name-defined, misc]
    """Keywords that somebody keeps together under a name."""

    __tablename__ = "saved_list"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    starter: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    items: Mapped[list[SavedItem]] = relationship(
        back_populates="saved_list", cascade="all, delete-orphan", order_by="SavedItem.id"
    )


class SavedItem(orm.Model):  # type: ignore[name-defined, misc]
    """A keyword in a list."""

    __tablename__ = "saved_item"
    id: Mapped[int] = mapped_column(primary_key=True)
    list_id: Mapped[int] = mapped_column(ForeignKey("saved_list.id"))
    keyword_id: Mapped[int] = mapped_column(ForeignKey("keyword.id"))
    added_at: Mapped[datetime]
    saved_list: Mapped[SavedList] = relationship(back_populates="items")
    keyword: Mapped[Keyword] = relationship()
