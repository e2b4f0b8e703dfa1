"""A time limit for statements: what counts, what does not, and what the app is told."""

import sqlite3
import time

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite import limits as limits_module
from flask_dbopt.engines.sqlite.limits import Limits, ours, refuse_extensions
from flask_dbopt.errors import DBOptError, StatementRefused, StatementTimeout

NUMBERS = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {}) SELECT {} FROM r"
ENDLESS = NUMBERS.format(10**12, "count(*)")
ROWS = NUMBERS.format(10**12, "n")
LIMIT = 0.2


@pytest.fixture
def make(tmp_path):
    opened = []

    def make(**settings):
        app = Flask("timed", instance_path=str(tmp_path / "instance"))
        app.testing = True
        dbopt = DBOptimizer(app, database=tmp_path / "app.db", **settings)
        opened.append((app, dbopt))
        return dbopt

    yield make
    for _, dbopt in opened:
        dbopt.optimizer.close()


@pytest.fixture
def dbopt(make):
    return make(monitor_statement_timeout=LIMIT)


@pytest.fixture
def connection(dbopt):
    with dbopt.borrow() as connection:
        yield connection


def by_name(cursor):
    while cursor.fetchone():
        pass


READERS = {
    "to the first row": lambda c: c.execute(ENDLESS),
    "iteration": lambda c: [None for _ in c.execute(ROWS)],
    "fetchone": lambda c: by_name(c.execute(ROWS)),
    "fetchmany": lambda c: c.execute(ROWS).fetchmany(10**9),
    "fetchall": lambda c: c.execute(ROWS).fetchall(),
    "cursor": lambda c: c.cursor().execute(ENDLESS),
    "a script": lambda c: c.executescript(f"SELECT 1; {ENDLESS}; SELECT 2"),
    "many": lambda c: c.executemany(f"INSERT INTO t SELECT ? + ({ENDLESS})", [(1,)]),
    "a write": lambda c: c.execute(f"INSERT INTO t {ROWS}"),
}


@pytest.mark.parametrize("how", READERS)
def test_a_statement_that_takes_too_long_is_ended(connection, how):
    connection.execute("CREATE TABLE t (a)")
    start = time.perf_counter()
    with pytest.raises(
        StatementTimeout, match=r"^interrupted: the statement ran 0\.\d s, and 0\.2 s are allowed"
    ) as caught:
        READERS[how](connection)
    assert LIMIT * 0.9 < time.perf_counter() - start < 5
    assert isinstance(caught.value, sqlite3.OperationalError)
    assert isinstance(caught.value, DBOptError)
    assert "DBOPT_MONITOR_STATEMENT_TIMEOUT" in caught.value.hint
    assert connection.execute("SELECT 1").fetchall() == [(1,)], "the connection lives on"


def test_a_slowly_read_cursor_is_left_in_peace(make):
    dbopt = make(monitor_statement_timeout=0.05)
    with dbopt.borrow() as connection:
        seen = 0
        for _ in connection.execute(NUMBERS.format(40, "n")):
            time.sleep(0.004)
            seen += 1
        assert seen == 40
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_each_statement_has_its_own_time(make):
    dbopt = make(monitor_statement_timeout=0.25)
    with dbopt.borrow() as connection:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.6:
            connection.execute(NUMBERS.format(100_000, "count(*)")).fetchall()


def test_a_write_that_is_ended_leaves_nothing_and_its_transaction_goes_on(connection):
    connection.execute("CREATE TABLE t (a)")
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(StatementTimeout):
        connection.execute(f"UPDATE t SET a = ({ENDLESS})")
    if connection.in_transaction:  # SQLite decides
        connection.rollback()
    assert connection.execute("SELECT a FROM t WHERE a > 1").fetchall() == []


def test_the_apps_own_handler_comes_after_ours(connection):
    called = []
    connection.set_progress_handler(lambda: called.append(1), 10_000)
    connection.execute(NUMBERS.format(50_000, "count(*)"))
    assert 20 < len(called) < 200
    with pytest.raises(StatementTimeout):
        connection.execute(ENDLESS)
    connection.set_progress_handler(lambda: 1, 50)
    with pytest.raises(sqlite3.OperationalError, match=r"^interrupted$") as caught:
        connection.execute(NUMBERS.format(50_000, "count(*)"))
    assert not isinstance(caught.value, StatementTimeout), "the app ended it, not we"
    connection.set_progress_handler(None, 0)
    with pytest.raises(StatementTimeout):
        connection.execute(ENDLESS)


def test_an_interrupt_of_the_apps_is_told_as_it_is(connection):
    connection.create_function("stop", 0, connection.interrupt)
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute(NUMBERS.format(1_000, "stop()")).fetchall()
    assert not isinstance(caught.value, StatementTimeout)


def test_connect_sets_another_limit_or_none(dbopt):
    longer = dbopt.connect(statement_timeout=None)
    start = time.perf_counter()
    longer.execute(NUMBERS.format(4_000_000, "count(*)"))
    assert time.perf_counter() - start > LIMIT
    assert longer._limits is None
    longer.close()
    shorter = dbopt.connect(statement_timeout=0.02)
    with pytest.raises(StatementTimeout, match=r"0\.02 s are allowed"):
        shorter.execute(ENDLESS)
    shorter.close()
    for wrong in (0, -2, "1"):
        with pytest.raises(ValueError, match="number of seconds"):
            dbopt.connect(statement_timeout=wrong)


