"""What a policy refuses, on every kind of connection, and what it leaves alone."""

import logging
import os
import sqlite3

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.errors import ConfigurationError, StatementRefused
from flask_dbopt.settings import resolve

SCHEMA = """
CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE audit (what TEXT);
CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT, password TEXT);
CREATE TABLE pin (number INTEGER);
CREATE VIEW login AS SELECT name, password FROM user;
CREATE TRIGGER written AFTER INSERT ON word BEGIN INSERT INTO audit VALUES ('new ' || new.text); END;
CREATE VIRTUAL TABLE page USING fts5 (body);
INSERT INTO page VALUES ('hello world');
INSERT INTO user VALUES (1, 'ada', 'secret');
"""
POLICY = {
    "deny": ["attach", "Drop Table", "PRAGMA writable_schema", "LOAD_EXTENSION", "FUNCTION randomblob", "ALTER word"],
    "readonly_tables": ["audit"],
    "hidden_tables": ["PIN"],
    "hidden_columns": ["user.password"],
}


@pytest.fixture
def path(tmp_path):
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.executescript(SCHEMA)
    connection.close()
    return tmp_path / "app.db"


@pytest.fixture
def made(tmp_path, path):
    opened, apps = [], []

    def make(**settings):
        app = Flask("limited", instance_path=str(tmp_path / "instance"))
        app.testing = True
        dbopt = DBOptimizer(app, database=path, **settings)
        opened.append(dbopt)
        apps.append(app)
        return dbopt

    yield make
    for dbopt in opened:
        dbopt.optimizer.close()


@pytest.fixture
def limited(made):
    return made(sqlite_policy=POLICY)


REFUSED = {
    "ATTACH 'other.db' AS other": "ATTACH is denied",
    "VACUUM INTO 'copy.db'": "ATTACH is denied",
    "DROP TABLE word": "DROP_TABLE is denied",
    "DROP TABLE page": "DROP_TABLE is denied",
    "ALTER TABLE word RENAME TO words": "ALTER word is denied",
    "PRAGMA writable_schema = 1": "PRAGMA writable_schema is denied",
    "SELECT load_extension('x')": "LOAD_EXTENSION is denied",
    "SELECT hex(randomblob(4))": "FUNCTION randomblob is denied",
    "INSERT INTO audit VALUES ('forged')": "the table audit is read-only",
    "REPLACE INTO Audit VALUES ('forged')": "the table audit is read-only",
    "UPDATE audit SET what = ''": "the table audit is read-only",
    "DELETE FROM audit": "the table audit is read-only",
    "ALTER TABLE audit ADD COLUMN more": "the table audit is read-only",
    "CREATE TEMP TRIGGER t AFTER INSERT ON word BEGIN DELETE FROM audit; END": "CREATE TRIGGER is denied",
    "SELECT * FROM user": "the column user.password is hidden",
    "SELECT id FROM user WHERE password > 'a'": "the column user.password is hidden",
    "WITH x AS (SELECT password FROM user) SELECT * FROM x": "the column user.password is hidden",
    "SELECT * FROM login": "the column user.password is hidden",
    "SELECT count(*) FROM pin": "the table pin is hidden",
    "INSERT INTO pin VALUES (1)": "the table pin is hidden",
}
ALLOWED = (
    "SELECT what FROM audit",
    "SELECT id, name FROM user",
    "SELECT body FROM page WHERE page MATCH 'hello'",
    "PRAGMA foreign_keys = ON",
    "PRAGMA table_info(user)",
    "ALTER TABLE user ADD COLUMN mail",
    "CREATE INDEX of_text ON word (text)",
    "DROP INDEX of_text",
    "INSERT INTO word (text) VALUES ('lamp')",
    "DELETE FROM word",
)


@pytest.mark.parametrize("sql", REFUSED)
def test_what_the_policy_denies_is_refused_with_the_rule(limited, sql):
    with limited.borrow() as connection, pytest.raises(StatementRefused, match="not authorized") as caught:
        connection.execute(sql)
    assert isinstance(caught.value, sqlite3.DatabaseError)
    assert REFUSED[sql] in str(caught.value)
    assert "DBOPT_SQLITE_POLICY" in caught.value.hint


@pytest.mark.parametrize("sql", ALLOWED)
def test_everything_else_runs(limited, sql):
    with limited.borrow() as connection:
        connection.execute(ALLOWED[6]) if sql == ALLOWED[7] else None
        connection.execute(sql).fetchall()


