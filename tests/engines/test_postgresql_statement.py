"""Placeholders of every style become PostgreSQL's own, and what is no single statement is refused."""

from __future__ import annotations

import pytest

from flask_dbopt.engines.postgresql.statement import read_statement
from flask_dbopt.sql.fingerprint import fingerprint


@pytest.mark.parametrize(
    ("sql", "numbered"),
    [
        ("SELECT * FROM t WHERE a = ? AND b = ?", "SELECT * FROM t WHERE a = $1 AND b = $2"),
        ("SELECT %s, %(name)s, %(name)s::text", "SELECT $1, $2, $2::text"),
        ("SELECT $2, $1", "SELECT $1, $2"),
        ("SELECT :low, :high, x::int, a[1:n]", "SELECT $1, $2, x::int, a[1:n]"),
        ("SELECT 1 WHERE x = now() - INTERVAL ?", "SELECT 1 WHERE x = now() - $1::INTERVAL"),
        ("SELECT interval ? day", "SELECT $1::interval day"),
        ("SELECT timestamp with time zone ?", "SELECT $1::timestamp with time zone"),
        ("SELECT x AT TIME ZONE ? LIMIT ?", "SELECT x AT TIME ZONE $1 LIMIT $2"),
        ("SELECT data ? ?, data ?| ?, data ? & ?", "SELECT data ? $1, data ?| $2, data ?& $3"),
        ("SELECT data ? (?)", "SELECT data ? ($1)"),
        ("SELECT date ? AND date ?, 1", "SELECT $1::date AND $2::date, 1"),
        ("SELECT a %% ?, 'x%%'", "SELECT a % $1, 'x%%'"),
        ("SELECT 1 -- why?\n, ?", "SELECT 1  \n, $1".replace(" \n", " ")),
        ("SELECT /* a ? /* b */ ; */ ?;", "SELECT   $1"),
        ("SELECT $q$ ? ; $q$, E'\\'?', U&'?', \"a?b\", tab$1, 1.5e3, .5", None),
        ("(SELECT ?) UNION (SELECT ?)", "(SELECT $1) UNION (SELECT $2)"),
    ],
)
def test_each_placeholder_is_found_and_nothing_else(sql: str, numbered: str | None) -> None:
    found = read_statement(sql).numbered({})
    assert " ".join(found.split()) == " ".join((numbered or sql).split())


def test_a_fingerprint_is_read_back() -> None:
    shape = fingerprint("SELECT * FROM t WHERE at > now() - INTERVAL '1 day' AND data ?| ARRAY['a'] AND n IN (1, 2, 3)")
    statement = read_statement(shape)
    assert statement.keys == (0, 1, 2)
    assert "?|" in statement.numbered({})
    assert "$1::INTERVAL" in statement.numbered({})
    assert "$3::text" in statement.numbered({3: "text"})


@pytest.mark.parametrize(
    ("sql", "values", "bound"),
    [
        ("SELECT ?, x % ?", (1, 2), ("SELECT %s, x %% %s", [1, 2])),
        ("SELECT $2, $1, $2", (1, 2), ("SELECT %s, %s, %s", [2, 1, 2])),
        ("SELECT ?2, ?1", (1, 2), ("SELECT %s, %s", [2, 1])),
        ("SELECT %(a)s, :b, date %(a)s", {"a": 1, "b": 2}, ("SELECT %s, %s, %s::date", [1, 2, 1])),
        ("SELECT :a, :b", (1, 2), ("SELECT %s, %s", [1, 2])),
    ],
)
def test_values_go_to_their_placeholders(sql: str, values: object, bound: tuple[str, list[int]]) -> None:
    assert read_statement(sql).bound(values) == bound  # type: ignore[arg-type]


@pytest.mark.parametrize(("sql", "values"), [("SELECT ?", (1, 2)), ("SELECT :a", {"b": 1}), ("SELECT ?, ?", (1,))])
def test_values_that_do_not_fit_are_refused(sql: str, values: object) -> None:
    with pytest.raises(ValueError, match=r"it has \d placeholders?, given were \d"):
        read_statement(sql).bound(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT 1; DELETE FROM t", "more than one statement"),
        ("SELECT 1; ;", "more than one statement"),
        ("SELECT ';'; SELECT 2", "more than one statement"),
        ("DROP TABLE t", "have a plan"),
        ("EXPLAIN ANALYZE DELETE FROM t", "have a plan"),
        ("ANALYZE SELECT 1", "have a plan"),
        ("/* /* */ select */ DROP TABLE t", "have a plan"),
        ("CREATE TABLE t AS SELECT 1", "have a plan"),
        ("", "have a plan"),
        ("-- select", "have a plan"),
        ("SELECT 'a", "does not end"),
        ('SELECT "a', "does not end"),
        ("SELECT $x$ a", "does not end"),
        ("SELECT E'a\\'", "does not end"),
        ("SELECT /* a /* b */", "does not end"),
        ("SELECT '\x00'", "zero byte"),
    ],
)
def test_what_is_not_one_statement_with_a_plan_is_refused(sql: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_statement(sql)
