"""Which columns filter, join and order: read from text alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flask_dbopt.sql.predicates import Column, Select, first_word, read_selects


def only(sql: str) -> Select:
    selects = read_selects(sql)
    assert selects is not None
    return selects[-1]


def kinds(sql: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.kind, tuple(c.name for c in each.columns)) for each in only(sql).predicates]


@pytest.mark.parametrize(
    "condition",
    ["a = ?", "? = a", "a == ?", "a IS ?", "a IN (?, ?)", "a IN (SELECT x FROM u)", "a IS NULL", "a = :name",
     "a = @name", "a = $name", "a = ?1", "a = ?::VARCHAR", "a = %(x)s::TIMESTAMP WITH TIME ZONE", "a = %s",
     "(a) = ?", "a = (SELECT max(x) FROM u)", '"a" = ?', "[a] = ?"],
)  # fmt: skip
def test_an_equality_is_seen_however_it_is_written(condition: str) -> None:
    assert kinds(f"SELECT * FROM t WHERE {condition}") == [("equality", ("a",))]


@pytest.mark.parametrize("condition", ["a > ?", "? <= a", "a BETWEEN ? AND ?", "(a, b) > (?, ?)"])
def test_a_range_is_seen_however_it_is_written(condition: str) -> None:
    assert kinds(f"SELECT * FROM t WHERE {condition}") == [("range", ("a",))]


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("a LIKE ?", "pattern"),
        ("a GLOB ?", "pattern"),
        ("a <> ?", "inequality"),
        ("a IS NOT NULL", "inequality"),
        ("lower(a) = ?", "expression"),
        ("a + 1 > ?", "expression"),
        ("substr(a, 1, 2) IN (?)", "expression"),
        ("a", "expression"),
        ("a = ? OR b = ?", "alternative"),
    ],
)
def test_what_no_plain_index_serves_is_named_for_what_it_is(condition: str, kind: str) -> None:
    assert kinds(f"SELECT * FROM t WHERE {condition}")[0][0] == kind


def test_row_values_are_taken_apart() -> None:
    assert kinds("SELECT * FROM t WHERE (a, b) = (?, ?)") == [("equality", ("a",)), ("equality", ("b",))]


def test_conditions_of_where_and_of_every_on_are_collected() -> None:
    select = only("SELECT * FROM t JOIN u ON t.a = u.b AND u.c > ? WHERE (t.d = ? AND t.e < ?)")
    found = [(each.kind, each.columns[0]) for each in select.predicates]
    assert found == [
        ("equality", Column("t", "d")),
        ("range", Column("t", "e")),
        ("equality", Column("t", "a")),
        ("equality", Column("u", "b")),
        ("range", Column("u", "c")),
    ]
    assert select.predicates[2].others == (Column("u", "b"),)


def test_a_join_by_using_is_an_equality() -> None:
    select = only("SELECT * FROM t JOIN u USING (a)")
    assert [(each.kind, each.columns, each.text) for each in select.predicates] == [
        ("equality", (Column("u", "a"),), "USING (a)")
    ]


def test_subqueries_are_selects_of_their_own_and_keep_their_columns() -> None:
    selects = read_selects("SELECT * FROM t WHERE a IN (SELECT x FROM u WHERE y = ? AND z = t.b)")
    assert selects is not None
    inner, outer = selects
    assert [source.table for source in inner.sources] == ["u"]
    assert [source.table for source in outer.sources] == ["t"]
    # The outer value depends on t.b, which the subquery names; on x and y it does not.
    assert outer.predicates[0].others == (Column("t", "b"),)


def test_names_that_with_defines_are_no_tables() -> None:
    select = only("WITH c AS (SELECT * FROM t) SELECT * FROM c JOIN u AS v ON v.a = c.a")
    assert [(source.alias, source.table) for source in select.sources] == [("c", None), ("v", "u")]


def test_order_follows_aliases_and_positions_and_stops_at_expressions() -> None:
    order = only("SELECT a AS k, b FROM t ORDER BY k DESC, 2, c COLLATE NOCASE LIMIT ?")
    assert [(term.column.name, term.descending, term.collation) for term in order.order] == [
        ("a", True, None),
        ("b", False, None),
        ("c", False, "NOCASE"),
    ]
    assert order.limited
    assert only("SELECT * FROM t ORDER BY a, lower(b)").order == ()
    assert only("SELECT * FROM t ORDER BY ?").order == ()


@pytest.mark.parametrize(
    "sql",
    ["SELECT count(*) FROM t LIMIT 1", "SELECT DISTINCT a FROM t", "SELECT a FROM t GROUP BY a",
     "SELECT row_number() OVER (ORDER BY a) FROM t"],
)  # fmt: skip
def test_a_select_that_gathers_rows_says_so(sql: str) -> None:
    assert only(sql).grouped


def test_a_collation_on_either_side_is_kept() -> None:
    for condition in ("a = ? COLLATE NOCASE", "a COLLATE NOCASE = ?"):
        (predicate,) = only(f"SELECT * FROM t WHERE {condition}").predicates
        assert predicate.collation == "NOCASE"


def test_quoted_text_that_looks_like_a_parameter_is_left_alone() -> None:
    (predicate,) = only("SELECT * FROM t WHERE a = 'x:b ?1'").predicates
    assert predicate.text == "a = 'x:b ?1'"


def test_long_conditions_are_cut_short() -> None:
    (predicate,) = only(f"SELECT * FROM t WHERE a IN ({', '.join('?' * 200)})").predicates
    assert len(predicate.text) == 120


@pytest.mark.parametrize(
    "sql",
    ["", "   ", "/* open", "DELETE FROM t", "SELECT ((((", "SELECT * FROM", "PRAGMA x", "SELECT 'open",
     "SELECT " + "(" * 5000 + "1" + ")" * 5000, "SELECT * FROM t WHERE a = '" + "x" * 10_000 + "'",
     "WITH x AS (SELECT 1) DELETE FROM t", "SELECT \udcff FROM"],
)  # fmt: skip
def test_what_can_not_be_read_is_none_and_never_an_error(sql: str) -> None:
    assert read_selects(sql) is None


@pytest.mark.parametrize(
    ("sql", "word"),
    [("  select 1", "select"), ("-- a\n/* b */ (SELECT 1)", "select"), ("", ""), ("WITH x", "with")],
)
def test_the_first_word_is_found_behind_comments(sql: str, word: str) -> None:
    assert first_word(sql) == word


def test_the_parser_is_loaded_only_when_a_statement_is_read() -> None:
    code = "import sys, flask_dbopt.advisor.advisor as a, flask_dbopt.engines.sqlite.planner as p\n" + (
        "assert a and p and not any(name.startswith('sqlglot') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
