"""A cursor of ours does what the driver's does: on a plain run, while it fills the cache, and on a hit."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt import DBOptimizer

QUERY = 'SELECT language, count(*) AS n, max(word) AS "last ""word""" FROM keyword GROUP BY language ORDER BY 1'
DAYS = 'SELECT day, min(word), max(share) AS "greatest [REAL]" FROM keyword GROUP BY day'
NONE = "SELECT word, share FROM keyword WHERE word || language = ?"
MANY = "SELECT id, word FROM keyword WHERE share + 0 < 0.8 ORDER BY word DESC"

Deed = Callable[[sqlite3.Connection], Any]


class OwnRow(sqlite3.Row):
    """An app's own kind of row."""

    def shout(self) -> list[str]:
        return [name.upper() for name in self.keys()]  # a Row iterates over values


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def as_named(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Any:
    return namedtuple("Kept", [f"c{n}" for n in range(len(cursor.description))])._make(row)


def steps(cursor: sqlite3.Cursor) -> list[Any]:
    """All that a cursor tells about itself."""
    return [cursor.description, cursor.rowcount, cursor.arraysize]


def sizes(c: sqlite3.Connection, *asked: int) -> list[Any]:
    cursor = c.execute(QUERY)
    return [*(len(cursor.fetchmany(size)) for size in asked), cursor.fetchone(), cursor.fetchall()]


def with_arraysize(c: sqlite3.Connection) -> list[Any]:
    cursor = c.cursor()
    cursor.arraysize = 3
    cursor.execute(QUERY)
    return [cursor.fetchmany(), cursor.fetchmany(), cursor.fetchmany(), cursor.arraysize]


def past_the_end(c: sqlite3.Connection) -> list[Any]:
    cursor = c.execute(QUERY)
    return [len(cursor.fetchall()), cursor.fetchone(), cursor.fetchone(), cursor.fetchmany(2), cursor.fetchall()]


def by_hand(c: sqlite3.Connection) -> list[Any]:
    cursor = c.execute(QUERY)
    return [next(cursor), iter(cursor) is cursor, cursor.fetchone(), *cursor, next(cursor, "over")]


def close_then_fetch(c: sqlite3.Connection) -> list[Any]:
    cursor = c.execute(QUERY)
    cursor.fetchone()
    cursor.close()
    return [refused(fetch) for fetch in (cursor.fetchone, cursor.fetchall, cursor.fetchmany, lambda: next(cursor))]


def closed_then_executed(c: sqlite3.Connection) -> Any:
    c.execute(QUERY).fetchall()
    cursor = c.cursor()
    cursor.close()
    return refused(lambda: cursor.execute(QUERY))


def used_closed_then_executed(c: sqlite3.Connection) -> Any:
    cursor = c.execute(QUERY)
    cursor.fetchall()
    cursor.close()
    return refused(lambda: cursor.execute(QUERY))


def closed_connection(c: sqlite3.Connection) -> Any:
    cursor = c.execute(QUERY)
    cursor.fetchone()
    c.close()
    return ["closed" in str(refused(fetch)) for fetch in (cursor.fetchone, cursor.fetchall, lambda: next(cursor))]


def after_a_failure(c: sqlite3.Connection) -> list[Any]:
    """The driver is apt to blame the last fault of the connection, which here would be another borrower's."""
    told = [refused(lambda: c.execute("").fetchall()), refused(lambda: c.execute(NONE, (object(),)))]
    c.execute("INSERT INTO note (id) VALUES (5)")
    for fail in (
        lambda: c.executemany("INSERT INTO note (id) VALUES (?)", [(5,)]),
        lambda: c.execute("INSERT INTO note (id) VALUES (5)"),
    ):
        told.append(refused(fail))
    return told


def executed_again(c: sqlite3.Connection) -> list[Any]:
    cursor = c.cursor()
    told: list[Any] = []
    for sql, parameters in ((QUERY, ()), (MANY, ()), (NONE, ("x",)), (QUERY, ()), ("SELECT 1", ()), (QUERY, ())):
        told += [cursor.execute(sql, parameters).fetchone(), steps(cursor)]
    return [*told, cursor.fetchall()]


def one_for_two(c: sqlite3.Connection) -> list[Any]:
    """Two cursors read the same statement in turn."""
    one, two = c.execute(QUERY), c.execute(QUERY)
    return [one.fetchone(), two.fetchone(), one.fetchmany(2), two.fetchall(), one.fetchall()]


def last_row_id(c: sqlite3.Connection) -> list[Any]:
    c.execute("INSERT INTO note (id, text) VALUES (41, 'x')")
    c.rollback()
    cursor = c.cursor()
    fresh = cursor.execute(QUERY).lastrowid
    cursor.execute("SELECT 1")
    return [fresh, cursor.execute(QUERY).lastrowid]


def factory_of_the_connection(factory: Any, look: Callable[[Any], Any] = lambda row: row) -> Deed:
    def deed(c: sqlite3.Connection) -> list[Any]:
        c.row_factory = factory
        cursor = c.execute(QUERY)
        first = cursor.fetchone()
        return [look(first), type(first).__name__, *map(look, cursor.fetchmany(2)), *map(look, cursor)]

    return deed


def factory_of_the_cursor(factory: Any, look: Callable[[Any], Any] = lambda row: row) -> Deed:
    """Set before one statement and changed in the middle of it."""

    def deed(c: sqlite3.Connection) -> list[Any]:
        cursor = c.cursor()
        cursor.execute("SELECT 1 AS other").fetchone()
        cursor.row_factory = factory
        cursor.execute(QUERY)
        first = look(cursor.fetchone())
        cursor.row_factory = None
        second = cursor.fetchone()
        cursor.row_factory = factory
        third = list(map(look, cursor.fetchmany(1)))
        cursor.row_factory = sqlite3.Row
        return [first, second, third, [(tuple(row), row.keys()) for row in cursor.fetchall()]]

    return deed


def factory_after_the_statement(c: sqlite3.Connection) -> list[Any]:
    cursor = c.execute(QUERY)
    cursor.row_factory = sqlite3.Row
    return [(row.keys(), tuple(row)) for row in cursor]


def text_factory(factory: Any) -> Deed:
    def deed(c: sqlite3.Connection) -> list[Any]:
        c.text_factory = factory
        return c.execute(QUERY).fetchall()

    return deed


def shapes_of_parameters(c: sqlite3.Connection) -> list[Any]:
    sql = "SELECT count(*), typeof(:a) FROM keyword WHERE share > :a * 0.5"
    return [c.execute(sql, {"a": a}).fetchall() for a in (1, 1.0, True, "1", b"1", None, -0.0, 0.0, 2**62)]


def wrong_parameters(c: sqlite3.Connection) -> list[Any]:
    c.execute(NONE, ("a",)).fetchall()
    wrong: tuple[Any, ...] = ((), ("a", "b"), {"a": 1}, 5, "ab", None, (object(),), ([],), (2**80,))
    return [refused(lambda given=given: c.execute(NONE, given).fetchall()) for given in wrong]


def wrong_statements(c: sqlite3.Connection) -> list[Any]:
    wrong: tuple[Any, ...] = ("SELEC 1", "SELECT 1; SELECT 2", "SELECT * FROM nothing", None, 5, b"SELECT 1", [])
    return [refused(lambda sql=sql: c.execute(sql).fetchall()) for sql in wrong]


def other_kinds_of_text(c: sqlite3.Connection) -> list[Any]:
    return [
        c.execute(f"-- a comment\n/* another */ ;;{QUERY}").fetchall(),
        c.execute("WITH x AS (SELECT count(*) AS n FROM keyword) SELECT n FROM x").fetchall(),
        c.execute("VALUES (1, 'a'), (2, 'b')").fetchall(),
        c.execute("EXPLAIN QUERY PLAN SELECT 1").description,
    ]


def read_while_writing(c: sqlite3.Connection) -> list[Any]:
    told = []
    for (n,) in c.execute("SELECT id FROM keyword WHERE share + 0 < 0.002 ORDER BY id"):
        c.execute("INSERT INTO note (text) VALUES (?)", (n,))
        told.append(c.execute("SELECT count(*) FROM note").fetchone())
    c.rollback()
    return told


def returning(c: sqlite3.Connection) -> list[Any]:
    cursor = c.execute("INSERT INTO note (id, text) VALUES (7, 'x') RETURNING id, text")
    told = [cursor.fetchall(), cursor.rowcount, cursor.lastrowid]
    cursor.execute("UPDATE note SET text = 'y'")
    told += [cursor.rowcount, cursor.description]
    cursor.execute("WITH x AS (SELECT 8 AS n) INSERT INTO note (id) SELECT n FROM x")
    told += [cursor.rowcount, cursor.lastrowid, c.in_transaction, c.total_changes]
    cursor.executemany("INSERT INTO note (id) VALUES (?)", [(n,) for n in (20, 21, 22)])
    told += [cursor.rowcount, cursor.lastrowid]
    c.rollback()
    return told


def refused(use: Callable[[], Any]) -> Any:
    """What it gives, or with which words it raises what."""
    try:
        return use()
    except Exception as error:
        return type(error).__name__, str(error)


DEEDS: dict[str, Deed] = {
    "description, rowcount and arraysize": lambda c: steps(c.execute(QUERY)),
    "fetchall": lambda c: c.execute(QUERY).fetchall(),
    "fetchone": lambda c: c.execute(QUERY).fetchone(),
    "iteration": lambda c: list(c.execute(QUERY)),
    "by hand": by_hand,
    "fetchmany": lambda c: sizes(c, 2, 2),
    "fetchmany of nothing": lambda c: sizes(c, 0),
    "fetchmany of less than nothing": lambda c: sizes(c, 1, -1),
    "fetchmany of too many": lambda c: sizes(c, 99),
    "fetchmany of a word": lambda c: refused(lambda: c.execute(QUERY).fetchmany("2"))[0],  # type: ignore[arg-type]
    "fetchmany by name": lambda c: c.execute(QUERY).fetchmany(size=2),
    "arraysize": with_arraysize,
    "past the end": past_the_end,
    "close, then fetch": close_then_fetch,
    "close, then execute": closed_then_executed,
    "execute, close, execute": used_closed_then_executed,
    "close the connection, then fetch": closed_connection,
    "execute again": executed_again,
    "after a failure": after_a_failure,
    "two cursors": one_for_two,
    "lastrowid": last_row_id,
    "no rows": lambda c: [steps(c.execute(NONE, ("x",))), c.execute(NONE, ("x",)).fetchall()],
    "many rows": lambda c: c.execute(MANY).fetchall(),
    "Row": factory_of_the_connection(sqlite3.Row, lambda row: (row["n"], row["LANGUAGE"], row.keys(), tuple(row))),
    "a class made of Row": factory_of_the_connection(OwnRow, lambda row: (row["n"], row.shout(), tuple(row))),
    "a function that makes a Row": factory_of_the_connection(
        lambda cursor, row: sqlite3.Row(cursor, row), lambda row: (row["n"], row.keys())
    ),
    "dict": factory_of_the_connection(as_dict),
    "namedtuple": factory_of_the_connection(as_named, lambda row: row.c1),
    "a factory that counts": factory_of_the_connection(lambda cursor, row: [*row, cursor.rowcount, cursor.arraysize]),
    "a cursor's own Row": factory_of_the_cursor(sqlite3.Row, lambda row: row["n"]),
    "a cursor's own dict": factory_of_the_cursor(as_dict),
    "a cursor's own class made of Row": factory_of_the_cursor(OwnRow, lambda row: row["n"]),
    "a row factory set afterwards": factory_after_the_statement,
    "text as bytes": text_factory(bytes),
    "text as bytearray": text_factory(bytearray),
    "text by a function": text_factory(lambda text: text.decode().upper()),
    "parameters": shapes_of_parameters,
    "wrong parameters": wrong_parameters,
    "wrong statements": wrong_statements,
    "comments, WITH and VALUES": other_kinds_of_text,
    "writing while reading": read_while_writing,
    "RETURNING": returning,
}
UNKEPT = {"wrong statements", "after a failure", "RETURNING", "text as bytearray"}
"""Deeds without a result that the cache could keep."""


@pytest.fixture
def rooms(make_app: Callable[..., Any], path: Path) -> DBOptimizer:
    """Everything that costs more than nothing may be kept, so that each deed meets the cache."""
    app = make_app(DBOPT_DATABASE=str(path))
    dbopt = DBOptimizer(app)
    app.extensions["dbopt"].default.shelf.worth = 0.0
    return dbopt


@pytest.mark.parametrize("name", DEEDS)
def test_a_cursor_does_the_same_as_the_drivers(rooms: DBOptimizer, path: Path, name: str) -> None:
    deed = DEEDS[name]
    for turn in range(6):
        with contextlib.closing(sqlite3.connect(path)) as plain:
            expected = deed(plain)
        with rooms.borrow() as ours:
            told = deed(ours)
        assert told == expected, f"in turn {turn}"
    if name not in UNKEPT:
        assert rooms.cache.stats().hits > 0, "the cache was never met"


@pytest.mark.parametrize("detect_types", [0, sqlite3.PARSE_DECLTYPES, sqlite3.PARSE_COLNAMES, 3])
def test_converters_apply_to_cached_rows_too(
    rooms: DBOptimizer, path: Path, detect_types: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sqlite3.converters, "DATE", lambda text: datetime.date.fromisoformat(text.decode()))
    monkeypatch.setitem(sqlite3.converters, "REAL", lambda text: f"about {float(text):.1f}")
    with contextlib.closing(sqlite3.connect(path, detect_types=detect_types)) as plain:
        expected = plain.execute(DAYS).fetchall()
        names = plain.execute(DAYS).description
    for _ in range(6):
        with contextlib.closing(rooms.connect(detect_types=detect_types)) as ours:
            cursor = ours.execute(DAYS)
            assert (cursor.description, cursor.fetchall()) == (names, expected)
    assert rooms.cache.stats().hits > 0


def test_a_converter_that_makes_mutable_values_gives_each_reader_its_own(
    rooms: DBOptimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sqlite3.converters, "DATE", lambda text: [text])
    for _ in range(5):
        with contextlib.closing(rooms.connect(detect_types=sqlite3.PARSE_DECLTYPES)) as c:
            row = c.execute("SELECT day FROM keyword ORDER BY word LIMIT 1").fetchone()
            assert row == ([b"2026-01-01"],)
            row[0].append("mine")


def test_a_dict_that_one_reader_alters_is_whole_for_the_next(rooms: DBOptimizer) -> None:
    for _ in range(5):
        with rooms.borrow() as c:
            c.row_factory = as_dict
            row = c.execute(QUERY).fetchone()
            assert row.pop("language") == "de"
            row["n"] = "mine"
    assert rooms.cache.stats().hits > 0


def test_a_list_that_fetchall_gave_is_the_callers_own(rooms: DBOptimizer) -> None:
    for _ in range(5):
        with rooms.borrow() as c:
            rows = c.execute(QUERY).fetchall()
            assert len(rows) == 5
            rows.clear()


def test_a_new_function_for_each_request_is_still_answered_by_the_cache(rooms: DBOptimizer) -> None:
    for _ in range(5):
        with rooms.borrow() as c:
            c.row_factory = lambda cursor, row: list(row)
            assert c.execute(QUERY).fetchone()[0] == "de"
    assert rooms.cache.stats().hits > 0


def test_a_row_factory_that_raises_does_so_for_the_row_it_gets(rooms: DBOptimizer) -> None:
    def picky(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if row[0] == "en":
            raise LookupError("not this one")
        return row

    for _ in range(5):
        with rooms.borrow() as c:
            c.row_factory = picky
            cursor = c.execute(QUERY)
            assert cursor.fetchone()[0] == "de"
            with pytest.raises(LookupError, match="not this one"):
                cursor.fetchone()
            assert cursor.fetchone()[0] == "es"


def test_a_converter_that_raises_does_not_harm_who_reads_only_the_rows_before(
    rooms: DBOptimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(text: bytes) -> str:
        if text == b"2026-01-03":
            raise ValueError("no such day")
        return text.decode()

    monkeypatch.setitem(sqlite3.converters, "DATE", convert)
    for _ in range(5):
        with contextlib.closing(rooms.connect(detect_types=sqlite3.PARSE_DECLTYPES)) as c:
            cursor = c.execute("SELECT day FROM keyword WHERE share * 2 >= 0 ORDER BY id")
            assert cursor.fetchmany(2) == [("2026-01-01",), ("2026-01-02",)]
            with pytest.raises(ValueError, match="no such day"):
                cursor.fetchmany(2)


def test_text_that_is_no_text_raises_the_drivers_error(rooms: DBOptimizer) -> None:
    for _ in range(5):
        with rooms.borrow() as c, pytest.raises(sqlite3.OperationalError, match="decode to UTF-8"):
            c.execute("SELECT CAST(x'ff' AS TEXT), count(*) FROM keyword").fetchall()


def test_a_result_larger_than_the_cache_keeps_streams_whole(make_app: Callable[..., Any], path: Path) -> None:
    app = make_app(DBOPT_DATABASE=str(path), DBOPT_CACHE_MAX_RESULT=16_384)
    dbopt = DBOptimizer(app)
    app.extensions["dbopt"].default.shelf.worth = 0.0
    with contextlib.closing(sqlite3.connect(path)) as plain:
        expected = plain.execute(MANY).fetchall()
    for _ in range(5):
        with dbopt.borrow() as c:
            cursor = c.execute(MANY)
            assert [cursor.fetchone(), *cursor.fetchmany(300), *cursor] == expected
            c.row_factory = sqlite3.Row
            assert [tuple(row) for row in c.execute(MANY)] == expected
            c.row_factory = as_dict
            assert [tuple(row.values()) for row in c.execute(MANY)] == expected
    assert dbopt.cache.stats().entries == 0


def test_a_cursor_made_by_hand_works_as_the_drivers(rooms: DBOptimizer) -> None:
    with rooms.borrow() as c:
        plain, ours = sqlite3.Cursor(c), type(c.cursor())(c)
        assert ours.fetchall() == plain.fetchall() == []
        assert ours.execute(QUERY).fetchall() == plain.execute(QUERY).fetchall()


class Shouting(sqlite3.Cursor):
    """An app's own cursor class."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.shouts = 0

    def fetchone(self) -> Any:
        self.shouts += 1
        row = super().fetchone()
        return None if row is None else (row[0].upper(), *row[1:])


def test_a_cursor_class_of_the_apps_own_keeps_its_ways_and_is_timed(rooms: DBOptimizer) -> None:
    for _ in range(4):
        with rooms.borrow() as c:
            cursor = c.cursor(Shouting)
            assert isinstance(cursor, Shouting)
            assert isinstance(cursor, sqlite3.Cursor)
            assert cursor.execute(QUERY).fetchone()[0] == "DE"
            assert cursor.shouts == 1
            assert c.cursor(factory=Shouting).execute(QUERY).fetchone()[0] == "DE"
    recorded = {figures.query: figures.calls for figures in rooms.monitor.queries()}
    assert 8 in recorded.values()


def test_a_function_that_makes_cursors_is_left_alone(rooms: DBOptimizer) -> None:
    with rooms.borrow() as c:
        cursor = c.cursor(lambda connection: Shouting(connection))
        assert type(cursor) is Shouting
        assert cursor.execute(QUERY).fetchone()[0] == "DE"
        for wrong in (lambda connection: 5, int, None):
            with pytest.raises(TypeError):
                c.cursor(wrong)


def test_a_cursor_outlives_the_variable_of_its_connection(rooms: DBOptimizer) -> None:
    for _ in range(4):
        cursor = rooms.connect().execute(QUERY)
        assert len(cursor.fetchall()) == 5
        assert cursor.connection.execute("SELECT 1").fetchone() == (1,)


def test_rows_of_a_hit_are_counted_and_marked_as_cached(rooms: DBOptimizer) -> None:
    for _ in range(6):
        with rooms.borrow() as c:
            c.execute(QUERY).fetchall()
    (figures,) = [each for each in rooms.monitor.queries() if "language" in each.query]
    assert (figures.calls, figures.rows, figures.cache_hits) == (6, 30, rooms.cache.stats().hits)
