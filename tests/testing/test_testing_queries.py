"""How many queries a block of a test ran: counted wherever they ran, listed when there are too many."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
from flask import Flask, Response, stream_with_context

from flask_dbopt import DBOptimizer
from flask_dbopt.errors import ConfigurationError

LIST = "SELECT id, text FROM word ORDER BY id LIMIT 5"
ONE = "SELECT uses FROM word WHERE id = ?"


def make(path, **config) -> tuple[Flask, DBOptimizer]:
    """An app on a database of words; ``/words`` has an N+1, ``/word/<id>`` has not."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT, uses INTEGER)")
        connection.executemany("INSERT INTO word (text, uses) VALUES (?, ?)", [(f"w{n}", n) for n in range(20)])
        connection.commit()
    app = Flask(path.stem, instance_path=str(path.parent / "instance"))
    app.config.from_mapping(TESTING=True, DBOPT_DATABASE=str(path), **config)
    dbopt = DBOptimizer(app)

    @app.get("/words")
    def words():
        found = dbopt.connection.execute(LIST).fetchall()
        return {text: dbopt.connection.execute(ONE, (key,)).fetchone()[0] for key, text in found}

    @app.get("/word/<int:key>")
    def word(key):
        return {"uses": dbopt.connection.execute(ONE, (key,)).fetchone()}

    @app.get("/stream")
    def stream():
        def lines():
            for key in (1, 2):
                yield str(dbopt.connection.execute(ONE, (key,)).fetchone())

        return Response(stream_with_context(lines()))

    return app, dbopt


@pytest.fixture
def shop(tmp_path):
    app, dbopt = make(tmp_path / "shop.db")
    yield app, dbopt
    dbopt.optimizer.close()


@pytest.fixture
def client(shop):
    return shop[0].test_client()


@pytest.fixture
def dbopt(shop):
    return shop[1]


def test_as_many_queries_as_allowed_pass(dbopt, client):
    with dbopt.assert_max_queries(6):
        client.get("/words")


def test_one_query_too_many_fails_with_the_list_of_them(dbopt, client):
    with pytest.raises(AssertionError) as failed, dbopt.assert_max_queries(5):
        client.get("/words")
    told = str(failed.value)
    assert told.startswith("6 queries ran, and at most 5 may:")
    first, second = told.index("1.    1 ×"), told.index("2.    5 ×")
    assert first < told.index("SELECT id, text FROM word ORDER BY id LIMIT ?") < second
    assert second < told.index("SELECT uses FROM word WHERE id = ?")
    assert "in words" in told
    assert "the same statement 5 times, as a loop does (N+1): IN or a JOIN does it in one" in told
    assert " ms " in told


def test_each_query_tells_what_it_was(dbopt, client):
    with dbopt.count_queries() as ran:
        client.get("/words")
    listed, *ones = ran
    assert (listed.query, listed.sql) == ("SELECT id, text FROM word ORDER BY id LIMIT ?", LIST)
    assert (listed.rows, listed.cached, listed.error) == (5, False, None)
    assert (listed.endpoint, listed.database) == ("words", "default")
    assert listed.ms > 0
    assert [one.sql for one in ones] == [ONE] * 5
    assert ran[1:] == ones
    assert repr(ran) == "<6 queries>"


def test_the_place_in_the_app_is_told(dbopt, client):
    with dbopt.count_queries() as ran:
        client.get("/word/1")
    file, _, line = ran[0].place.rpartition(":")
    assert file.endswith("test_testing_queries.py")
    assert int(line) > 1
    assert ran[0].place in str(ran)


def test_what_ran_before_and_after_the_block_is_not_counted(dbopt, client):
    client.get("/words")
    with dbopt.count_queries() as ran:
        client.get("/word/1")
        inside = len(ran)
        client.get("/word/2")
    client.get("/words")
    assert inside == 1
    assert len(ran) == 2


def test_blocks_may_stand_inside_one_another(dbopt, client):
    with dbopt.count_queries() as outer:
        client.get("/word/1")
        with dbopt.count_queries() as inner:
            client.get("/word/2")
        client.get("/word/3")
    assert (len(outer), len(inner)) == (3, 1)