def test_a_trigger_that_is_there_writes_where_statements_may_not(limited):
    with limited.borrow() as connection:
        connection.execute("INSERT INTO word (text) VALUES ('lamp')")
        assert connection.execute("SELECT what FROM audit").fetchall() == [("new lamp",)]


def test_vacuum_is_another_word_than_attach_and_needs_every_table(limited, made):
    with made(sqlite_policy={"deny": "ATTACH"}).borrow() as connection:
        connection.execute("VACUUM")
    with limited.borrow() as connection, pytest.raises(StatementRefused, match="audit is read-only"):
        connection.execute("VACUUM")
    with made(sqlite_policy={"deny": "VACUUM"}).borrow() as connection:
        connection.execute("ATTACH ':memory:' AS more")
        connection.execute("DETACH more")
        with pytest.raises(StatementRefused, match="VACUUM is denied"):
            connection.execute("VACUUM")


def test_a_word_covers_its_kinds_and_fts_still_reads(made):
    dbopt = made(sqlite_policy={"deny": ["CREATE", "DROP", "INSERT", "UPDATE", "DELETE", "PRAGMA", "RECURSIVE"]})
    for sql in (
        "CREATE TEMP TABLE t (a)",
        "CREATE VIEW v AS SELECT 1",
        "DROP VIEW login",
        "INSERT INTO word (text) VALUES ('a')",
        "UPDATE word SET text = 'b'",
        "DELETE FROM word",
        "PRAGMA foreign_keys = ON",
        "PRAGMA busy_timeout = 1",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
    ):
        with dbopt.borrow() as connection, pytest.raises(StatementRefused):
            connection.execute(sql)
    with dbopt.borrow() as connection:
        assert connection.execute("SELECT body FROM page WHERE page MATCH 'hello'").fetchall() == [("hello world",)]


def test_scripts_and_many_are_refused_too(limited):
    with limited.borrow() as connection:
        with pytest.raises(StatementRefused, match="read-only"):
            connection.executescript("SELECT 1; DELETE FROM audit; SELECT 2")
        with pytest.raises(StatementRefused, match="read-only"):
            connection.executemany("INSERT INTO audit VALUES (?)", [("a",), ("b",)])


def test_the_apps_own_authorizer_comes_after_ours_and_takes_nothing_away(limited):
    with limited.borrow() as connection:
        connection.execute("DELETE FROM word")
        deny = {sqlite3.SQLITE_DELETE}
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in deny else sqlite3.SQLITE_OK)
        with pytest.raises(sqlite3.DatabaseError, match=r"^not authorized$"):
            connection.execute("DELETE FROM word")
        with pytest.raises(StatementRefused):
            connection.execute("DELETE FROM audit")
        connection.set_authorizer(None)
        connection.execute("DELETE FROM word")
        with pytest.raises(StatementRefused):
            connection.execute("DELETE FROM audit")


def test_a_connection_is_lent_again_with_its_policy(limited):
    def use():
        with limited.borrow() as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            try:
                connection.execute("DELETE FROM audit")
            except StatementRefused:
                return True

    assert [use(), use(), use()] == [True] * 3
    assert limited.pool.stats().connections_num == 1


def test_a_mistake_of_the_apps_own_stays_its_own(limited):
    with limited.borrow() as connection:
        with pytest.raises(StatementRefused):
            connection.execute("DELETE FROM audit")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            connection.execute("DELETE FROM nowhere")
        connection.execute("INSERT INTO word (id) VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            connection.execute("INSERT INTO word (id) VALUES (1)")


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "enable_load_extension"), reason="this Python loads none")
def test_python_loads_no_extension_either(limited):
    with limited.borrow() as connection, pytest.raises(StatementRefused, match="LOAD_EXTENSION"):
        connection.enable_load_extension(True)


def test_engines_have_the_policy_too(tmp_path, path):
    app = Flask("engine", instance_path=str(tmp_path / "instance"))
    app.testing = True
    engine = sa.create_engine(f"sqlite:///{path}")
    dbopt = DBOptimizer(app, engine=engine, sqlite_policy=POLICY)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT name FROM user")).scalar() == "ada"
        with pytest.raises(sa.exc.DatabaseError) as caught:
            connection.execute(sa.text("SELECT password FROM user"))
    assert isinstance(caught.value.orig, StatementRefused)
    sa.inspect(engine).get_table_names()
    engine.dispose()
    dbopt.optimizer.close()


