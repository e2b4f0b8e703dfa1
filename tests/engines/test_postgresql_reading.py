"""PostgreSQL's plans as people read them, from real servers, an older and the newest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from flask_dbopt.engines.postgresql.conditions import condition, listed
from flask_dbopt.engines.postgresql.planner import PostgreSQLPlanner
from flask_dbopt.engines.protocol import Step
from tests.postgres import PostgresServer

SCHEMA = """
    CREATE TABLE word (id bigint PRIMARY KEY, lang text NOT NULL, text varchar, freq int, data jsonb);
    INSERT INTO word SELECT n, 'l' || n % 400, 'w' || n, n % 1000 FROM generate_series(1, 40000) AS n;
    CREATE INDEX word_lang ON word (lang);
    CREATE INDEX word_freq ON word (freq);
    CREATE TABLE click (id int PRIMARY KEY, word_id bigint, at timestamptz NOT NULL DEFAULT now());
    INSERT INTO click (id, word_id) SELECT n, n FROM generate_series(1, 600) AS n;
    CREATE TABLE visit (id int, day date) PARTITION BY RANGE (day);
    CREATE TABLE visit_2024 PARTITION OF visit FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE place (at point); CREATE INDEX place_at ON place USING gist (at);
    INSERT INTO place SELECT point(n, n) FROM generate_series(1, 5000) AS n;
    CREATE VIEW words AS SELECT * FROM word;
    VACUUM ANALYZE
"""
ALONE = "max_parallel_workers_per_gather=0"
TOGETHER = (
    "max_parallel_workers_per_gather=2 parallel_setup_cost=0 parallel_tuple_cost=0 min_parallel_table_scan_size=0"
)

Explain = Callable[..., tuple[Step, ...]]


@pytest.fixture(scope="module", params=["newest", "16"])
def explain(request: pytest.FixtureRequest) -> Explain:
    """Explains with server settings of the test's choice."""
    server: PostgresServer = request.getfixturevalue("postgres" if request.param == "newest" else "postgres_16")
    name = server.new_database()
    with server.connect(name, autocommit=True) as connection:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)

    def explain(sql: str, settings: str = ALONE) -> tuple[Step, ...]:
        options = " ".join(f"-c {setting}" for setting in settings.split())
        plan = PostgreSQLPlanner(lambda: server.connect(name, options=options)).explain(sql)
        assert not plan.problem
        return plan.steps

    return explain


def readings(steps: tuple[Step, ...]) -> list[str]:
    return [step.reading for step in steps]


def test_a_table_read_whole_is_said_with_its_rows_and_what_is_kept(explain: Explain) -> None:
    (step,) = explain("SELECT * FROM word AS w WHERE text = ?")
    assert step.reading == "reads all ~40,000 rows of word, keeps about 1 (text = ?)"
    assert (step.table, step.rows, step.reads_whole_table, step.index) == ("word", 40_000, True, None)
    assert step.detail == "Seq Scan on word w  (rows=1)"
    (step,) = explain("SELECT * FROM click")
    assert step.reading == "reads all 600 rows of click"


@pytest.mark.parametrize(
    ("sql", "reading", "whole"),
    [
        ("SELECT * FROM word LIMIT 5", "reads rows of word, as many as LIMIT wants", False),
        (
            "SELECT * FROM word WHERE text = ? LIMIT 5",
            "reads rows of word (text = ?), until as many as LIMIT wants are found",
            True,
        ),
        ("SELECT * FROM (SELECT * FROM word OFFSET 0) s LIMIT 5", "reads rows of word, as many as LIMIT wants", False),
        ("SELECT count(*) FROM word WHERE text > ? LIMIT 5", "reads all ~40,000 rows of word, keeps", True),
        ("SELECT * FROM word ORDER BY text LIMIT 5", "reads all ~40,000 rows of word", True),
        (
            "SELECT id FROM word ORDER BY id LIMIT 5",
            "reads rows of word from the index word_pkey alone, as many as LIMIT wants",
            False,
        ),
        (
            "SELECT * FROM word WHERE id > ? ORDER BY id LIMIT 5",
            "finds rows of word by the index word_pkey (id > ?), as many as LIMIT wants",
            False,
        ),
    ],
)
def test_a_limit_ends_a_scan_early_where_nothing_gathers_rows(
    explain: Explain, sql: str, reading: str, whole: bool
) -> None:
    step = next(step for step in explain(sql) if step.table)
    assert step.reading.startswith(reading)
    assert step.reads_whole_table == whole
    assert step.may_stop == ("LIMIT" in reading)


