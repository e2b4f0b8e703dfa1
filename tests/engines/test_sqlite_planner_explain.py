"""SQLite's plans as people read them, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flask_dbopt.engines.protocol import Plan
from flask_dbopt.engines.sqlite.planner import SQLitePlanner
from flask_dbopt.engines.sqlite.reading import Names, how_far, read_plan

Made = Callable[[str], SQLitePlanner]


def readings(plan: Plan) -> list[str]:
    assert not plan.problem
    return [step.reading for step in plan.steps]


# --- explaining -------------------------------------------------------------------------------------------


def test_a_scan_is_read_as_all_rows_of_its_table(words: SQLitePlanner) -> None:
    plan = words.explain("SELECT * FROM word AS w WHERE text = ?", ("w1",))
    (step,) = plan.steps
    assert step.reading == "reads all ~120,000 rows of word"
    assert (step.detail, step.table, step.rows, step.reads_whole_table) == ("SCAN w", "word", 120_000, True)


def test_a_sort_in_a_temporary_tree_is_seen(words: SQLitePlanner) -> None:
    plan = words.explain("SELECT * FROM word ORDER BY freq")
    assert readings(plan)[1] == "sorts in a temporary B-tree"
    assert [step.sorts for step in plan.steps] == [False, True]


def test_an_automatic_index_counts_as_reading_the_whole_table(words: SQLitePlanner) -> None:
    plan = words.explain("SELECT * FROM word a JOIN word b ON a.text = b.text")
    step = plan.steps[1]
    assert step.reading == "builds an automatic index over all ~120,000 rows of word on each run (text = ?)"
    assert step.reads_whole_table
    assert step.index is None


def test_inner_loops_and_subqueries_say_that_they_repeat(words: SQLitePlanner) -> None:
    assert readings(words.explain("SELECT * FROM word, note WHERE note.body > word.text"))[1].endswith(
        " for each row found so far"
    )
    plan = words.explain("SELECT (SELECT body FROM note n WHERE n.word_id = w.id) FROM word w WHERE w.id = ?")
    assert readings(plan) == [
        "finds rows of word by rowid (rowid = ?)",
        "runs a subquery again for each row:",
        "reads all 600 rows of note each time",
    ]
    assert plan.steps[2].depth == 1


@pytest.mark.parametrize(
    ("sql", "reading", "whole"),
    [
        ("SELECT * FROM word LIMIT 5", "reads rows of word, as many as LIMIT wants", False),
        (
            "SELECT * FROM word WHERE text = ? LIMIT 5",
            "reads rows of word, until as many as LIMIT wants are found",
            True,
        ),
        ("SELECT count(*) FROM word LIMIT 5", "reads all ~120,000 rows of word", True),
        ("SELECT * FROM word ORDER BY freq LIMIT 5", "reads all ~120,000 rows of word", True),
        ("SELECT * FROM (SELECT * FROM word LIMIT 5) ORDER BY freq", "reads all ~120,000 rows of word", True),
    ],
)
def test_a_limit_ends_a_scan_early_where_nothing_gathers_rows(
    words: SQLitePlanner, sql: str, reading: str, whole: bool
) -> None:
    step = next(step for step in words.explain(sql).steps if step.table)
    assert (step.reading, step.reads_whole_table) == (reading, whole)


def test_every_kind_of_step_is_read(made: Made) -> None:
    planner = made(
        """
        CREATE TABLE a (id INTEGER PRIMARY KEY, x, y, z); CREATE INDEX ax ON a (x); CREATE INDEX ay ON a (y);
        CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
        CREATE VIEW v AS SELECT q.x AS vx FROM a AS q WHERE q.z = 1;
        CREATE VIRTUAL TABLE f USING fts5 (t); CREATE VIRTUAL TABLE f4 USING "fts4" (t);
        CREATE VIRTUAL TABLE r USING rtree (id, x1, x2);
        CREATE TABLE e (id INTEGER PRIMARY KEY, t); CREATE INDEX el ON e (lower(t));
        """
    )
    said = {
        "SELECT * FROM a WHERE x = ?": "finds rows of a by the index ax (x = ?)",
        "SELECT x FROM a WHERE x > ? AND x <= ?": "finds rows of a by the index ax alone (x > ? AND x < ?)",
        "SELECT x FROM a": "reads all 0 rows of a from the index ax alone",
        "SELECT max(x) FROM a": "looks at one end of the index ax of a",
        "SELECT max(z) FROM a WHERE id > 5 AND z > ?": "finds rows of a by rowid (rowid > ?)",
        "SELECT max(z) FROM a WHERE z <> ?": "reads all 0 rows of a",
        "SELECT * FROM a ORDER BY x": "reads all 0 rows of a in the order of ax",
        "SELECT * FROM w WHERE k = ?": "finds rows of w by its primary key (k = ?)",
        "SELECT * FROM a WHERE id > ?": "finds rows of a by rowid (rowid > ?)",
        "SELECT * FROM v": "reads all 0 rows of a",
        "SELECT 1": "reads no table",
        "SELECT * FROM a WHERE x = ? OR y = ?": "looks in an index for each side of OR:",
        "SELECT z FROM a GROUP BY z": "sorts for GROUP BY in a temporary B-tree",
        "SELECT DISTINCT z FROM a": "keeps what it has seen in a temporary B-tree, for DISTINCT",
        "SELECT x, z FROM a ORDER BY x, z": "sorts partly, in a temporary B-tree",
        "SELECT z FROM a UNION SELECT v FROM w": "UNION with the next, in a temporary B-tree:",
        "SELECT z FROM a UNION ALL SELECT v FROM w": "and all rows of the next:",
        "SELECT z FROM a UNION ALL SELECT v FROM w ORDER BY 1": "merges two sorted SELECTs (UNION ALL):",
        "SELECT * FROM w WHERE v IN (SELECT z FROM a)": "makes a list once:",
        "SELECT * FROM w WHERE v = (SELECT max(z) FROM a)": "runs a subquery once:",
        "SELECT * FROM sqlite_master": "reads all rows of sqlite_master",
        "SELECT * FROM json_each(?)": "asks the virtual table json_each",
        "INSERT INTO a (x) VALUES (?)": "reads no table",
        "SELECT * FROM f": "reads all rows of f",
        "SELECT * FROM f WHERE f MATCH ? ORDER BY rank LIMIT 3": "searches the full-text table f",
        "SELECT * FROM f4 WHERE f4 MATCH ?": "searches the full-text table f4",
        "SELECT * FROM r WHERE x1 > ?": "finds rows of r by their bounds",
        "SELECT row_number() OVER (ORDER BY z) FROM a": "runs a subquery row by row:",
        "SELECT rank() OVER (ORDER BY z) FROM a": "reads all rows of a subquery",
        "SELECT count(DISTINCT z) FROM a": "keeps what it has seen in a temporary B-tree, for count(DISTINCT)",
        "SELECT * FROM a LEFT JOIN w ON w.k = a.z": (
            "finds rows of w by its primary key (k = ?) for each row found so far, keeping rows without a match"
        ),
        "SELECT * FROM e WHERE lower(t) = ?": "finds rows of e by the index el (expression = ?)",
        "SELECT * FROM a WHERE z IN (SELECT id FROM e)": "looks into e by rowid, for IN",
        "SELECT * FROM a WHERE z IN (SELECT x FROM a)": "looks into the index ax, for IN",
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT 5) SELECT * FROM r": (
            "rows from the rows before:"
        ),
    }
    for sql, reading in said.items():
        found = [text.replace("sqlite_schema", "sqlite_master") for text in readings(planner.explain(sql))]
        assert any(text.startswith(reading) for text in found), (sql, found)


def test_an_index_whose_first_column_is_skipped_over_says_so(made: Made) -> None:
    planner = made(
        """
        CREATE TABLE t (g, v, w); CREATE INDEX tgv ON t (g, v);
        WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO t SELECT i % 3, i, 0 FROM n;
        ANALYZE
        """
    )
    (step,) = planner.explain("SELECT * FROM t WHERE v = ?").steps
    assert step.reading == "finds rows of t by the index tgv, once for each value of g (v = ?)"
    # As little as if it had looked for g alone.
    assert (step.index, step.finds, step.reads_whole_table) == ("tgv", 3_000, False)


def test_another_name_of_what_the_plan_computes_is_no_table(words: SQLitePlanner) -> None:
    plan = words.explain("WITH q AS MATERIALIZED (SELECT * FROM note) SELECT * FROM q, q AS again")
    assert [step.table for step in plan.steps if step.reads_whole_table] == ["note"]


@pytest.mark.parametrize(
    ("detail", "reading"),
    [
        ("BLOOM FILTER ON b (aid=?)", "skips rows early that match nothing in b, by a Bloom filter"),
        ("CREATE BLOOM FILTER", "notes them in a Bloom filter, to skip rows early"),
        ("RIGHT-JOIN b", "then the rows of b without a match:"),
        ("SCAN 2-ROW VALUES CLAUSE", "reads no table"),
        ("USE TEMP B-TREE FOR string_agg(ORDER BY)", "sorts for string_agg() in a temporary B-tree"),
        ("USE TEMP B-TREE FOR LAST TERM OF ORDER BY", "sorts partly, in a temporary B-tree"),
        ("SEARCH b EXISTS USING AUTOMATIC PARTIAL COVERING INDEX (aid=?)",
         "builds an automatic index over all ~5,000 rows of b on each run (aid = ?), one match is enough"),
        ("SCAN b EXISTS USING COVERING INDEX by",
         "reads all ~5,000 rows of b from the index by alone, one match is enough"),
        ("SEARCH b USING COVERING INDEX by (y=?) LEFT-JOIN",
         "finds rows of b by the index by alone (y = ?), keeping rows without a match"),
        ("MATERIALIZE (join-3)", "computes a subquery once and keeps it:"),
        ("SCAN (join-3)", "reads all rows of a subquery"),
        ("REUSE LIST SUBQUERY 1", "uses what was made before"),
        ("SCAN f VIRTUAL TABLE INDEX 0:=", "asks the virtual table f"),
        # As before 3.36:
        ("SCAN TABLE b AS x USING COVERING INDEX by", "reads all ~5,000 rows of b from the index by alone"),
        ("SCAN SUBQUERY 2", "reads all rows of a subquery"),
        # What no version that we know of says:
        ("BEND THE SPOON", "bend the spoon"),
    ],
)  # fmt: skip
def test_lines_of_other_versions_are_read(detail: str, reading: str) -> None:
    """As SQLite 3.54.1 and 3.31 write them; the version at hand may not."""
    names = Names(
        aliases={"b": {"b"}, "f": {"f"}}, indexes={"by": "b"}, spelled={}, shares={},
        rows=lambda table: (5000, "~5,000") if table == "b" else None, modules={"f": "fts5"},
    )  # fmt: skip
    (step,) = read_plan([(1, 0, detail)], names, "everything")
    assert step.reading == reading


def test_a_bloom_filter_beside_the_first_table_does_not_keep_a_limit_from_ending_it() -> None:
    lines = [(1, 0, "SCAN a"), (2, 0, "BLOOM FILTER ON b (x=?)"), (3, 0, "SEARCH b USING AUTOMATIC INDEX (x=?)")]
    assert how_far("SELECT * FROM a, b WHERE a.x = b.x LIMIT 5", lines) == "until enough"
    assert how_far("SELECT * FROM a, b WHERE a.x = b.x LIMIT 5", [*lines, (4, 0, "USE TEMP B-TREE FOR ORDER BY")]) == (
        "everything"
    )


def test_a_name_defined_by_with_is_not_taken_for_the_table_it_hides(words: SQLitePlanner) -> None:
    plan = words.explain(
        "WITH RECURSIVE x (n) AS (SELECT 1), word AS MATERIALIZED (SELECT * FROM note) SELECT * FROM word a JOIN word b"
    )
    assert {step.table for step in plan.steps if step.reads_whole_table} <= {"note", None}
    plan = words.explain("SELECT * FROM word WHERE id IN (WITH note AS (SELECT 1 AS i) SELECT i FROM note x)")
    assert "note" not in {step.table for step in plan.steps}


def test_an_alias_that_means_two_tables_is_not_guessed(words: SQLitePlanner) -> None:
    plan = words.explain("SELECT x.id FROM word x UNION ALL SELECT x.id FROM note x")
    assert [step.table for step in plan.steps if step.reads_whole_table] == [None, None]


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT * FROM word WHERE id = ?", ()),
        ("SELECT * FROM word WHERE id = ? AND lang = ?", ()),
        ("SELECT * FROM word WHERE id = :id AND lang = @lang", ()),
        ("SELECT * FROM word WHERE id = ?1 AND lang = ?1", ()),
        ("SELECT * FROM word WHERE id = :id", {"id": 1}),
        ("-- said\nSELECT * FROM word WHERE id = ?;", [1]),
    ],
)
def test_placeholders_need_no_values(words: SQLitePlanner, sql: str, parameters: object) -> None:
    assert words.explain(sql, parameters).steps[0].reading == "finds rows of word by rowid (rowid = ?)"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("PRAGMA journal_mode = DELETE", ()),
        ("", ()),
        ("SELECT", ()),
        ("SELECT * FROM nowhere", ()),
        ("SELECT 1; SELECT 2", ()),
        ("SELECT ?", (1, 2)),
        ("SELECT ?", (object(),)),
        ("SELECT ?", (2**70,)),
        ("SELECT '\udcff'", ()),
        ("SELECT '\x00'", ()),
    ],
)
def test_what_can_not_be_explained_says_why_and_raises_nothing(
    words: SQLitePlanner, sql: str, parameters: tuple[object, ...]
) -> None:
    plan = words.explain(sql, parameters)
    assert plan.problem.startswith("not explainable: ")
    assert plan.steps == ()
    if not parameters:
        assert words.trial(sql, []).problem


def test_writes_are_explained_and_change_nothing(words: SQLitePlanner) -> None:
    assert words.explain("DELETE FROM note WHERE body = ?").steps[0].reads_whole_table
    assert words.explain("UPDATE note SET body = ? WHERE id = ?").steps[0].table == "note"
    assert words.tables()["note"].rows == 600


def test_functions_and_collations_of_the_app_make_a_statement_not_explainable(made: Made) -> None:
    planner = made(
        """
        CREATE TABLE t (a, b TEXT COLLATE app_order, g AS (app_rank(a)), c);
        CREATE INDEX tg ON t (app_rank(a)); CREATE INDEX tb ON t (b);
        CREATE VIEW ranked AS SELECT app_rank(a) FROM t;
        CREATE TABLE plain (a, b);
        """
    )
    only_there = "exists only on the app's own connections"
    assert planner.explain("SELECT * FROM ranked").problem == (f"not explainable: the function app_rank {only_there}")
    assert planner.explain("SELECT b FROM t ORDER BY b").problem == (
        f"not explainable: the collation app_order {only_there}"
    )
    assert planner.explain("SELECT g FROM t").problem
    assert planner.trial("SELECT * FROM ranked", []).problem.endswith(only_there)
    # What does not need them is still explained, and tried.
    assert planner.explain("SELECT c FROM t WHERE c = ?").steps[0].table == "t"
    assert planner.tables()["t"].columns == ("a", "b", "g", "c")
    plan = planner.trial("SELECT * FROM plain WHERE a = ?", ["CREATE INDEX px ON plain (a)"])
    assert plan.steps[0].index == "px"