def test_our_own_work_is_not_the_apps(made, path):
    dbopt = made(sqlite_policy={"deny": ["PRAGMA", "ATTACH", "VACUUM", "ANALYZE"], "hidden_tables": ["user"]})
    with dbopt.borrow() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert dbopt.backups.take().bytes > 0
    assert dbopt.advisor.explain("SELECT name FROM user").problem == ""
    assert dbopt.report().databases[0].journal_mode == "wal"


def test_a_refusal_is_counted_logged_and_written_down(limited, caplog):
    with caplog.at_level(logging.WARNING, "flask_dbopt"), limited.borrow() as connection:
        for _ in range(3):
            with pytest.raises(StatementRefused):
                connection.execute("PRAGMA writable_schema = 1")
    assert limited.monitor.counters()["policy.refused"] == 3
    assert [record.message for record in caplog.records] == [
        "refused: PRAGMA writable_schema, PRAGMA writable_schema is denied"
    ]
    (query,) = (each for each in limited.monitor.queries() if each.errors)
    assert query.errors == 3


def test_without_a_policy_sqlite_asks_nobody(made):
    dbopt = made()
    with dbopt.borrow() as connection:
        assert connection._limits is None
        connection.execute("DELETE FROM audit")


# --- read-only connections ---


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO word (text) VALUES ('a')",
        "DROP TABLE word",
        "CREATE TABLE more (a)",
        "CREATE TEMP TABLE more (a)",
        "CREATE TEMP VIEW more AS SELECT 1",
        "PRAGMA user_version = 3",
    ],
)
def test_a_read_only_connection_writes_nothing(made, sql):
    connection = made().connect(readonly=True)
    with pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"):
        connection.execute(sql)
    connection.close()


def test_nor_are_there_ways_around(made, path, tmp_path):
    connection = made().connect(readonly=True)
    with pytest.raises(StatementRefused, match=r"stays so.*without readonly=True"):
        connection.execute("PRAGMA query_only = OFF")
    other = tmp_path / "other.db"
    with pytest.raises(StatementRefused, match=r"ATTACH takes 'file:…\?mode=ro'"):
        connection.execute(f"ATTACH '{other}' AS other")
    assert not os.path.exists(other)  # noqa: PTH110
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute(f"VACUUM INTO '{other}'")
    assert not os.path.exists(other)  # noqa: PTH110
    connection.execute(f"ATTACH 'file:{path}?mode=ro' AS same")
    assert connection.execute("SELECT name FROM same.user").fetchall() == [("ada",)]
    assert connection.execute("PRAGMA query_only").fetchone() == (1,)
    assert connection.execute("SELECT body FROM page WHERE page MATCH 'hello'").fetchall() == [("hello world",)]
    connection.close()


def test_a_read_only_connection_has_the_policy_as_well(limited):
    connection = limited.connect(readonly=True)
    with pytest.raises(StatementRefused, match="hidden"):
        connection.execute("SELECT password FROM user")
    connection.close()


# --- the setting ---


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"denied": ["DROP"]}, "'denied' is no part of a policy; the nearest is deny"),
        ({"deny": ["DORP"]}, "DORP is nothing that can be denied; the nearest is DROP"),
        ({"deny": ["FUNCTION"]}, 'FUNCTION needs a name, as in "FUNCTION randomblob"'),
        ({"deny": ["ATTACH other.db"]}, "ATTACH takes no name, and has 'other.db'"),
        ({"deny": 5}, "deny: is not a list of names"),
        ({"readonly_tables": [""]}, "'' is not a name"),
        ({"hidden_columns": ["password"]}, "'password' is no column; write table.column"),
    ],
)
def test_a_policy_that_cannot_be_kept_stops_the_app_at_start(given, said):
    with pytest.raises(ConfigurationError) as caught:
        resolve({"DBOPT_SQLITE_POLICY": given}, {}, {})
    assert said in str(caught.value)


def test_a_policy_may_come_from_the_environment_and_every_fault_is_told():
    given = '{"deny": ["drop trigger audit_t", "PRAGMA"], "hidden_tables": "pin"}'
    settings = resolve({}, {"DBOPT_SQLITE_POLICY": given}, {}).settings
    assert settings.sqlite_policy == {"deny": ("DROP_TRIGGER audit_t", "PRAGMA"), "hidden_tables": ("pin",)}
    with pytest.raises(ConfigurationError, match=r"(?s)no part of a policy.*nothing that can be denied"):
        resolve({"DBOPT_SQLITE_POLICY": {"hide": ["a"], "deny": ["x"]}}, {}, {})
