"""Every example in the pages runs; every command, setting, signature and figure they name is there."""

from __future__ import annotations

import inspect
import re
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask

import flask_dbopt.errors
from flask_dbopt import DBOptimizer
from flask_dbopt.advisor.advisor import Advisor, Recommendation
from flask_dbopt.backup.backups import Backups
from flask_dbopt.backup.repository import BackupRecord
from flask_dbopt.cache.cache import Cache, CacheStats
from flask_dbopt.cli import group
from flask_dbopt.monitor.figures import (
    EndpointFigures,
    PlanFigures,
    Point,
    QueryDetails,
    QueryFigures,
    RepeatedStatement,
    RequestFigures,
    SlowRunFigures,
    Worker,
)
from flask_dbopt.monitor.monitor import Monitor
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.report import Overview, Report
from flask_dbopt.settings import SETTINGS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
ROWS = 3_000

FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", flags=re.M | re.S)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page; ``marks`` are the words behind its language."""

    page: str
    number: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.number}"


def blocks(language: str) -> Iterator[Block]:
    for page, name in zip(PAGES, NAMES, strict=True):
        found = [match for match in FENCE.finditer(page.read_text(encoding="utf-8")) if match[1] == language]
        for number, match in enumerate(found, 1):
            yield Block(name, number, language, tuple(match[2].split()), match[3])


