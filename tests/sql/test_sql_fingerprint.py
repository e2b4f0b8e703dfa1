"""The shape of a statement: what stays, what goes, and that SQLite still understands it."""

# ruff: noqa: E501 - a table of statements reads better with one on each line

import sqlite3
import time
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_dbopt.sql.fingerprint import fingerprint

SCHEMA = """
CREATE TABLE keyword (id INTEGER PRIMARY KEY, word TEXT, language TEXT, frequency REAL, "odd name" TEXT,
                      CHECK (frequency >= 0), UNIQUE (word, language));
CREATE TABLE list (id INTEGER PRIMARY KEY, title TEXT DEFAULT 'none', data TEXT);
CREATE TABLE entry (list_id INTEGER REFERENCES list (id), keyword_id INTEGER, note BLOB, PRIMARY KEY (list_id, keyword_id));
CREATE VIEW common AS SELECT word FROM keyword WHERE frequency > 0.001 AND language = 'en';
CREATE INDEX keyword_lower ON keyword (lower(word));
"""

#: Statements as people and SQLAlchemy write them, and what they come to.
SHAPES = [
    ("SELECT * FROM keyword WHERE word = 'it''s' AND id IN (1, 2, 3)", "SELECT * FROM keyword WHERE word = ? AND id IN (?)"),
    ("SELECT  *\n\tFROM keyword -- all of it\nWHERE id=5;", "SELECT * FROM keyword WHERE id = ?"),
    ("SELECT /* why\n not */ count( * ) FROM keyword", "SELECT count(*) FROM keyword"),
    ("SELECT * FROM keyword WHERE id IN (:id_1, :id_2)", "SELECT * FROM keyword WHERE id IN (?)"),
    ("SELECT * FROM keyword WHERE id IN (?,?,?,?)", "SELECT * FROM keyword WHERE id IN (?)"),
    ("SELECT * FROM keyword WHERE id IN (1, NULL, -3)", "SELECT * FROM keyword WHERE id IN (?)"),
    ("SELECT * FROM keyword WHERE id IN (1, /* two */ 2)", "SELECT * FROM keyword WHERE id IN (?)"),
    ("SELECT * FROM keyword WHERE id IN (1, frequency)", "SELECT * FROM keyword WHERE id IN (?, frequency)"),
    ("SELECT 1 WHERE (1, 2) IN (VALUES (1, 2), (3, 4))", "SELECT ? WHERE (?, ?) IN (VALUES (?, ?))"),
    ("INSERT INTO list (title, data) VALUES ('a', 1), ('b', NULL), (?, x'ff')", "INSERT INTO list(title, data) VALUES (?, ?)"),
    ("INSERT INTO list (title) VALUES (lower('a')), (lower('b')), ('c')", "INSERT INTO list(title) VALUES (lower(?)), (?)"),
    ("INSERT INTO list (title, data) VALUES (NULL, lower('b')), ('x', lower('y'))", "INSERT INTO list(title, data) VALUES (?, lower(?))"),
    ("UPDATE list SET title='x', data = -1 WHERE id=7", "UPDATE list SET title = ?, data = ? WHERE id = ?"),
    ("SELECT id - 1, -id, -1, - -2, .5e3, 0xFF, 1.5 FROM list", "SELECT id - ?, - id, ?, ?, ?, ?, ? FROM list"),
    ("SELECT word FROM keyword WHERE word LIKE 'a%' ESCAPE '\\'", "SELECT word FROM keyword WHERE word LIKE ? ESCAPE ?"),
    ("SELECT word, frequency FROM keyword ORDER BY 2 DESC, 1 LIMIT 10 OFFSET 20", "SELECT word, frequency FROM keyword ORDER BY 2 DESC, 1 LIMIT ? OFFSET ?"),
    ("SELECT word FROM keyword ORDER BY frequency * 2, substr(word, 1, 3)", "SELECT word FROM keyword ORDER BY frequency * ?, substr(word, ?, ?)"),
    ("SELECT word FROM keyword UNION SELECT title FROM list ORDER BY 1", "SELECT word FROM keyword UNION SELECT title FROM list ORDER BY 1"),
    ("SELECT word FROM keyword LIMIT 5, 10", "SELECT word FROM keyword LIMIT ?, ?"),
    ("SELECT CAST(word AS VARCHAR(20)), CAST(id AS DECIMAL(10, 2)) FROM keyword", "SELECT CAST(word AS VARCHAR(20)), CAST(id AS DECIMAL(10, 2)) FROM keyword"),
    ("SELECT \"odd name\", [odd name], `odd name` FROM keyword", "SELECT \"odd name\", [odd name], `odd name` FROM keyword"),
    ("SELECT 5 AS 'total' FROM keyword ORDER BY total", 'SELECT ? AS "total" FROM keyword ORDER BY total'),
    ("SELECT 5 AS '70 % of it''s sum'", 'SELECT ? AS "alias"'),
    ("SELECT data ->> '$.a', data->'b' FROM list", "SELECT data ->> ?, data -> ? FROM list"),
    ("SELECT k.word FROM keyword AS k JOIN entry e ON e.keyword_id=k.id", "SELECT k.word FROM keyword AS k JOIN entry e ON e.keyword_id = k.id"),
    ("SELECT sum(frequency) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM keyword", "SELECT sum(frequency) OVER (ORDER BY id ROWS BETWEEN ? PRECEDING AND CURRENT ROW) FROM keyword"),
    ("CREATE TABLE t (a VARCHAR(20) DEFAULT 'x', b INT CHECK (b > 5 OR length('abc') = 3))", "CREATE TABLE t(a VARCHAR(20) DEFAULT NULL, b INT CHECK (b > NULL OR length(NULL) = NULL))"),
    ("CREATE VIEW v AS SELECT word FROM keyword WHERE word = 'secret'", "CREATE VIEW v AS SELECT word FROM keyword WHERE word = NULL"),
    ("DELETE FROM entry", "DELETE FROM entry"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "shape"), SHAPES)