def test_what_an_index_finds_is_told_as_the_planner_reckons(explain: Explain) -> None:
    (step,) = explain("SELECT * FROM word WHERE id = ?")
    assert step.reading == "finds about 1 row of word by the index word_pkey (id = ?)"
    assert (step.index, step.finds, step.covering, step.reads_whole_table) == ("word_pkey", 1, False, False)
    (step,) = explain("SELECT * FROM word WHERE id = ? AND lang <> ?", f"{ALONE} enable_bitmapscan=off")
    assert step.reading == "finds rows of word by the index word_pkey (id = ?), keeps about 1 (lang <> ?)"
    assert step.finds is None
    (step,) = explain("SELECT id FROM word WHERE id < 500", f"{ALONE} enable_bitmapscan=off")
    assert re.fullmatch(r"finds about \d+ rows of word by the index word_pkey alone \(id < 500\)", step.reading)
    assert step.covering
    (step,) = explain("SELECT * FROM word ORDER BY id DESC", f"{ALONE} enable_sort=off")
    assert step.reading == "reads all ~40,000 rows of word in the order of word_pkey"
    assert "Backward" in step.detail


def test_a_bitmap_looks_up_first_and_fetches_then(explain: Explain) -> None:
    steps = explain("SELECT * FROM word WHERE lang = ?", f"{ALONE} enable_indexscan=off")
    assert readings(steps) == [
        "fetches about 100 rows of word in the order in which they lie:",
        "looks up about 100 rows of word in the index word_lang (lang = ?)",
    ]
    assert (steps[1].table, steps[1].index, steps[1].finds) == ("word", "word_lang", 100)
    both = explain("SELECT * FROM word w WHERE lang = ? OR id = ?", f"{ALONE} enable_seqscan=off")
    assert [step.index for step in both] == [None, None, "word_lang", "word_pkey"]
    assert both[1].reading == "puts together what these note:"
    both = explain("SELECT * FROM word WHERE lang = ? AND freq = ?", f"{ALONE} enable_seqscan=off enable_indexscan=off")
    assert any(step.reading == "keeps what all of these note:" for step in both)


def test_sorts_say_by_what_and_how_many(explain: Explain) -> None:
    steps = explain("SELECT * FROM word ORDER BY text, length(lang) DESC")
    assert steps[0].reading == "sorts about 40,000 rows by text, length(lang) DESC"
    assert [step.sorts for step in steps] == [True, False]
    steps = explain("SELECT * FROM word ORDER BY text LIMIT 5")
    assert readings(steps)[:2] == [
        "stops at the LIMIT:",
        "sorts about 40,000 rows by text, keeping only what LIMIT wants",
    ]
    steps = explain("SELECT * FROM word ORDER BY freq, text LIMIT 5", f"{ALONE} enable_sort=off enable_seqscan=off")
    assert (
        steps[1].reading == "sorts rows by freq, text, as many as LIMIT wants: they come in the order of freq already"
    )


def test_joins_say_how_and_what_runs_again(explain: Explain) -> None:
    inner = "SELECT * FROM click c JOIN word w ON w.id = c.word_id"
    steps = explain(inner, f"{ALONE} enable_hashjoin=off enable_mergejoin=off enable_memoize=off")
    assert readings(steps) == [
        "joins row by row:",
        "reads all 600 rows of click",
        "finds about 1 row of word by the index word_pkey (id = c.word_id) for each row found so far",
    ]
    assert [step.depth for step in steps] == [0, 1, 1]
    steps = explain(inner, f"{ALONE} enable_nestloop=off enable_mergejoin=off")
    assert readings(steps) == [
        "joins by a hash table (w.id = c.word_id):",
        "reads all ~40,000 rows of word",
        "fills a hash table with:",
        "reads all 600 rows of click",
    ]
    steps = explain(inner, f"{ALONE} enable_nestloop=off enable_hashjoin=off")
    assert steps[0].reading.startswith("joins two sides that come in order (")
    whole = next(step for step in steps if step.table == "word")
    assert whole.reading == "reads rows of word in the order of word_pkey, until the other side of the join ends"
    assert whole.may_stop
    steps = explain("SELECT * FROM click a JOIN click b ON a.at < b.at", f"{ALONE} enable_memoize=off")
    assert readings(steps)[0] == "joins row by row (a.at < b.at):"
    assert readings(steps)[2:] == ["keeps rows to read them again:", "reads all 600 rows of click"]
    steps = explain(inner.replace("JOIN", "LEFT JOIN"), f"{ALONE} enable_mergejoin=off enable_nestloop=off")
    assert "keeping rows without a match" in steps[0].reading
    assert steps[0].detail.startswith("Hash ")
    steps = explain(
        "SELECT * FROM click c WHERE NOT EXISTS (SELECT 1 FROM word w WHERE w.id = c.word_id AND w.text = ?)",
        f"{ALONE} enable_mergejoin=off enable_nestloop=off",
    )
    assert "keeping only rows without a match" in steps[0].reading