EXAMPLES = list(blocks("python"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an example runs: a folder of its own with a database ``app.db``."""
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("app.db")) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT NOT NULL, uses INTEGER NOT NULL)")
        words = ((f"word {number}", number % 7) for number in range(ROWS))
        connection.executemany("INSERT INTO word (text, uses) VALUES (?, ?)", words)
        connection.commit()
    return tmp_path


def in_app(folder: Path) -> dict[str, Any]:
    """What an example marked ``in-app`` finds: an app on that database, and its optimizer."""
    app = Flask("docs_example", instance_path=str(folder / "instance"))
    return {"app": app, "dbopt": DBOptimizer(app, database="app.db")}


def close(namespace: Mapping[str, Any]) -> None:
    """End what an example opened and would have kept for the life of its process."""
    from sqlalchemy import Engine

    for value in namespace.values():
        if isinstance(value, Engine):
            value.dispose()
        if isinstance(value, Flask):
            if "sqlalchemy" in value.extensions:
                with value.app_context():
                    for engine in value.extensions["sqlalchemy"].engines.values():
                        engine.dispose()
            if "dbopt" in value.extensions:
                value.extensions["dbopt"].close()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_every_example_runs(example, folder):
    assert "runnable" in example.marks, "mark it: ```python runnable, or ```python runnable in-app"
    namespace: dict[str, Any] = {"__name__": "docs_example"}
    if "in-app" in example.marks:
        namespace |= in_app(folder)
    apps = dict(namespace)
    try:
        exec(compile(example.text, example.name, "exec"), namespace)
    finally:
        close({**apps, **{f"{name} ": value for name, value in namespace.items()}})


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``flask db-opt`` line of the pages that people write, as a page's name and what follows db-opt."""
    for block in blocks("console"):
        if block.page == "docs/cli.md":  # written from the code, and not as one would type it
            continue
        for line in block.text.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if line.startswith("$ ") else []
            if "db-opt" in words and "flask" in words:
                end = next((at for at, word in enumerate(words) if word in (">", "|", "&&")), None)
                yield block.page, words[words.index("db-opt") + 1 : end]


@pytest.mark.parametrize(("page", "words"), [pytest.param(*each, id=" ".join(each[1])) for each in commands()])
def test_every_command_line_would_be_understood(page, words):
    command: click.Command = group
    context = click.Context(group)
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page}: there is no {name}"
        command = found
    command.make_context(command.name, words)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_verb_and_setting_that_is_named_is_there(page):
    text = page.read_text(encoding="utf-8")
    verbs = set(re.findall(r"flask db-opt ([a-z]+)", text)) - set(group.list_commands(click.Context(group)))
    keys = {one.key for one in SETTINGS.values()}
    assert (verbs, set(re.findall(r"\bDBOPT_[A-Z]\w+", text)) - keys) == (set(), set())


OBJECTS = {
    "dbopt": DBOptimizer,
    "dbopt.pool": Pool,
    "dbopt.cache": Cache,
    "dbopt.monitor": Monitor,
    "dbopt.advisor": Advisor,
    "dbopt.backups": Backups,
}
#: Methods that other rooms call, not an app.
INWARD = {
    Pool: {"abandon", "add_idle", "close", "collect_dropped", "count_lost", "discard", "lend", "receive"}
    | {"let_go", "suspect", "take_back", "take_back_from"},
    Cache: {"abandon", "close", "let_go", "shelf", "sweep"},
    Monitor: {"abandon", "attend_by", "close", "command", "evaluate", "explain_by", "let_go", "measure", "see_by"}
    | {"source", "sweep", "tap", "totals"},
    Advisor: {"abandon"},
}


def signatures() -> Iterator[tuple[str, str, str]]:
    """The headings of the API page: ``dbopt.pool``, ``resize``, ``(minimum, maximum)``."""
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    yield from re.findall(r"^#+ `(dbopt(?:\.\w+)?)\.(\w+)(\(.*\))?`$", text, flags=re.M)


@pytest.mark.parametrize(("owner", "name", "arguments"), [pytest.param(*each, id=each[1]) for each in signatures()])
def test_the_api_page_has_the_real_signatures(owner, name, arguments):
    real = inspect.getattr_static(OBJECTS[owner], name)
    if isinstance(real, property):
        assert arguments == ""
        return
    made: dict[str, Any] = {}
    exec(f"def told{arguments}: ...", made)
    told = [(each.name, each.kind, each.default) for each in inspect.signature(made["told"]).parameters.values()]
    found = list(inspect.signature(real).parameters.values())[1:]
    assert told == [(each.name, each.kind, each.default) for each in found]


@pytest.mark.parametrize("owner", OBJECTS)
def test_the_api_page_has_every_public_method(owner):
    kind = OBJECTS[owner]
    members = inspect.getmembers_static(kind, lambda value: callable(value) or isinstance(value, property))
    public = {name for name, _ in members if not name.startswith("_")}
    told = {name for each, name, _ in signatures() if each == owner}
    rooms = {each.partition(".")[2] for each in OBJECTS}
    assert public - INWARD.get(kind, set()) - rooms == told - rooms


def test_the_api_page_has_every_error():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    names = [name for name, value in vars(flask_dbopt.errors).items() if isinstance(value, type)]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("page", "record"),
    [
        ("pool.md", PoolStats),
        ("cache.md", CacheStats),
        ("monitor.md", QueryFigures),
        ("monitor.md", EndpointFigures),
        ("monitor.md", RequestFigures),
        ("monitor.md", RepeatedStatement),
        ("monitor.md", QueryDetails),
        ("monitor.md", SlowRunFigures),
        ("monitor.md", PlanFigures),
        ("monitor.md", Point),
        ("monitor.md", Worker),
        ("monitor.md", Overview),
        ("monitor.md", Report),
        ("backup.md", BackupRecord),
        ("advisor.md", Recommendation),
    ],
)
def test_every_figure_is_explained(page, record):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert [each.name for each in fields(record) if f"`{each.name}`" not in text] == []


def test_every_picture_is_shown_and_small():
    pictures = {picture.name: picture.stat().st_size for picture in (ROOT / "docs/pictures").glob("*.png")}
    shown = {
        name for page in PAGES for name in re.findall(r"pictures/([\w-]+\.png)\)", page.read_text(encoding="utf-8"))
    }
    assert set(pictures) == shown
    assert {name: size for name, size in pictures.items() if size > 250_000} == {}
