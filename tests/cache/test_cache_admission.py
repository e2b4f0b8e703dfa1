"""What is looked up at all, what is kept, and what is left alone."""

from __future__ import annotations

import datetime
import decimal
import sqlite3

import pytest

from flask_dbopt.cache.admission import (
    SURE,
    WORTH,
    Admission,
    Doorkeeper,
    Price,
    Sight,
    Statement,
    is_lasting,
    remember,
    weigh,
)


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


def statement(sql: str = "SELECT ?", balance: float = 1.0) -> Statement:
    return Statement(sql, sql, balance, balance)


def test_a_statement_that_never_pays_gets_long_pauses_but_is_tried_again() -> None:
    poor = statement()
    tries = [poor.may_fill() for _ in range(2000)]
    assert all(tries[:60])
    assert 60 < sum(tries) < 250
    assert any(tries[1000:])


def test_a_statement_that_pays_is_always_filled() -> None:
    rich = statement()
    for _ in range(2000):
        assert rich.may_fill()
        rich.paid(1.0)


def test_a_statement_is_worth_what_its_runs_cost_together_not_its_worst_one() -> None:
    even, cheap = statement(balance=4 * WORTH), statement(balance=4 * WORTH)
    for _ in range(100):
        even.ran(0.2 * WORTH)
        even.ran(2 * WORTH)
        cheap.ran(0.2 * WORTH)
        cheap.ran(1.2 * WORTH)
    assert even.is_worth_it()
    assert not cheap.is_worth_it()


def test_a_run_told_in_two_parts_counts_once() -> None:
    whole, parted = statement(balance=10 * WORTH), statement(balance=10 * WORTH)
    for _ in range(5):
        whole.ran(0.5 * WORTH)
        parted.ran(0.4 * WORTH)
        parted.ran(0.5 * WORTH, before=0.4 * WORTH)
    assert parted.balance == pytest.approx(whole.balance) == pytest.approx(7.5 * WORTH)


def test_a_run_told_by_the_wall_clock_costs_no_more_than_runs_were_measured_to() -> None:
    crowded, slow = statement(balance=10 * WORTH), statement(balance=10 * WORTH)
    crowded.measured(0.2 * WORTH)
    slow.measured(2 * WORTH)
    for _ in range(20):  # the interpreter was with others
        crowded.ran(100 * WORTH)
        slow.ran(100 * WORTH)
    assert not crowded.is_worth_it()
    assert slow.is_worth_it()


def test_the_dearest_measured_run_fades() -> None:
    once_slow = statement(balance=WORTH)
    once_slow.measured(100 * WORTH)
    for _ in range(50):
        once_slow.measured(0.1 * WORTH)
    before = once_slow.balance
    once_slow.ran(100 * WORTH)
    assert once_slow.balance < before


def test_where_look_ups_are_dear_more_has_to_be_saved_by_one_until_they_are_cheap_again() -> None:
    price = Price()
    for _ in range(200):
        price.paid(5e-6)
    assert price.factor == 1.0
    price.paid(1.0)  # once says little
    assert price.factor < 1.1
    for _ in range(200):
        price.paid(150e-6)
    assert price.factor == pytest.approx(10.0, rel=0.1)
    for _ in range(1000):
        price.paid(1.0)
    assert price.factor < 100, "whatever happens, a query of some milliseconds is looked up"
    for _ in range(10):
        price.fade()
    assert price.factor == 1.0


