"""Quick row counts, trials that agree with the database, and indexes built."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest import mock

import pyproj
import pytest

from flask_dbopt.engines.protocol import Plan
from flask_dbopt.engines.sqlite import planner as module
from flask_dbopt.engines.sqlite.planner import SQLitePlanner
from flask_dbopt.errors import AdviceError, DatabaseUnavailable

PROJ = Path(pyproj.datadir.get_data_dir()) / "proj.db"

Made = Callable[[str], SQLitePlanner]


def readings(plan: Plan) -> list[str]:
    assert not plan.problem
    return [step.reading for step in plan.steps]


# --- tables and their rows --------------------------------------------------------------------------------


def test_small_tables_are_counted_and_large_ones_estimated(words: SQLitePlanner) -> None:
    tables = words.tables()
    assert list(tables) == ["word", "note"]
    assert len(tables) == 2
    assert tables["note"].rows == 600
    assert tables["word"].rows == 120_000
    assert [table.rows for table in tables.values()] == [120_000, 600]
    assert dict(tables.items())["note"] == tables["note"]
    with pytest.raises(KeyError):
        tables["nowhere"]


@pytest.mark.parametrize("gap", ["id * 1000", "id * id", "id + (id > 10000) * (1 << 60)", "id % 2 * (1 << 40) + id"])
def test_rowids_with_gaps_are_estimated_to_the_order_of_magnitude(made: Made, gap: str) -> None:
    planner = made(
        f"""
        CREATE TABLE t (id INTEGER PRIMARY KEY, x);
        WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n LIMIT 20000)
        INSERT INTO t SELECT {gap}, 1 FROM n;
        """
    )
    assert 6_000 < planner.tables()["t"].rows < 60_000


def test_counting_a_large_table_reads_a_bounded_part_of_it(words: SQLitePlanner) -> None:
    steps = itertools.count()
    real = sqlite3.connect

    def counted(*arguments: object, **keywords: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*arguments, **keywords)  # type: ignore[call-overload]
        connection.set_progress_handler(lambda: next(steps) and None, 100)
        return connection

    with mock.patch.object(module.sqlite3, "connect", counted):
        assert SQLitePlanner(words.path).tables()["word"].rows == 120_000
    assert next(steps) * 100 < 60_000  # a count(*) of the table would take 360,000


def test_a_table_without_rowid_is_walked_so_far_or_taken_from_statistics(made: Made) -> None:
    script = """
        CREATE TABLE t (k INTEGER PRIMARY KEY, v) WITHOUT ROWID;
        WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n LIMIT {rows})
        INSERT INTO t SELECT id, id % 10 FROM n;
    """
    planner = made(script.format(rows=100_500))
    assert planner.tables()["t"].rows == 100_000
    assert readings(planner.explain("SELECT * FROM t WHERE v = ?")) == ["reads all 100,000+ rows of t"]
    with closing(sqlite3.connect(planner.path)) as connection:
        connection.execute("ANALYZE")
    assert readings(SQLitePlanner(planner.path).explain("SELECT * FROM t WHERE v = ?")) == [
        "reads all ~100,000 rows of t"
    ]
    plan = planner.trial("SELECT * FROM t WHERE v = ?", ["CREATE INDEX tv ON t (v)"])
    assert plan.steps[0].index == "tv"


def test_counts_are_kept_for_a_minute(made: Made) -> None:
    now = [1000.0]
    path = made("CREATE TABLE t (x); INSERT INTO t VALUES (1)").path
    planner = SQLitePlanner(path, clock=lambda: now[0])
    assert planner.tables()["t"].rows == 1
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        connection.commit()
    assert planner.tables()["t"].rows == 1
    now[0] += 61
    assert planner.tables()["t"].rows == 2
    now[0] -= 500  # a clock that goes backwards keeps nothing for ever
    assert planner.tables()["t"].rows == 2


def test_a_changed_or_replaced_database_is_read_anew(made: Made, tmp_path: Path) -> None:
    planner = made("CREATE TABLE t (x)")
    assert list(planner.tables()) == ["t"]
    with closing(sqlite3.connect(planner.path)) as connection:
        connection.execute("CREATE TABLE u (y)")
    assert list(planner.tables()) == ["t", "u"]
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.executescript("CREATE TABLE a (x); CREATE TABLE b (x)")
    other.replace(planner.path)
    assert list(planner.tables()) == ["a", "b"]


def test_odd_names_reserved_words_and_odd_tables_work(made: Made) -> None:
    planner = made(
        """
        CREATE TABLE "order" ("select" TEXT, "a b" TEXT, rowid TEXT, "ü" TEXT);
        CREATE TABLE "odd ""name USING x" (id INTEGER PRIMARY KEY, "from" TEXT);
        CREATE TABLE taken (rowid, _rowid_, oid);
        CREATE TABLE g (a INTEGER, twice INTEGER AS (a * 2) STORED, thrice AS (a * 3));
        CREATE INDEX gx ON g (a * 5); CREATE INDEX gp ON g (a) WHERE a > 3;
        CREATE VIRTUAL TABLE f USING fts5 (body); INSERT INTO f VALUES ('hello');
        CREATE VIRTUAL TABLE r USING rtree (id, x0, x1);
        CREATE TABLE s (a INTEGER PRIMARY KEY AUTOINCREMENT, b UNIQUE) STRICT;
        """.replace("b UNIQUE) STRICT", "b ANY UNIQUE) STRICT")
    )
    tables = planner.tables()
    assert list(tables) == ["order", 'odd "name using x', "taken", "g", "s"]
    assert tables["order"].columns == ("select", "a b", "rowid", "ü")
    assert tables["g"].columns == ("a", "twice", "thrice")
    assert [(index.name, index.columns, index.partial) for index in tables["g"].indexes] == [
        ("gp", ("a",), True),
        ("gx", (None,), False),
    ]
    assert [(index.unique, index.sql) for index in tables["s"].indexes] == [(True, None)]
    assert all(table.rows == 0 for table in tables.values())
    assert readings(planner.explain('SELECT * FROM "odd ""name USING x" WHERE "from" = ?')) == [
        'reads all 0 rows of odd "name USING x'
    ]
    assert readings(planner.explain("SELECT * FROM f WHERE f MATCH ?")) == ["searches the full-text table f"]
    tried = {
        'SELECT * FROM "order" WHERE "select" = ?': 'CREATE INDEX i ON "order" ("select")',
        "SELECT * FROM g WHERE twice = ?": "CREATE INDEX i ON g (twice)",
        "SELECT * FROM g WHERE thrice = ?": "CREATE INDEX i ON g (thrice)",
        "SELECT * FROM g WHERE a * 7 = ?": "CREATE INDEX i ON g (a * 7)",
        "SELECT * FROM taken WHERE rowid = ?": "CREATE INDEX i ON taken (rowid)",
        "SELECT * FROM f, s WHERE s.b = f.body AND f.f MATCH ?": "CREATE INDEX i ON s (b)",
    }
    for sql, index in tried.items():
        assert planner.trial(sql, []).steps == planner.explain(sql).steps
        assert not planner.trial(sql, [index]).problem, sql
        assert "i" in {step.index for step in planner.trial(sql, [index]).steps} or "s.b" in sql
    assert planner.trial("SELECT * FROM f", ["CREATE INDEX i ON f (body)"]).problem


# --- the clone --------------------------------------------------------------------------------------------


def test_plans_on_the_clone_are_those_of_a_real_database() -> None:
    planner = SQLitePlanner(PROJ)
    compared = 0
    with closing(sqlite3.connect(f"{PROJ.as_uri()}?mode=ro", uri=True)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
        for (name,) in names:
            columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')]
            if name.startswith("sqlite_"):
                continue
            for column in columns[:2] + columns[-1:]:
                sql = f'SELECT * FROM "{name}" WHERE "{column}" = ? ORDER BY "{columns[0]}"'
                plan = planner.explain(sql)
                assert plan.steps
                assert planner.trial(sql, []) == plan
                compared += 1
    assert compared > 100


def test_a_trial_on_a_real_database_shows_the_index_at_work() -> None:
    planner = SQLitePlanner(PROJ)
    sql = "SELECT * FROM alias_name WHERE alt_name = ?"
    (reading,) = readings(planner.explain(sql))
    assert re.fullmatch(r"reads all ~\d\d,\d00 rows of alias_name", reading), "how many is pyproj's affair"
    (step,) = planner.trial(sql, ["CREATE INDEX ix ON alias_name (alt_name)"]).steps
    assert step.reading == "finds rows of alias_name by the index ix (alt_name = ?)"
    assert step.finds == 1


def test_a_trial_estimates_how_many_rows_a_look_up_finds(words: SQLitePlanner) -> None:
    (step,) = words.trial("SELECT * FROM word WHERE lang = ?", ["CREATE INDEX ix ON word (lang)"]).steps
    assert step.finds == 15_000
    (step,) = words.trial("SELECT * FROM word WHERE text = ?", ["CREATE INDEX ix ON word (text)"]).steps
    assert step.finds is not None
    assert step.finds <= 8  # in truth 2
    (step,) = words.trial("SELECT lang FROM word WHERE lang = ?", ["CREATE INDEX ix ON word (lang)"]).steps
    assert step.covering


def test_a_trial_leaves_the_database_alone(words: SQLitePlanner) -> None:
    with closing(sqlite3.connect(words.path)) as connection:
        before = connection.execute("PRAGMA schema_version").fetchone()
        for _ in range(2):
            words.trial("SELECT * FROM word WHERE text = ?", ["CREATE INDEX ix ON word (text)"])
        assert connection.execute("PRAGMA schema_version").fetchone() == before
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'index'").fetchone() == (0,)


def test_a_clone_is_built_anew_where_the_library_can_not_copy_one(words: SQLitePlanner) -> None:
    class Old(sqlite3.Connection):
        def __getattribute__(self, name: str) -> object:
            if name in {"serialize", "deserialize"}:
                raise AttributeError(name)
            return super().__getattribute__(name)

    planner, real = SQLitePlanner(words.path), sqlite3.connect
    with mock.patch.object(sqlite3, "connect", lambda *a, **k: real(*a, **k, factory=Old)):
        for _ in range(2):
            plan = planner.trial("SELECT * FROM word WHERE text = ?", ["CREATE INDEX ix ON word (text)"])
            assert plan.steps[0].index == "ix"


# --- building an index ------------------------------------------------------------------------------------


def test_a_created_index_is_there_analyzed_and_used_as_the_trial_said(made: Made) -> None:
    planner = made(
        """
        CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT, pad TEXT);
        WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n LIMIT 20000)
        INSERT INTO t SELECT id, 'x' || (id % 5000), 'pad' FROM n;
        """
    )
    sql, index = "SELECT * FROM t WHERE x = ?", "CREATE INDEX tx ON t (x)"
    tried = planner.trial(sql, [index])
    planner.create(index)
    now = planner.explain(sql)
    assert [step.detail for step in now.steps] == [step.detail for step in tried.steps]
    assert now.steps[0].finds == 4
    assert [each.name for each in planner.tables()["t"].indexes] == ["tx"]


def test_an_index_that_can_not_be_built_leaves_no_trace(made: Made) -> None:
    planner = made("CREATE TABLE t (x); INSERT INTO t VALUES (1), (1); CREATE INDEX tx ON t (x)")
    for sql in (
        "CREATE UNIQUE INDEX i ON t (x)",
        "CREATE INDEX tx ON t (x)",
        "CREATE INDEX i ON t (nowhere)",
    ):
        with pytest.raises(AdviceError, match="not built") as caught:
            planner.create(sql)
        assert caught.value.hint
    with pytest.raises(AdviceError, match="only CREATE INDEX"):
        planner.create("DROP TABLE t")
    assert [each.name for each in planner.tables()["t"].indexes] == ["tx"]


def test_a_locked_database_is_reported_and_not_waited_for_long(made: Made) -> None:
    path = made("CREATE TABLE t (x)").path
    planner = SQLitePlanner(path, timeout=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert planner.explain("SELECT * FROM t").problem == "not explainable: database is locked"
        with pytest.raises(DatabaseUnavailable, match="locked") as caught:
            planner.tables()
        assert "try again" in caught.value.hint
        connection.execute("COMMIT")
        tables = planner.tables()
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            tables["t"]
        connection.execute("COMMIT")


def test_a_writer_in_the_way_of_an_index_is_said(made: Made) -> None:
    path = made("CREATE TABLE t (x)").path
    planner = SQLitePlanner(path, timeout=0.01, build_timeout=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            planner.create("CREATE INDEX i ON t (x)")


@pytest.mark.parametrize("content", [None, b"no database at all, just some text" * 100, "folder"])
def test_what_is_no_database_is_a_clear_error(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "x.db"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    planner = SQLitePlanner(path)
    assert planner.explain("SELECT 1").problem.startswith("not explainable: ")
    assert planner.trial("SELECT 1", []).problem
    with pytest.raises(DatabaseUnavailable, match=r"x\.db"):
        planner.tables()
    assert path.exists() == (content is not None)  # nothing is created by looking


def test_the_planner_keeps_no_file_open_and_leaves_none_behind(made: Made, tmp_path: Path) -> None:
    planner = made("PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
    planner.explain("SELECT * FROM t")
    planner.trial("SELECT * FROM t WHERE x = ?", ["CREATE INDEX i ON t (x)"])
    list(planner.tables().values())
    assert [path.name for path in tmp_path.iterdir()] == ["app.db"]
    assert planner.path.resolve() not in {link.resolve() for link in Path("/proc/self/fd").iterdir()}


def test_a_path_with_odd_characters_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "50% of ? & #.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert list(SQLitePlanner(path).tables()) == ["t"]