def test_a_statement_has_one_shape_whatever_its_values_blanks_and_comments(sql, shape):
    assert fingerprint(sql) == shape


@pytest.mark.parametrize("sql", [sql for sql, _ in SHAPES])
def test_sqlite_explains_the_shape_of_whatever_it_could_explain(sql):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        connection.execute("EXPLAIN QUERY PLAN " + sql, _nulls(sql)).fetchall()
        shape = fingerprint(sql)
        connection.execute("EXPLAIN QUERY PLAN " + shape, (None,) * shape.count("?")).fetchall()


def _nulls(sql):
    return {"id_1": None, "id_2": None} if ":id_1" in sql else (None,) * sql.count("?")


@pytest.mark.parametrize(("sql", "shape"), [
    ("SELECT x::text, $1::int, E'it\\'s secret', $$secret$$, $tag$ secret $tag$ FROM t", "SELECT x::text, ?::int, ?, ?, ? FROM t"),
    ("SELECT a % s FROM t WHERE b = %s AND c = %(name)s", "SELECT a % s FROM t WHERE b = ? AND c = ?"),
    ("SELECT a %s FROM t", "SELECT a % s FROM t"),
    ("SELECT ARRAY['secret', 'two'], list[3] FROM t", "SELECT ARRAY[?, ?], list[?] FROM t"),
    ("SELECT * FROM t WHERE (a, b) IN ((1, 2), (3, 4))", "SELECT * FROM t WHERE (a, b) IN ((?, ?))"),
])  # fmt: skip
def test_what_postgresql_writes_has_a_shape_too(sql, shape):
    assert fingerprint(sql) == shape


def test_a_list_of_any_length_is_one_shape():
    long = "SELECT * FROM keyword WHERE id IN (" + ", ".join(map(str, range(20_000))) + ")"
    assert fingerprint(long) == fingerprint("SELECT * FROM keyword WHERE id IN (7)")
    rows = "INSERT INTO list (title, data) VALUES " + ", ".join(f"('t{n}', {n})" for n in range(5_000))
    assert fingerprint(rows) == fingerprint("INSERT INTO list (title, data) VALUES (?, ?)")


@given(
    text=st.text(min_size=1),
    number=st.floats(allow_nan=False, allow_infinity=False),
    blob=st.binary(min_size=1),
)
@example(text="'; DROP TABLE keyword --", number=-0.0, blob=b"'")
def test_no_literal_survives(text, number, blob):
    text, blob = "sec'ret" + text.replace("\x00", "") + "end", b"sekret" + blob
    quoted = "'" + text.replace("'", "''") + "'"
    sql = (
        f"SELECT word, {quoted}, {number!r} FROM keyword WHERE word = {quoted} OR frequency > {number!r}"
        f" OR word IN ({quoted}, {number!r}, X'{blob.hex()}') OR \"odd name\" = X'{blob.hex()}' -- {text!a}"
    )
    constant = fingerprint(
        "SELECT word, 'a', 1 FROM keyword WHERE word = 'a' OR frequency > 1 OR word IN ('a') OR \"odd name\" = x''"
    )
    assert fingerprint(sql) == constant
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        connection.execute("EXPLAIN " + fingerprint(sql), (None,) * 6)


@given(st.text(alphabet=st.sampled_from("'\"`[]()?,;:$@%-+*/=<>. \n\0aINinVALUESvaluesASbyEx019_é😀")))
def test_any_text_at_all_has_a_fingerprint_that_is_its_own(text):
    shape = fingerprint(text)
    assert fingerprint(shape) == fingerprint(fingerprint(shape))
    assert "'" not in shape or any(quote in text for quote in '"`'), "inside an identifier it may stand"


@given(st.text())
def test_text_that_is_no_sql_never_raises(text):
    fingerprint(text)


@pytest.mark.parametrize("text", [
    "SELECT 'secret", "SELECT \"secret", "SELECT `secret", "SELECT E'secret\\'", "SELECT $$secret",
    "SELECT 1 /* secret", "SELECT x'736563726574",
])  # fmt: skip
def test_what_is_never_closed_is_not_shown(text):
    assert "secret" not in fingerprint(text)
    assert "736563726574" not in fingerprint(text)


@pytest.mark.parametrize("unit", [
    "in(", "values(", "[a", "'", '"', "$a", "$a$", "/*", "- ", "1,", "((", "IN (1,", "x'", "(1),", "%(", "1e", "by 1,",
])  # fmt: skip
def test_hostile_text_takes_no_more_than_linear_time(unit):
    started = time.perf_counter()
    fingerprint("SELECT " + unit * (60_000 // len(unit)))
    assert time.perf_counter() - started < 3


def test_what_was_read_once_is_remembered_whatever_its_length():
    for sql in ("SELECT 1", "SELECT " + ", ".join("1" * 900), "SELECT " + ", ".join("1" * 40_000)):
        assert fingerprint(sql) == fingerprint(sql)