def test_subqueries_say_how_often_they_run(explain: Explain) -> None:
    steps = explain("SELECT text, (SELECT count(*) FROM click c WHERE c.word_id = w.id) FROM word w WHERE id = ?")
    assert readings(steps) == [
        "finds about 1 row of word by the index word_pkey (id = ?):",
        "runs a subquery again for each row:",
        "makes one row of all:",
        "reads all 600 rows of click each time, keeps about 1 (word_id = w.id)",
    ]
    assert [step.depth for step in steps] == [0, 1, 2, 3]
    steps = explain("SELECT * FROM word WHERE id NOT IN (SELECT word_id FROM click)")
    assert readings(steps)[1:] == ["makes a list once:", "reads all 600 rows of click"]
    steps = explain("SELECT * FROM word WHERE freq = (SELECT max(length(text)) FROM word)")
    assert "runs a subquery once:" in readings(steps)
    steps = explain("WITH x AS MATERIALIZED (SELECT * FROM click) SELECT * FROM x WHERE id = ?")
    assert readings(steps)[0].startswith("reads what x holds, keeps about ")
    assert readings(steps)[1:] == [
        "computes x once and keeps it:",
        "reads all 600 rows of click",
    ]
    assert {step.table for step in steps} == {None, "click"}


def test_several_processes_share_a_scan_and_its_figures_are_theirs_together(explain: Explain) -> None:
    steps = explain("SELECT lang, count(*) FROM word WHERE freq < 900 GROUP BY lang", TOGETHER)
    words = readings(steps)
    assert any(word.startswith("shares the work with 2 more processes") for word in words)
    assert any(word.startswith("each process groups rows by lang, in a hash table") for word in words)
    scan = next(step for step in steps if step.table)
    assert scan.detail.startswith("Parallel ")
    assert "about 36,000" in scan.reading
    assert scan.reads_whole_table


def test_writes_say_what_they_change(explain: Explain) -> None:
    steps = explain("DELETE FROM click WHERE word_id = ?")
    assert readings(steps) == [
        "deletes the rows of click found here:",
        "reads all 600 rows of click, keeps about 1 (word_id = ?)",
    ]
    assert [step.reads_whole_table for step in steps] == [False, True]
    assert steps[0].table == "click"
    said = {
        "UPDATE click SET at = now() WHERE id = ?": "changes the rows of click found here:",
        "INSERT INTO click (id) VALUES (?)": "inserts into click:",
        "INSERT INTO click (id) VALUES (?) ON CONFLICT DO NOTHING": "inserts into click, unless it is there already:",
        "MERGE INTO click c USING word w ON w.id = c.word_id WHEN MATCHED THEN DELETE": "merges into click:",
    }
    for sql, reading in said.items():
        assert explain(sql)[0].reading == reading


