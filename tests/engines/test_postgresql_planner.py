"""A real PostgreSQL explains: every placeholder style, nothing run, nothing held up, and why where it can not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_dbopt.engines.postgresql import planner as planners
from flask_dbopt.engines.postgresql.planner import PostgreSQLPlanner
from flask_dbopt.engines.postgresql.session import server_error
from flask_dbopt.errors import AdviceError, DatabaseUnavailable
from tests.postgres import PostgresServer, postgres_server

SCHEMA = """
    CREATE TABLE word (id bigint PRIMARY KEY, lang text NOT NULL, text varchar, freq real, data jsonb);
    INSERT INTO word SELECT n, 'l' || n % 400, 'w' || n, n % 997 FROM generate_series(1, 40000) AS n;
    CREATE INDEX word_lang ON word (lang) INCLUDE (freq);
    CREATE UNIQUE INDEX word_lower ON word (lower(text)) WHERE freq > 0 AND id < 3;
    CREATE TABLE "Note" (id serial PRIMARY KEY, word_id bigint, body text);
    INSERT INTO "Note" (word_id, body) SELECT n, 'x' FROM generate_series(1, 600) AS n;
    CREATE SCHEMA attic;
    CREATE TABLE attic.word (id int);
    CREATE TABLE attic.chest (id int);
    CREATE FUNCTION surprise() RETURNS int LANGUAGE plpgsql VOLATILE AS
        $$ BEGIN INSERT INTO "Note" (body) VALUES ('ran'); RETURN 1; END $$;
    ANALYZE
"""


@pytest.fixture(scope="module")
def words(postgres: PostgresServer) -> str:
    name = postgres.new_database()
    with postgres.connect(name, autocommit=True) as connection:
        connection.execute(SCHEMA)
    return name


@pytest.fixture
def planner(postgres: PostgresServer, words: str) -> PostgreSQLPlanner:
    return PostgreSQLPlanner(lambda: postgres.connect(words))


@pytest.fixture
def rows(postgres: PostgresServer, words: str) -> Iterator[Callable[[str], list[Any]]]:
    """What a statement gives on a connection of the test's own."""
    with postgres.connect(words, autocommit=True) as connection:
        yield lambda sql: connection.execute(sql).fetchall()


@pytest.mark.parametrize("generic", [True, False], ids=["as on 16 and later", "as before 16"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM word WHERE id = ?",
        "SELECT * FROM word WHERE id = %s",
        "SELECT * FROM word WHERE id = %(id)s::BIGINT AND lang <> %(lang)s::VARCHAR",
        "SELECT * FROM word WHERE id = $1 AND ? IS NOT NULL",
        "SELECT * FROM word WHERE id = :id",
        "SELECT * FROM word WHERE id = 17;",
        "-- said\nSELECT * FROM word WHERE id = ? AND 17 %% 2 = ?",
    ],
)
def test_placeholders_need_no_values(
    planner: PostgreSQLPlanner, monkeypatch: pytest.MonkeyPatch, sql: str, generic: bool
) -> None:
    if not generic:
        monkeypatch.setattr(planners, "GENERIC_PLAN", 10**9)
    plan = planner.explain(sql)
    assert not plan.problem
    step = next(step for step in plan.steps if step.table)
    assert (step.table, step.index, step.rows, step.depth) == ("word", "word_pkey", 40_000, plan.steps.index(step))
    assert step.reading.startswith("finds ")


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT * FROM word WHERE lang = ? AND id % 2 = ?", ("l7", 1)),
        ("SELECT * FROM word WHERE lang = :lang AND id % 2 = %(rest)s", {"lang": "l7", "rest": 1}),
    ],
)
def test_values_are_planned_with(planner: PostgreSQLPlanner, sql: str, values: object) -> None:
    plan = planner.explain(sql, values)  # type: ignore[arg-type]
    assert not plan.problem
    assert "lang = 'l7'" in plan.steps[-1].reading


