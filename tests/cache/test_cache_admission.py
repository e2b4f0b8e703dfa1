"""What is looked up at all, what is kept, and what is left alone."""

from __future__ import annotations

import datetime
import decimal
import sqlite3

import pytest

from flask_dbopt.cache.admission import WORTH, Admission, Doorkeeper, Sight, Statement, weigh


def test_rows_of_plain_values_have_a_weight() -> None:
    row = (None, True, 1, 1.5, "a", b"a", datetime.datetime(2026, 1, 1), decimal.Decimal("1.5"))  # noqa: DTZ001
    one = weigh([row], ())
    assert one is not None
    many = weigh([row] * 100, ())
    assert many is not None
    assert many > 50 * one
    assert weigh([], ()) == 0
    text = weigh([("a" * 100_000,)], ())
    assert text is not None
    assert text > 100_000


@pytest.mark.parametrize("value", [[1], {"a": 1}, bytearray(b"a"), object(), type("Text", (str,), {})("a")])
def test_a_value_that_might_be_altered_has_none(value: object) -> None:
    assert weigh([(1, "a"), (2, value)], ()) is None


@pytest.mark.parametrize("row", [[1], {"a": 1}, "a", type("Point", (tuple,), {})((1,))])
def test_a_row_of_another_type_has_none(row: object) -> None:
    assert weigh([(1,), row], ()) is None


def test_row_types_that_the_driver_vouches_for_are_weighed_by_their_values() -> None:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    rows = connection.execute("SELECT 'abc' AS a, 1 AS b UNION ALL SELECT 'd', 2").fetchall()
    connection.close()
    assert weigh(rows, ()) is None
    assert weigh(rows, {sqlite3.Row}) == weigh([tuple(row) for row in rows], ())


def test_a_statement_that_never_pays_gets_long_pauses_but_is_tried_again() -> None:
    statement = Statement("SELECT ?", "SELECT ?", 1.0)
    tries = [statement.may_fill() for _ in range(2000)]
    assert all(tries[:60])
    assert 60 < sum(tries) < 250
    assert any(tries[1000:])


def test_a_statement_that_pays_is_always_filled() -> None:
    statement = Statement("SELECT ?", "SELECT ?", 1.0)
    for _ in range(2000):
        assert statement.may_fill()
        statement.paid()


def test_a_statement_is_worth_its_mean_not_its_worst_run() -> None:
    statement = Statement("SELECT ?", "SELECT ?", 40 * WORTH)
    assert statement.cost(WORTH / 10)
    assert not all(statement.cost(WORTH / 10) for _ in range(100))


def test_the_doorkeeper_knows_a_key_the_second_time_and_forgets_within_bounds() -> None:
    door = Doorkeeper(100, lambda: 0.0)
    assert door.see("a") is Sight.FIRST
    assert door.see("a") is Sight.AGAIN
    door.turn_away("a")
    assert door.see("a") is Sight.UNFIT
    for number in range(1000):
        door.see(number)
    assert len(door) <= 200
    assert door.see("a") is Sight.FIRST


def test_the_doorkeeper_forgets_with_time() -> None:
    now = [0.0]
    door = Doorkeeper(100, lambda: now[0])
    door.turn_away("a")
    now[0] = 301.0
    assert door.see("a") is Sight.UNFIT
    now[0] = 602.0
    assert door.see("a") is Sight.FIRST


def test_text_without_placeholders_is_considered_the_second_time() -> None:
    admission = Admission(lambda: 0.0)
    assert admission.consider("SELECT * FROM word WHERE id = ?")
    assert not admission.consider("SELECT * FROM word WHERE id = 1")
    assert admission.consider("SELECT * FROM word WHERE id = 1")


def test_a_refused_statement_is_considered_again_after_a_minute_and_a_doubtful_one_soon() -> None:
    now = [0.0]
    admission = Admission(lambda: now[0])
    admission.refuse("SELECT ?", known=True)
    admission.refuse("SELECT ?, 2", known=False)
    assert not admission.consider("SELECT ?")
    assert not admission.consider("SELECT ?, 2")
    now[0] = 1.0
    assert not admission.consider("SELECT ?")
    assert admission.consider("SELECT ?, 2")
    now[0] = 61.0
    assert admission.consider("SELECT ?")


def test_a_cheap_statement_needs_ever_more_expensive_runs_to_be_considered_again() -> None:
    admission = Admission(lambda: 0.0)
    admission.demote("SELECT ?")
    waits = []
    for _ in range(4):
        runs = 1
        while not admission.consider("SELECT ?"):
            runs += 1
        waits.append(runs)
        admission.demote("SELECT ?")
    assert waits == [8, 16, 32, 64]


def test_no_number_of_different_statements_grows_the_books() -> None:
    admission = Admission(lambda: 0.0)
    for number in range(10_000):
        admission.refuse(f"SELECT ?, {number}", known=True)
        admission.demote(f"SELECT ?, {number}")
    assert len(admission) <= 3 * 4096
    assert not admission.consider("x" * 200_000 + "?")