def test_a_block_inside_a_request_counts_from_there_on(shop, dbopt):
    app, _ = shop

    @app.get("/inside")
    def inside():
        dbopt.connection.execute(ONE, (1,)).fetchall()
        with dbopt.count_queries() as ran:
            dbopt.connection.execute(ONE, (2,)).fetchall()
            app.test_client().get("/word/3")
        return {"ran": [(each.sql, each.endpoint) for each in ran]}

    assert app.test_client().get("/inside").json == {"ran": [[ONE, "inside"], [ONE, "word"]]}


def test_a_request_that_the_test_client_keeps_open_counts(dbopt, client):
    with client, dbopt.count_queries() as ran:
        client.get("/word/1")
    assert len(ran) == 1


def test_a_stream_is_counted_to_its_end(dbopt, client):
    with dbopt.count_queries() as ran:
        assert len(client.get("/stream").data) > 0
    assert len(ran) == 2


def test_threads_and_work_outside_requests_count(dbopt):
    def work():
        with dbopt.borrow() as connection:
            connection.execute(ONE, (1,)).fetchone()

    with dbopt.count_queries() as ran:
        work()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(ran) == 2
    assert {each.endpoint for each in ran} == {""}
    assert "outside any request" in str(ran)


def test_a_half_read_cursor_counts(dbopt):
    with dbopt.count_queries() as ran, dbopt.borrow() as connection:
        cursor = connection.execute(LIST)
        cursor.fetchone()
        assert len(ran) == 1
        cursor.close()
    assert len(ran) == 1


def test_beginning_and_ending_a_transaction_is_no_query(dbopt):
    with dbopt.count_queries() as ran, dbopt.borrow() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("SAVEPOINT here")
        connection.execute("UPDATE word SET uses = 1 WHERE id = 1")
        connection.execute("RELEASE here")
        connection.execute("COMMIT")
    assert [each.query for each in ran] == ["UPDATE word SET uses = ? WHERE id = ?"]


def test_a_query_that_failed_counts_and_says_so(dbopt):
    with dbopt.count_queries() as ran, dbopt.borrow() as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("SELECT * FROM nothing")
    assert (len(ran), ran[0].error, ran[0].rows) == (1, "OperationalError", None)
    assert "1 failed: OperationalError" in str(ran)


def test_what_the_cache_answered_counts_as_well(dbopt, client):
    for _ in range(5):
        client.get("/words")
    with dbopt.count_queries() as ran:
        client.get("/words")
    assert len(ran) == 6
    if any(each.cached for each in ran):
        assert "from the cache" in str(ran)


def test_an_error_of_the_block_is_not_hidden_by_ours(dbopt, client):
    def block():
        with dbopt.assert_max_queries(0):
            client.get("/words")
            raise LookupError("the test's own")

    with pytest.raises(LookupError, match="the test's own"):
        block()


def test_a_block_without_a_query_says_so(dbopt):
    with dbopt.assert_max_queries(0) as ran:
        pass
    assert (len(ran), str(ran), repr(ran)) == (0, "no query ran", "<0 queries>")


def test_fewer_than_no_queries_cannot_be_asked_for(dbopt):
    with pytest.raises(ValueError, match="there cannot be -1 queries"):
        dbopt.assert_max_queries(-1)


@pytest.mark.parametrize("setting", ["DBOPT_MONITOR_ENABLED", "DBOPT_ENABLED"])
def test_where_nothing_is_counted_nothing_is_promised(tmp_path, setting):
    _, dbopt = make(tmp_path / "off.db", **{setting: False})
    with pytest.raises(ConfigurationError, match=f"cannot be counted while {setting} is off"):
        dbopt.assert_max_queries(5)
    dbopt.optimizer.close()


def test_another_app_s_queries_are_not_counted(tmp_path, dbopt):
    other_app, other = make(tmp_path / "other.db")
    with dbopt.count_queries() as ran:
        other_app.test_client().get("/words")
    assert len(ran) == 0
    other.optimizer.close()


def test_figures_are_the_same_whether_somebody_listened_or_not(dbopt, client):
    with dbopt.assert_max_queries(12):
        client.get("/words")
        client.get("/words")
    assert {each.query: each.calls for each in dbopt.monitor.queries()}["SELECT uses FROM word WHERE id = ?"] == 10