@pytest.mark.parametrize(
    ("sql", "values", "why"),
    [
        ("SELECT * FROM nowhere", (), 'relation "nowhere" does not exist'),
        ("SELECT FROM WHERE", (), "syntax error"),
        ("SELECT ? + ?", (), "operator is not unique"),
        ("DROP TABLE word", (), "only SELECT"),
        ("SELECT 1; DROP TABLE word", (), "more than one statement"),
        ("SELECT ?", (1, 2), "it has 1 placeholder, given were 2"),
        ("SELECT ?::int", (object(),), "not explainable: cannot adapt type 'object'"),
        ("SELECT '\udcff'", (), "surrogates"),
    ],
)
def test_what_can_not_be_explained_says_why_and_raises_nothing(
    planner: PostgreSQLPlanner, sql: str, values: tuple[object, ...], why: str
) -> None:
    plan = planner.explain(sql, values)
    assert plan.problem.startswith("not explainable: ")
    assert why in plan.problem
    assert plan.steps == ()


def test_writes_and_volatile_functions_are_planned_and_never_run(
    planner: PostgreSQLPlanner, rows: Callable[[str], list[Any]]
) -> None:
    for sql in (
        'DELETE FROM "Note" WHERE body = ?',
        'UPDATE "Note" SET body = ? WHERE id = ?',
        'INSERT INTO "Note" (body) VALUES (?) ON CONFLICT DO NOTHING RETURNING id',
        'MERGE INTO "Note" n USING word w ON w.id = n.word_id WHEN MATCHED THEN DELETE',
        'WITH gone AS (DELETE FROM "Note" RETURNING id) SELECT * FROM gone',
        "SELECT surprise(), setval('\"Note_id_seq\"', ?)",
    ):
        assert not planner.explain(sql).problem, sql
        assert not planner.explain(sql, ("1",) * sql.count("?")).problem, sql
    assert rows('SELECT count(*), min(body), max(body) FROM "Note"') == [(600, "x", "x")]
    assert rows('SELECT last_value FROM "Note_id_seq"') == [(600,)]


def test_a_locked_table_holds_nobody_up(postgres: PostgresServer, words: str) -> None:
    planner = PostgreSQLPlanner(lambda: postgres.connect(words), lock_timeout=0.05)
    with postgres.connect(words) as connection:
        connection.execute('LOCK TABLE "Note" IN ACCESS EXCLUSIVE MODE')
        began = time.monotonic()
        assert planner.explain('SELECT * FROM "Note"').problem == (
            "not explainable: another transaction holds one of its tables"
        )
        # Of the others nothing is lost, and what could not be counted has no rows.
        tables = planner.tables()
        assert tables["note"].rows == 0
        assert tables["word"].rows == 40_000
        assert time.monotonic() - began < 2
    assert not planner.explain('SELECT * FROM "Note"').problem


def test_planning_that_takes_too_long_is_given_up(postgres: PostgresServer, words: str) -> None:
    with postgres.connect(words, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION slow() RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
            " $$ BEGIN PERFORM pg_sleep(30); RETURN 1; END $$"
        )
    planner = PostgreSQLPlanner(lambda: postgres.connect(words), timeout=0.1)
    assert planner.explain("SELECT slow()").problem == "not explainable: planning it took too long"


def test_a_server_that_is_gone_is_told(postgres: PostgresServer) -> None:
    planner = PostgreSQLPlanner(lambda: postgres.connect("nowhere"))
    assert planner.explain("SELECT 1").problem.startswith("not explainable: the server does not answer: ")
    assert "nowhere" in planner.hindrance()
    with pytest.raises(DatabaseUnavailable, match="nowhere"):
        planner.tables()
    with pytest.raises(DatabaseUnavailable):
        planner.create("CREATE INDEX x ON word (freq)")


def test_a_connection_is_closed_after_each_question(postgres: PostgresServer, words: str) -> None:
    opened: list[Any] = []

    def connect() -> Any:
        opened.append(postgres.connect(words))
        return opened[-1]

    planner = PostgreSQLPlanner(connect)
    planner.explain("SELECT 1")
    planner.explain("SELECT FROM WHERE")
    planner.hindrance()
    assert len(opened) == 3
    assert all(connection.closed for connection in opened)


def test_rows_may_come_in_any_shape(postgres: PostgresServer, words: str) -> None:
    from psycopg.rows import dict_row

    planner = PostgreSQLPlanner(lambda: postgres.connect(words, row_factory=dict_row))
    assert planner.explain("SELECT * FROM word WHERE id = ?").steps[0].index == "word_pkey"
    assert planner.tables()["note"].rows == 600