def test_every_other_kind_of_step_is_read(explain: Explain) -> None:
    said = {
        "SELECT 1": "reads no table",
        "SELECT ? LIMIT ?": "stops at the LIMIT:",
        "SELECT * FROM words WHERE id = ?": "finds about 1 row of word by the index word_pkey (id = ?)",
        "VALUES (?), (?)": "reads a list of values",
        "SELECT * FROM generate_series(1, ?) g WHERE g > ?": "reads what generate_series() gives, keeps about ",
        "SELECT generate_series(1, ?)": "makes several rows of one:",
        "SELECT DISTINCT lang FROM word": "groups rows by lang, in a hash table:",
        "SELECT lang FROM word GROUP BY lang HAVING count(*) > ?": "groups rows by lang, in a hash table, keeps about ",
        "SELECT lang, freq FROM word GROUP BY GROUPING SETS ((lang), (freq))": "groups rows by several sets of columns",
        "SELECT row_number() OVER (ORDER BY freq) FROM word": "computes window functions over rows in order:",
        "SELECT id FROM click UNION ALL SELECT id FROM word": "one after the other:",
        "SELECT id FROM visit WHERE day = ?": "one after the other",
        "SELECT id FROM click EXCEPT SELECT id FROM word": "EXCEPT of the two:",
        "SELECT * FROM click FOR UPDATE": "locks each row for itself:",
        "SELECT * FROM click WHERE ctid = ?": "finds about 1 row of click by where they lie",
        "SELECT * FROM click TABLESAMPLE system (10)": "reads a sample: about 60 rows of click",
        "SELECT * FROM place ORDER BY at <-> point(1, 1) LIMIT 3": (
            "reads rows of place, the nearest first, by the index place_at alone, as many as LIMIT wants"
        ),
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION SELECT n + 1 FROM r WHERE n < ?) SELECT * FROM r": (
            "goes on until no new rows are found:"
        ),
        "SELECT * FROM (SELECT id, row_number() OVER () AS n FROM click) s WHERE n % 2 = ?": "takes the rows of s,",
        "SELECT n FROM (SELECT 1 AS n WHERE ?::int > 1) s": "reads no table",
        "SELECT * FROM click WHERE now() > ?": "passes rows on:",
        "SELECT * FROM ROWS FROM (generate_series(1, 2), generate_series(1, 3)) AS two": "reads what two() gives",
        "SELECT * FROM XMLTABLE('/a' PASSING (?::xml) COLUMNS b int) x": "reads what xmltable() gives",
    }
    for sql, reading in said.items():
        assert any(text.startswith(reading) for text in readings(explain(sql))), (sql, readings(explain(sql)))
    ordered = f"{ALONE} enable_hashagg=off"
    assert "drops rows that repeat the one before:" in readings(explain("SELECT DISTINCT text FROM word", ordered))
    assert "groups rows as they come in order:" in readings(explain("SELECT text FROM word GROUP BY text", ordered))
    assert "groups rows by text, as they come in order:" in readings(
        explain("SELECT text, count(*) FROM word GROUP BY text", ordered)
    )
    steps = explain("SELECT freq FROM word UNION ALL SELECT freq FROM word ORDER BY 1", f"{ALONE} enable_sort=off")
    assert steps[0].reading == "merges what comes in order:"
    steps = explain(
        "SELECT * FROM word a JOIN word b ON b.id = a.freq",
        f"{ALONE} enable_hashjoin=off enable_mergejoin=off enable_material=off",
    )
    assert any(text.startswith("remembers what it found for each a.freq") for text in readings(steps))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("((text)::text = ($1)::text)", "text = ?"),
        ("((w.lang = 'a::b (c'::text) AND (w.freq > $2))", "lang = 'a::b (c' AND freq > ?"),
        ("((w.lang = $1) OR ((w.freq > 1) AND (w.freq < 5)))", "lang = ? OR (freq > 1 AND freq < 5)"),
        ("(w.at > '2024-01-01 00:00:00+00'::timestamp with time zone)", "at > '2024-01-01 00:00:00+00'"),
        ("((w.text ~~ 'a%'::text) AND ((w.text)::text !~~* $1))", "text LIKE 'a%' AND text NOT ILIKE ?"),
        ("((other.x = w.x) AND (w.n = ANY (($1)::integer[])))", "other.x = x AND n = ANY (?)"),
        ("((w.n)::numeric = 1.5)", "(n)::numeric = 1.5"),
        ("((w.n % '2'::bigint) = '-1.5'::numeric)", "(n % 2) = -1.5"),
        ("(" + "w.n = 1 OR " * 40 + "w.n = 2)", None),
    ],
)
def test_conditions_are_written_as_people_write_them(written: str, read: str | None) -> None:
    found = condition({"Filter": written, "Alias": "w"}, "Filter")
    assert found == read if read else (len(found) == 120 and found.endswith("…"))


def test_a_long_list_of_columns_is_cut() -> None:
    keys: dict[str, Any] = {"Sort Key": [f"t.a_column_with_a_name_{number}" for number in range(20)]}
    assert listed(keys, "Sort Key").endswith("…")
    assert listed({"Sort Key": ["a.x", "b.y DESC"]}, "Sort Key") == "a.x, b.y DESC"