def test_what_a_slow_time_saved_up_is_spent_within_some_thousand_cheap_runs() -> None:
    once_slow = statement()
    for _ in range(1000):
        once_slow.ran(1.0)
        once_slow.paid(1.0)
    runs = 0
    while once_slow.is_worth_it():
        once_slow.ran(WORTH / 5)
        runs += 1
    assert 1000 < runs < 1500


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


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM word WHERE id = ?",
        "SELECT * FROM word WHERE id = ?1",
        "SELECT * FROM word WHERE id = :id AND text = 'a'",
        "SELECT * FROM word WHERE id = @id",
        "SELECT * FROM word WHERE id = $id LIMIT 10",
        "SELECT count(*) FROM word",
        "SELECT t1.a2 FROM word AS t1",
        "SELECT \"a'b 1\" FROM word -- of 12 o'clock",
        "SELECT [1] FROM word /* 'a' 1 */",
        "SELECT `1` FROM word /* 'a' 1",
    ],
)
def test_text_with_placeholders_or_without_any_value_lasts(sql: str) -> None:
    assert is_lasting(sql)
    assert Admission(lambda: 0.0).consider(sql, 2 * SURE)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM word WHERE id = 1",
        "SELECT * FROM word WHERE zipf > .5",
        "SELECT * FROM word WHERE text = 'who?'",
        "SELECT * FROM word WHERE text = 'it''s @ 12:30'",
        "SELECT data ->> '$.a' FROM word",
        'SELECT "?" FROM word WHERE id=1 -- :id',
        "SELECT [@a] FROM word WHERE id=1 /* $id ? */",
        "SELECT * FROM word WHERE id IN (" + ", ".join(map(str, range(3000))) + ")",
    ],
)
def test_text_with_values_in_it_may_never_come_again_so_it_is_considered_the_second_time(sql: str) -> None:
    assert not is_lasting(sql)
    admission = Admission(lambda: 0.0)
    assert not admission.consider(sql, 2 * SURE)
    assert admission.consider(sql, 2 * SURE)


def test_a_run_that_might_be_a_cold_start_is_not_enough() -> None:
    admission = Admission(lambda: 0.0)
    assert not admission.consider("SELECT ?", 0.9 * SURE)
    assert admission.consider("SELECT ?", 0.9 * SURE)


def test_no_first_run_gives_more_than_ten_cheap_ones_take() -> None:
    balance = Admission(lambda: 0.0).consider("SELECT ?", 100.0)
    assert 0 < balance <= 10 * 0.8 * WORTH


def test_a_refused_statement_is_considered_again_after_a_minute_and_a_doubtful_one_soon() -> None:
    now = [0.0]
    admission = Admission(lambda: now[0])
    admission.refuse("SELECT ?", known=True)
    admission.refuse("SELECT ?, 2", known=False)
    assert not admission.consider("SELECT ?", 1.0)
    assert not admission.consider("SELECT ?, 2", 1.0)
    now[0] = 1.0
    assert not admission.consider("SELECT ?", 1.0)
    assert admission.consider("SELECT ?, 2", 1.0)
    now[0] = 61.0
    assert admission.consider("SELECT ?", 1.0)


def test_a_cheap_statement_needs_ever_more_expensive_runs_to_be_considered_again() -> None:
    admission = Admission(lambda: 0.0)
    admission.demote("SELECT ?")
    waits = []
    for _ in range(4):
        runs = 1
        while not admission.consider("SELECT ?", 2 * WORTH):
            runs += 1
        waits.append(runs)
        admission.demote("SELECT ?")
    assert waits == [8, 16, 32, 64]


def test_what_was_slow_that_often_is_trusted_for_more_than_ten_cheap_runs() -> None:
    admission = Admission(lambda: 0.0)
    first = admission.consider("SELECT ?", 1.0)
    admission.demote("SELECT ?")
    again = next(balance for _ in range(8) if (balance := admission.consider("SELECT ?", 1.0)))
    assert again > 50 * first


def test_no_number_of_different_statements_grows_the_books() -> None:
    admission = Admission(lambda: 0.0)
    for number in range(10_000):
        admission.refuse(f"SELECT ?, {number}", known=True)
        admission.demote(f"SELECT ?, {number}")
        admission.consider(f"SELECT {number}", 1.0)
    assert len(admission) <= 4 * 2048
    assert not admission.consider("x" * 200_000 + "?", 1.0)
    assert not admission.consider(b"SELECT ?", 1.0)  # type: ignore[arg-type]


def test_a_statement_that_pays_outlives_any_number_of_others() -> None:
    statements: dict[str, Statement] = {}
    paying, idle = statement("SELECT 'paying'"), statement("SELECT 'idle'")
    remember(statements, paying)
    remember(statements, idle)
    for number in range(10_000):
        if number % 1000 == 0:
            paying.paid(1.0)
        remember(statements, statement(f"SELECT ?, {number}"))
    assert len(statements) <= 2048
    assert statements[paying.sql] is paying
    assert idle.sql not in statements
