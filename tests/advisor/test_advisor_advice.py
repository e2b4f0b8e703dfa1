"""Advice that makes queries cheaper: counted in steps of SQLite's virtual machine, before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyproj
import pytest

from flask_dbopt.engines.protocol import Plan

PROJ = Path(pyproj.datadir.get_data_dir()) / "proj.db"

# Each statement, values to run it with, the columns advised, and by how much it gets cheaper at least.
HELPED = [
    ("SELECT * FROM keyword WHERE word = ?", ["w77"], ("word",), 1000),
    ("SELECT * FROM keyword WHERE lang = ? AND word = ?", ["de", "w77"], ("lang", "word"), 1000),
    ("SELECT * FROM keyword WHERE word IN (?, ?)", ["w1", "w2"], ("word",), 1000),
    ("SELECT * FROM keyword WHERE word = ? COLLATE NOCASE", ["W77"], ("word",), 1000),
    ("SELECT * FROM keyword WHERE freq BETWEEN ? AND ?", [0.5, 0.501], ("freq",), 100),
    ("SELECT * FROM keyword WHERE lang = ? AND freq > ?", ["de", 0.999], ("lang", "freq"), 100),
    ("SELECT * FROM keyword WHERE lang = ? ORDER BY freq DESC LIMIT ?", ["de", 20], ("lang", "freq"), 500),
    ("SELECT word FROM keyword ORDER BY freq DESC LIMIT ?", [20], ("freq",), 500),
    ("SELECT word FROM keyword ORDER BY freq DESC, id DESC LIMIT ?", [20], ("freq",), 500),
    ("SELECT * FROM keyword ORDER BY lang, freq DESC LIMIT ?", [20], ("lang", "freq"), 500),
    ("SELECT * FROM keyword WHERE parent = ? ORDER BY place", [5], ("parent", "place"), 1000),
    ("SELECT count(*) FROM keyword WHERE lang = ?", ["de"], ("lang",), 3),
    ("SELECT * FROM (SELECT * FROM keyword WHERE word = ?) AS k", ["w77"], ("word",), 1000),
    ("SELECT k.* FROM keyword k JOIN language l ON l.code = k.lang WHERE k.word = ?", ["w7"], ("word",), 1000),
    ("SELECT b.* FROM keyword a JOIN keyword b ON a.word = b.word WHERE a.id = ?", [9], ("word",), 1000),
    (
        "SELECT (SELECT count(*) FROM note n WHERE n.keyword_id = k.id) FROM keyword k WHERE k.id < ?",
        [20],
        ("keyword_id",),
        1000,
    ),
    ("SELECT * FROM keyword WHERE word = (SELECT word FROM keyword WHERE id = ?)", [9], ("word",), 1000),
    ("WITH k AS (SELECT * FROM keyword WHERE parent = ?) SELECT count(*) FROM k", [9], ("parent",), 1000),
]


@pytest.mark.parametrize(("sql", "values", "columns", "times"), HELPED, ids=[case[0] for case in HELPED])
def test_an_advised_index_makes_the_query_measurably_cheaper(bench, sql, values, columns, times) -> None:
    bench.run(sql)
    (advice,) = bench.advisor.recommend()
    assert advice.columns == columns
    assert any(step.reads_whole_table for step in advice.before.steps)
    before = bench.steps(sql, values)
    bench.advisor.apply(advice.id)
    assert bench.steps(sql, values) * times <= before
    # And the database now plans what the row-less clone said it would.
    assert _details(bench.advisor.explain(sql)) == _details(advice.after)
    assert bench.advisor.recommend() == ()


def _details(plan: Plan) -> list[str]:
    assert not plan.problem
    return [step.detail for step in plan.steps]


@pytest.mark.parametrize(
    ("sql", "because"),
    [
        ("SELECT * FROM keyword WHERE hidden = ?", "would find 50% of the table"),
        ("SELECT * FROM keyword WHERE lang = ?", "would find 12% of the table"),
        ("SELECT * FROM keyword WHERE word LIKE ?", "`word LIKE ?` compares a pattern"),
        ("SELECT * FROM keyword WHERE lower(word) = ?", "`LOWER(word) = ?` wraps the column"),
        ("SELECT * FROM keyword WHERE word <> ?", "`word <> ?` excludes some values"),
        ("SELECT * FROM keyword WHERE word = ? OR parent = ?", "each side would need an index of its own"),
        ("SELECT * FROM keyword WHERE place = parent", "compares the table with itself"),
        ("SELECT * FROM keyword", "Every row of keyword is wanted"),
        ("SELECT count(*) FROM keyword", "Every row of keyword is wanted"),
        ("SELECT * FROM keyword WHERE +word = ?", "the planner would not use it"),
        ("SELECT word FROM keyword WHERE +word = ?", "the table would still be read whole"),
        ("SELECT * FROM keyword WHERE word LIKE ? ORDER BY freq LIMIT ?", "compares a pattern"),
        ("SELECT * FROM keyword WHERE lang = ? AND word LIKE ? ORDER BY freq LIMIT ?", "12% of the table"),
        ("SELECT * FROM shown WHERE word = ?", "keyword is read through a view"),
        ("SELECT * FROM keyword WHERE id = ?", "No table of 500 rows or more is read whole"),
        ("SELECT * FROM language WHERE title = ?", "No table of 500 rows or more is read whole"),
        ("SELECT * FROM keyword LIMIT 10", "No table of 500 rows or more is read whole"),
        ("SELECT * FROM nowhere", "Not explainable: no such table: nowhere."),
        ("DELETE FROM keyword", "Only SELECTs are looked at."),
        ("SELECT * FROM keyword WHERE word = " + "(" * 70 + "?" + ")" * 70, "could not be read"),
    ],
)
def test_where_no_index_is_advised_there_is_a_reason(bench, sql: str, because: str) -> None:
    bench.run(sql)
    assert bench.advisor.recommend() == ()
    assert because in bench.advisor.why_not(sql)


def test_where_an_index_is_advised_why_not_says_which(bench) -> None:
    sql = "SELECT * FROM keyword WHERE word = ?"
    index = "CREATE INDEX ix_keyword_word ON keyword (word)"
    assert bench.advisor.why_not(sql) == f"An index would help, and be advised once this ran often enough: {index}."
    bench.run(sql)
    bench.advisor.recommend()
    assert bench.advisor.why_not(sql) == f"An index is advised: {index}."


def test_one_index_serves_every_statement_that_it_can(bench) -> None:
    bench.run(
        "SELECT * FROM keyword WHERE lang = ? AND word = ?",
        "SELECT * FROM keyword WHERE word = ?",
        "SELECT * FROM keyword WHERE lang = ? ORDER BY freq DESC LIMIT ?",
        "SELECT count(*) FROM keyword WHERE lang = ?",
        "SELECT * FROM note WHERE keyword_id = ?",
        "SELECT * FROM note WHERE keyword_id = ? ORDER BY id",
    )
    advice = {each.sql: each for each in bench.advisor.recommend()}
    assert {sql: each.query_ids for sql, each in advice.items()} == {
        "CREATE INDEX ix_keyword_word_lang ON keyword (word, lang)": ("q0", "q1"),
        "CREATE INDEX ix_keyword_lang_freq ON keyword (lang, freq)": ("q2", "q3"),
        "CREATE INDEX ix_note_keyword_id ON note (keyword_id)": ("q4", "q5"),
    }
    first = next(iter(advice.values()))
    assert first.queries == tuple(line.query for line in bench.lines[:2])
    assert first.seconds == 99.0
    assert "It helps 2 recorded statements." in first.reason


def test_an_index_that_exists_is_not_advised_again_and_its_extension_says_so(bench) -> None:
    bench.write("CREATE INDEX mine ON keyword (parent); CREATE INDEX half ON keyword (word) WHERE lang = 'de'; ANALYZE")
    bench.run(
        "SELECT * FROM keyword WHERE parent = ?",
        "SELECT * FROM keyword WHERE word = ?",
        "SELECT * FROM keyword WHERE lang = ? AND word = ?",
    )
    # The partial index may serve the statement as the app really writes it: its values are not recorded.
    assert [each.columns for each in bench.advisor.recommend()] == [("lang", "word")]
    assert "half begins with (word) already" in bench.advisor.why_not("SELECT * FROM keyword WHERE word = ?")


def test_an_index_that_the_advice_makes_superfluous_is_named(bench) -> None:
    bench.write("CREATE INDEX mine ON keyword (lang); ANALYZE")
    bench.run("SELECT * FROM keyword WHERE lang = ? ORDER BY freq DESC LIMIT ?")
    (advice,) = bench.advisor.recommend()
    assert advice.columns == ("lang", "freq")
    assert advice.reason.startswith("Today the statement finds rows of keyword by the index mine (lang = ?)")
    assert advice.reason.endswith("The index mine begins the same way and could be dropped then.")


def test_a_reason_reads_as_a_person_would_say_it(bench) -> None:
    bench.run("SELECT * FROM keyword WHERE word = ?", "SELECT * FROM keyword ORDER BY freq LIMIT ?")
    by_word, by_freq = bench.advisor.recommend()
    assert by_word.reason.startswith(
        "Today the statement reads all ~120,000 rows of keyword; "
        "with the index it finds rows of keyword by the index ix_keyword_word (word = ?). One look-up finds about "
    )
    assert by_freq.reason == (
        "Today the statement reads all ~120,000 rows of keyword, sorts in a temporary B-tree; with the index it "
        "reads rows of keyword in the order of ix_keyword_freq, as many as LIMIT wants, without sorting."
    )
    assert by_word.rows == 120_000
    assert len(by_word.id) == 12
    assert set(by_word.id) <= set("0123456789abcdef")


def test_a_name_that_another_index_has_is_not_taken_again(bench) -> None:
    bench.write("CREATE INDEX ix_keyword_word ON note (body); CREATE INDEX ix_keyword_parent ON keyword (place)")
    bench.run("SELECT * FROM keyword WHERE word = ?", "SELECT * FROM keyword WHERE parent = ?")
    advice = bench.advisor.recommend()
    assert [each.sql for each in advice] == [
        "CREATE INDEX ix_keyword_word_2 ON keyword (word)",
        "CREATE INDEX ix_keyword_parent_2 ON keyword (parent)",
    ]
    for each in advice:
        bench.advisor.apply(each.id)


def test_a_range_is_advised_with_a_caution(bench) -> None:
    bench.run("SELECT * FROM keyword WHERE freq > ?")
    (advice,) = bench.advisor.recommend()
    assert advice.reason.endswith("How much it saves depends on how narrow the range is.")


def test_odd_names_are_quoted_and_the_index_can_be_built(bench_on: Callable) -> None:
    bench = bench_on(
        """
        CREATE TABLE "order" (id INTEGER PRIMARY KEY, "select" TEXT, "a ""b" TEXT, twice TEXT AS ("select" || 1));
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000)
        INSERT INTO "order" ("select", "a ""b") SELECT 's' || i, 'a' || i FROM n;
        CREATE TABLE "Mixed Case" ("Ключ" TEXT PRIMARY KEY, "Value" TEXT) WITHOUT ROWID;
        INSERT INTO "Mixed Case" SELECT "select", "select" FROM "order";
        CREATE VIRTUAL TABLE search USING fts5 (body);
        INSERT INTO search SELECT "select" FROM "order";
        """
    )
    bench.run(
        'SELECT * FROM "order" o WHERE o."select" = ?',
        'SELECT * FROM "order" WHERE "a ""b" = ?',
        "SELECT * FROM [Mixed Case] WHERE value = ?",
        'SELECT * FROM "order" WHERE twice = ?',
        "SELECT * FROM search WHERE body = ?",
        "SELECT * FROM search WHERE search MATCH ?",
    )
    advice = bench.advisor.recommend()
    assert {each.sql for each in advice} == {
        'CREATE INDEX ix_order_select ON "order" ("select")',
        'CREATE INDEX ix_order_a_b ON "order" ("a ""b")',
        'CREATE INDEX ix_mixed_case_value ON "Mixed Case" ("Value")',
        'CREATE INDEX ix_order_twice ON "order" (twice)',
    }
    for each in advice:
        bench.advisor.apply(each.id)
    assert bench.advisor.recommend(force=True) == ()


def test_advice_on_a_real_database_holds(bench_on: Callable) -> None:
    bench = bench_on(PROJ)
    statements = {
        "SELECT * FROM alias_name WHERE alt_name = ?": ["WGS84"],
        "SELECT * FROM projected_crs WHERE name = ?": ["WGS 84 / UTM zone 32N"],
        "SELECT * FROM usage WHERE extent_auth_name = ? AND extent_code = ?": ["EPSG", 1262],
        "SELECT p.name FROM alias_name a JOIN projected_crs p ON p.name = a.alt_name WHERE a.code = ?": [4326],
    }
    bench.run(*statements)
    advice = bench.advisor.recommend()
    assert {each.table for each in advice} == {"alias_name", "projected_crs", "usage"}
    before = {sql: bench.steps(sql, values) for sql, values in statements.items()}
    for each in advice:
        bench.advisor.apply(each.id)
    for sql, values in statements.items():
        assert bench.steps(sql, values) * 5 < before[sql], sql