def test_switched_off_the_argument_is_taken_and_means_nothing(make):
    dbopt = make(enabled=False)
    connection = dbopt.connect(statement_timeout=0.01)
    assert type(connection) is sqlite3.Connection
    connection.close()


def test_without_a_limit_there_is_no_handler(make):
    with make().borrow() as connection:
        assert connection._limits is None
        connection.set_progress_handler(lambda: 0, 1_000)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_cursor_is_used_again_after_a_timeout_and_for_other_things(connection):
    cursor = connection.cursor()
    for _ in range(2):
        with pytest.raises(StatementTimeout):
            cursor.execute(ROWS).fetchall()
    assert cursor.execute("SELECT 1 AS one").fetchall() == [(1,)]
    assert cursor.description[0][0] == "one"
    cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
    assert (cursor.fetchone(), next(cursor), cursor.fetchmany(size=5)) == ((1,), (2,), [(3,)])
    cursor.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (0)")
    cursor.execute("SELECT a FROM t")
    cursor.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
    assert [a for (a,) in cursor.execute("SELECT a FROM t")] == [0, 1, 2]
    cursor.execute("SELECT a FROM t").close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        cursor.fetchone()


def test_an_apps_own_cursor_class_is_limited_as_well(connection):
    class Own(sqlite3.Cursor):
        pass

    cursor = connection.cursor(Own)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        by_name(cursor.execute(ROWS))


def test_the_cache_still_answers_where_time_is_limited(make):
    dbopt = make(monitor_statement_timeout=10)
    with dbopt.borrow() as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(40_000)])
        connection.commit()
        slow = "SELECT count(*), sum(a * a) FROM t WHERE a % 3 = 1"
        answers = {tuple(connection.execute(slow).fetchall()) for _ in range(12)}
    assert len(answers) == 1
    assert dbopt.cache.stats().hits > 0


def test_engines_are_limited_too(tmp_path):
    app = Flask("engine", instance_path=str(tmp_path / "instance"))
    app.testing = True
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    dbopt = DBOptimizer(app, engine=engine, monitor_statement_timeout=LIMIT)
    with engine.connect() as connection:
        for sql in (ENDLESS, ROWS):
            with pytest.raises(sa.exc.OperationalError) as caught:
                connection.execute(sa.text(sql)).all()
            assert isinstance(caught.value.orig, StatementTimeout)
    engine.dispose()
    dbopt.optimizer.close()


def test_the_limit_is_recorded_with_its_statement(dbopt, connection):
    with pytest.raises(StatementTimeout):
        connection.execute(ENDLESS)
    (query,) = (each for each in dbopt.monitor.queries() if each.errors)
    assert query.calls == 1
    assert query.max_exec_time >= LIMIT * 900


def test_time_that_nobody_can_tell_apart_counts_little(monkeypatch):
    """Rows fetched behind our back: at most 2 ms between two looks."""
    now = [0.0]
    monkeypatch.setattr(limits_module, "perf_counter", lambda: now[0])
    limits = Limits(None, 1.0)
    limits.begin()
    limits.pause()
    for _ in range(400):
        now[0] += 10.0
        assert limits._look() == 0
    for _ in range(200):
        now[0] += 10.0
        limits._look()
    assert limits._look() == 1


def test_each_limit_leaves_the_apps_own_hooks_of_the_other_kind(make):
    with make(monitor_statement_timeout=10).borrow() as connection:
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_DELETE else 0)
        connection.execute("CREATE TABLE t (a)")
        with pytest.raises(sqlite3.DatabaseError, match=r"^not authorized$"):
            connection.execute("DELETE FROM t")
        connection.set_authorizer(None)
        connection.execute("DELETE FROM t")
    with make(sqlite_policy={"deny": ["DROP"]}).borrow() as connection:
        connection.set_progress_handler(lambda: 1, 10)
        with pytest.raises(sqlite3.OperationalError, match=r"^interrupted$"):
            connection.execute(NUMBERS.format(1_000, "count(*)"))
        connection.set_progress_handler(None, 0)
        connection.execute(NUMBERS.format(1_000, "count(*)"))


def test_machine_code_is_refused_before_python_loads_it(make):
    dbopt = make(sqlite_policy={"deny": ["LOAD_EXTENSION"]})
    with dbopt.borrow() as connection, pytest.raises(StatementRefused, match="LOAD_EXTENSION is denied"):
        refuse_extensions(connection)
    with make().borrow() as connection:
        assert refuse_extensions(connection) is None


def test_our_own_statements_have_no_limit(connection):
    with ours(connection):
        assert connection.execute(NUMBERS.format(4_000_000, "count(*)")).fetchone() == (4_000_000,)


def test_postgresql_ends_statements_itself(postgres, tmp_path):
    app = Flask("server", instance_path=str(tmp_path / "instance"))
    app.testing = True
    engine = sa.create_engine(postgres.url())
    dbopt = DBOptimizer(app, engine=engine, monitor_statement_timeout=LIMIT)
    with engine.connect() as connection:
        connection.rollback()
        assert connection.execute(sa.text("SHOW statement_timeout")).scalar() == "200ms"
        with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
            connection.execute(sa.text("SELECT pg_sleep(5)"))
        connection.rollback()
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    engine.dispose()
    dbopt.optimizer.close()
