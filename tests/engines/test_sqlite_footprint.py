"""What statements touch, asked of a real schema with views, triggers, cascades and virtual tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from flask_dbopt.engines.sqlite.footprint import UNCACHEABLE, footprint_of, leading_word

SCHEMA = """
CREATE TABLE language (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT, zipf REAL,
                   language_id INTEGER REFERENCES language ON DELETE CASCADE);
CREATE TABLE log (note TEXT);
CREATE INDEX word_text ON word (text);
CREATE VIEW rare AS SELECT text, zipf FROM word WHERE zipf < 2;
CREATE VIEW lucky AS SELECT text, random() AS chance FROM word;
CREATE TRIGGER noted AFTER INSERT ON word BEGIN INSERT INTO log VALUES (new.text); END;
CREATE VIRTUAL TABLE search USING fts5(text);
CREATE VIRTUAL TABLE area USING rtree(id, low, high);
"""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    connection.execute("PRAGMA foreign_keys=ON")
    yield connection
    connection.close()


CACHEABLE = [
    "SELECT * FROM word",
    "  -- a comment\n /* and /* another */ SELECT text FROM word WHERE id = ?",
    "SELECT text FROM word WHERE id = ?1 OR id = :two OR text = @three;",
    "SELECT text FROM word ;  -- done",
    "SELECT count(*) FROM word",
    "SELECT upper(text), round(zipf, 1) FROM rare WHERE text LIKE ? ORDER BY zipf LIMIT 5",
    "WITH x AS (SELECT text FROM word) SELECT count(*) FROM x",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT sum(i) FROM n",
    "SELECT text, row_number() OVER (ORDER BY zipf) FROM word",
    "VALUES (1), (2)",
    "SELECT rank, highlight(search, 0, '<', '>') FROM search WHERE search MATCH ?",
    "SELECT count(*) FROM search",
    "SELECT id FROM area WHERE low > ?",
    "SELECT value FROM word, json_each(word.text)",
    "SELECT text -> '$.a' FROM word",
    "SELECT name FROM sqlite_master",
    "SELECT * FROM word WHERE EXISTS (SELECT 1 FROM language)",
]


@pytest.mark.parametrize("sql", CACHEABLE)
def test_a_query_of_the_database_alone_is_deterministic(connection: sqlite3.Connection, sql: str) -> None:
    footprint = footprint_of(connection, sql)
    assert footprint is not None
    assert footprint.deterministic
    assert not footprint.writes


NOT_CACHEABLE = [
    "SELECT random()",
    "SELECT text FROM word ORDER BY random() LIMIT 1",
    "SELECT * FROM lucky",
    "WITH x AS (SELECT random() AS r) SELECT r FROM x",
    "SELECT hex(randomblob(4))",
    "SELECT CURRENT_TIMESTAMP",
    "SELECT text FROM word WHERE text < current_date",
    "SELECT datetime('now')",
    "SELECT date(text) FROM word",  # a row may hold the text 'now'
    "SELECT changes()",
    "SELECT last_insert_rowid()",
    "SELECT sqlite_version()",
    "SELECT * FROM pragma_table_info('word')",
    "SELECT count(*) FROM pragma_database_list",
    "SELECT text FROM word, pragma_user_version",
    "SELECT name FROM sqlite_temp_master",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_stmt",
    "SELECT * FROM bytecode('SELECT 1')",
    "INSERT INTO word (text) VALUES (?)",
    "INSERT INTO word (text) VALUES (?) RETURNING id",
    "WITH x AS (SELECT 'a' AS t) INSERT INTO word (text) SELECT t FROM x",
    "with x as (select 1) update word set zipf = 0",
    "REPLACE INTO word (id, text) VALUES (1, 'a')",
    "UPDATE word SET zipf = 1 RETURNING zipf",
    "DELETE FROM word",
    "CREATE TABLE other (a)",
    "CREATE TEMP TABLE other (a)",
    "DROP TABLE log",
    "ALTER TABLE log ADD COLUMN more",
    "REINDEX",
    "ANALYZE",
]


@pytest.mark.parametrize("sql", NOT_CACHEABLE)
def test_clock_chance_connection_state_and_writes_are_never_deterministic(
    connection: sqlite3.Connection, sql: str
) -> None:
    footprint = footprint_of(connection, sql)
    assert footprint is None or not footprint.deterministic


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "  -- nothing",
        "/* unfinished",
        "; SELECT 1",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT a",
        "EXPLAIN SELECT 1",
        "EXPLAIN QUERY PLAN SELECT 1",
        "PRAGMA user_version",
        "PRAGMA user_version = 7",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM",
    ],
)
def test_what_is_no_query_and_no_change_of_content_is_not_even_prepared(
    connection: sqlite3.Connection, sql: str
) -> None:
    assert footprint_of(connection, sql) is UNCACHEABLE


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM nowhere",
        "SELECT * FROM temp.word",
        "SELECT * FROM other.word",
        "SELECT own_function(text) FROM word",
        "SELECT text FROM word ORDER BY text COLLATE own_order",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM word",
        "SELECT",
        "SELECT '\ud800'",
        "SELECT 1 \0",
    ],
)
def test_what_cannot_be_prepared_has_no_footprint(connection: sqlite3.Connection, sql: str) -> None:
    assert footprint_of(connection, sql) is None


def test_the_tables_under_a_view_are_seen(connection: sqlite3.Connection) -> None:
    footprint = footprint_of(connection, "SELECT * FROM Rare")
    assert footprint is not None
    assert footprint.reads == {"rare", "word"}


def test_triggers_and_cascades_are_seen(connection: sqlite3.Connection) -> None:
    inserted = footprint_of(connection, "INSERT INTO word (text) VALUES ('a')")
    deleted = footprint_of(connection, "DELETE FROM language WHERE id = 1")
    assert inserted is not None
    assert deleted is not None
    assert inserted.writes >= {"word", "log"}
    assert deleted.writes >= {"language", "word"}


@pytest.mark.parametrize(
    ("sql", "table"),
    [
        ("CREATE TABLE other (a)", "other"),
        ("DROP TABLE log", "log"),
        ("CREATE INDEX log_note ON log (note)", "log"),
        ("DROP INDEX word_text", "word"),
        ("ALTER TABLE log RENAME TO diary", "log"),
        ("DROP TRIGGER noted", "word"),
        ("DROP VIEW rare", "rare"),
    ],
)
def test_a_schema_change_writes_the_table_it_is_about(connection: sqlite3.Connection, sql: str, table: str) -> None:
    footprint = footprint_of(connection, sql)
    assert footprint is not None
    assert table in footprint.writes
    assert not footprint.deterministic


def test_nothing_runs_while_it_is_explained(connection: sqlite3.Connection) -> None:
    before = list(connection.iterdump())
    for sql in [*CACHEABLE, *NOT_CACHEABLE]:
        footprint_of(connection, sql)
    assert list(connection.iterdump()) == before


def test_the_functions_of_a_statement_are_named(connection: sqlite3.Connection) -> None:
    footprint = footprint_of(connection, "SELECT UPPER(text), count(*) FROM word GROUP BY lower(text)")
    assert footprint is not None
    assert footprint.functions == {"upper", "lower", "count"}


def test_a_function_the_app_defined_is_never_deterministic(connection: sqlite3.Connection) -> None:
    connection.create_function("shout", 1, str.upper, deterministic=True)
    footprint = footprint_of(connection, "SELECT shout(text) FROM word")
    assert footprint is not None
    assert not footprint.deterministic


def test_temp_and_attached_tables_are_never_deterministic(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TEMP TABLE mine (a)")
    connection.execute("ATTACH ':memory:' AS other")
    connection.execute("CREATE TABLE other.theirs (a)")
    for sql in ("SELECT a FROM mine", "SELECT count(*) FROM mine", "SELECT a FROM theirs"):
        footprint = footprint_of(connection, sql)
        assert footprint is not None
        assert not footprint.deterministic


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("select 1", "select"),
        ("\ufeffSELECT 1", "select"),
        (" /* a */-- b\n\tWith x AS (SELECT 1) SELECT 1", "with"),
        ("--", ""),
        ("(SELECT 1)", ""),
    ],
)
def test_the_leading_word_is_found_past_comments(sql: str, word: str) -> None:
    assert leading_word(sql) == word


def test_a_virtual_table_of_an_unknown_kind_is_never_deterministic(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE VIRTUAL TABLE tokens USING fts3tokenize(simple)")
    for sql in ("SELECT token FROM tokens WHERE input = 'a b'", "SELECT count(*) FROM word, tokens"):
        footprint = footprint_of(connection, sql)
        assert footprint is not None
        assert not footprint.deterministic