def test_errors_of_other_drivers_are_read_by_what_they_share() -> None:
    class InterfaceError(Exception):
        """As pg8000 and psycopg2 name it."""

    class DatabaseError(Exception):
        pass

    def planner(error: Exception) -> PostgreSQLPlanner:
        def connect() -> Any:
            raise error

        return PostgreSQLPlanner(connect)

    told = planner(DatabaseError({"S": "FATAL", "C": "3D000", "M": 'database "nope" does not exist'}))
    assert told.explain("SELECT 1").problem == (
        'not explainable: the server does not answer: database "nope" does not exist'
    )
    assert server_error(DatabaseError({"C": "42P01", "M": "no such table"})).is_lost is False
    assert server_error(DatabaseError({"C": "57P01", "M": "shutting down"})).is_lost
    assert server_error(InterfaceError("network error\nat line 1")).is_lost
    assert str(server_error(InterfaceError("network error\nat line 1"))) == "network error"
    assert str(server_error(InterfaceError())) == "InterfaceError"


def test_a_server_older_than_twelve_needs_values(planner: PostgreSQLPlanner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planners, "GENERIC_PLAN", 10**9)
    monkeypatch.setattr(planners, "FORCED_PLAN", 10**9)
    assert "older than 12" in planner.explain("SELECT ?").problem
    assert not planner.explain("SELECT %s::int", (1,)).problem
    assert not planner.explain("SELECT 1").problem


# --- tables -----------------------------------------------------------------------------------------------


def test_tables_have_their_columns_rows_and_indexes(planner: PostgreSQLPlanner) -> None:
    tables = planner.tables()
    assert set(tables) == {"word", "note"}
    assert len(tables) == 2
    note = tables["note"]
    assert (note.name, note.columns, note.rows) == ("Note", ("id", "word_id", "body"), 600)
    assert {name: table.rows for name, table in tables.items()} == {"word": 40_000, "note": 600}
    assert [table.name for table in tables.values()] == ["Note", "word"]
    indexes = {index.name: index for index in tables["word"].indexes}
    assert indexes["word_pkey"].columns == ("id",)
    assert indexes["word_pkey"].unique
    assert indexes["word_pkey"].sql is None
    assert indexes["word_lang"].columns == ("lang",)
    assert (indexes["word_lower"].columns, indexes["word_lower"].partial) == ((None,), True)
    assert str(indexes["word_lang"].sql).startswith("CREATE INDEX word_lang ON public.word")


def test_a_table_of_another_schema_is_shown_with_it(planner: PostgreSQLPlanner) -> None:
    (step,) = planner.explain("SELECT * FROM attic.word").steps
    assert (step.table, step.reading) == ("attic.word", "reads all 0 rows of attic.word")
    (step,) = planner.explain("SELECT * FROM attic.chest").steps
    assert step.table == "attic.chest"


def test_rows_are_counted_anew_after_a_minute(postgres: PostgresServer, postgres_database: str) -> None:
    now = [0.0]
    planner = PostgreSQLPlanner(lambda: postgres.connect(postgres_database), clock=lambda: now[0])
    with postgres.connect(postgres_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int)")
        assert planner.tables()["t"].rows == 0
        connection.execute("INSERT INTO t SELECT generate_series(1, 5000)")
        assert planner.tables()["t"].rows == 0
        now[0] = 61.0
        assert 4096 <= planner.tables()["t"].rows <= 10_000  # never analyzed: by its size
        connection.execute("ANALYZE t")
        now[0] = 122.0
        assert planner.tables()["t"].rows == 5_000


# --- building and trying ----------------------------------------------------------------------------------


def test_an_index_is_built_beside_readers_and_writers(postgres: PostgresServer, postgres_database: str) -> None:
    planner = PostgreSQLPlanner(lambda: postgres.connect(postgres_database))
    with postgres.connect(postgres_database, autocommit=True) as connection:
        connection.execute('CREATE TABLE "T" (a int, b int)')
        connection.execute('INSERT INTO "T" SELECT n, n % 7 FROM generate_series(1, 3000) AS n')
        planner.create('CREATE INDEX "T a" ON "T" (a)')
        assert [index.name for index in planner.tables()["t"].indexes] == ["T a"]
        assert connection.execute("SELECT reltuples FROM pg_class WHERE relname = 'T'").fetchone() == (3000,)
        statistics = "SELECT count(*) FROM pg_stats WHERE tablename = 'T'"
        assert connection.execute(statistics).fetchone() == (2,)
    assert planner.explain('SELECT * FROM "T" WHERE a = ?').steps[-1].index == "T a"


def test_an_index_that_fails_leaves_nothing_behind(postgres: PostgresServer, postgres_database: str) -> None:
    planner = PostgreSQLPlanner(lambda: postgres.connect(postgres_database))
    with postgres.connect(postgres_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int)")
        connection.execute("INSERT INTO t VALUES (1), (1)")
        with pytest.raises(AdviceError, match="could not create unique index"):
            planner.create("CREATE UNIQUE INDEX twice ON t (a)")
        left = "SELECT count(*) FROM pg_class WHERE relname IN ('twice', 'kept')"
        assert connection.execute(left).fetchone() == (0,)
        # One that is there already stays, whatever is asked for by its name.
        planner.create("CREATE INDEX kept ON t (a)")
        with pytest.raises(AdviceError, match="already exists"):
            planner.create("CREATE INDEX kept ON t (a)")
        assert connection.execute(left).fetchone() == (1,)


def test_only_an_index_with_a_name_is_ever_built(planner: PostgreSQLPlanner) -> None:
    for sql in ("DROP TABLE word", "CREATE TABLE x (a int)", "CREATE INDEX ON word (freq)", ""):
        with pytest.raises(AdviceError, match="only CREATE INDEX"):
            planner.create(sql)


def test_without_hypopg_nothing_is_tried_and_that_is_said(planner: PostgreSQLPlanner) -> None:
    assert planner.hindrance() == "an index can not be tried without HypoPG (CREATE EXTENSION hypopg)"
    plan = planner.trial("SELECT * FROM word WHERE freq = ?", ["CREATE INDEX f ON word (freq)"])
    assert plan.problem == f"not explainable: {planner.hindrance()}"
    assert planner.trial("SELECT 1", ["CREATE INDEX ON word (freq)"]).problem.endswith("with a name can be tried")


def test_an_index_that_hypopg_pretends_is_called_by_the_name_it_would_have(
    postgres: PostgresServer, postgres_database: str
) -> None:
    with postgres.connect(postgres_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int, b int)")
        connection.execute("INSERT INTO t SELECT n, n FROM generate_series(1, 5000) AS n")
        connection.execute('CREATE INDEX "<1>btree_t_a" ON t (a)')
        # HypoPG is no part of the wheel. This stands in: what it answers is what HypoPG 1.4 answers.
        connection.execute(
            "CREATE FUNCTION hypopg_create_index(sql text, OUT indexrelid oid, OUT indexname text) LANGUAGE plpgsql AS"
            """ $$ BEGIN
                IF sql NOT LIKE 'CREATE INDEX%ON t (a)' THEN RAISE 'not hypothetical: %', sql; END IF;
                indexrelid := '"<1>btree_t_a"'::regclass; indexname := '<1>btree_t_a';
            END $$ """
        )
        connection.execute("ANALYZE")
    planner = PostgreSQLPlanner(lambda: postgres.connect(postgres_database))
    assert planner.hindrance() == ""
    (step,) = planner.trial("SELECT * FROM t WHERE a = ?", ['CREATE INDEX "ix a" ON t (a)']).steps
    assert step.index == "ix a"
    assert step.reading == "finds about 1 row of t by the index ix a (a = ?)"
    assert "not hypothetical" in planner.trial("SELECT 1", ["CREATE INDEX b ON t (b)"]).problem


def test_a_server_that_stops_while_an_index_is_built_is_told() -> None:
    with postgres_server() as server:
        planner = PostgreSQLPlanner(server.connect)
        with server.connect() as connection:
            connection.execute("CREATE TABLE t (a int)")
            connection.commit()
            connection.execute("INSERT INTO t VALUES (1)")  # CONCURRENTLY waits for its end
            stopper = threading.Timer(0.5, server.handle.get_postmaster_info().process.kill)
            stopper.start()
            with pytest.raises(DatabaseUnavailable, match="the server does not answer"):
                planner.create("CREATE INDEX ta ON t (a)")
            stopper.join()
            connection.close()
