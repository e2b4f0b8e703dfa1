"""The guard by itself: what it remembers, what it tells, how often, and what it never says."""

import base64

import pytest

from flask_dbopt.errors import DBOptError, StatementRefused
from flask_dbopt.monitor.forms import forms
from flask_dbopt.monitor.guard import Guard, Value, Values

FIND = "SELECT * FROM t WHERE name = '{}'"


class Asked:
    """A request with these values; None: no request."""

    def __init__(self, *values, endpoint="find", complete=True):
        self.now = self.of(*values, endpoint=endpoint, complete=complete)

    def __call__(self):
        return self.now

    def of(self, *values, endpoint="find", complete=True):
        found = [Value("query", sought) for value in values if (sought := forms(value)) is not None]
        self.now = Values(endpoint, found, complete)
        return self.now


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def guard(asked, heard, clock):
    return Guard("log", asked, emit=heard, clock=clock, place=lambda sql: "app.py:7")


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ("' or 1=1--", "' or 1=1--"),
        ("%27%20or%201=1--", "' or 1=1--"),
        ("%2527+or+1=1--", "' or 1=1--"),
        ("%u0027 or 1=1--", "' or 1=1--"),
        ("\\u0027 or 1=1--", "' or 1=1--"),
        ("\\x27 or 1=1--", "' or 1=1--"),
        ("&#39; or 1=1--", "' or 1=1--"),
        ("&apos; or 1=1--", "' or 1=1--"),
        ("＇ or 1=1--", "' or 1=1--"),
        ("' Or 1=1--", "' or 1=1--"),
        ("  ' or 1=1--  ", "' or 1=1--"),
        ("'\t or \n 1=1--", "' or 1=1--"),
        ("'\x00 or 1=1--", "' or 1=1--"),
        ("0x27206f7220313d312d2d", "' or 1=1--"),
        ("27206f7220313d312d2d", "' or 1=1--"),
        (base64.b64encode(b"' or 1=1--").decode(), "' or 1=1--"),
        (base64.urlsafe_b64encode("' or 'ÿÿ'='ÿÿ".encode()).decode().rstrip("="), "' or 'ÿÿ'='ÿÿ"),
        ("' UNunionION SELselectECT 1", "' UNION SELECT 1"),
        ("-x' or 1=1--", "x' or 1=1--"),
        ("lamp,x' or 1=1--,desk", "x' or 1=1--"),
        ("lamp x'or'1'='1 desk", "x'or'1'='1"),
        ("lamp' or 'a'='a, and much more that was cut off", "lamp' or 'a'='a, and much more"),
        ("Bearer x' or 'abc'='abc' or 'a'='b", "x' or 'abc'='abc' or 'a'='b"),
    ],
)
def test_an_attack_is_known_however_it_was_sent(guard, asked, heard, sent, written):
    asked.of(sent)
    assert guard.inspect(FIND.format(written)) is False
    assert heard.named("suspicious_query")


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ("O'Brien", "O''Brien"),
        ("O'Brien", "O\\'Brien"),
        ("rock 'n' roll, cut off after this", "rock ''n'' roll, cut"),
        ("'lamp'", "''lamp''"),
        ("50%_off", "50\\%\\_off"),
        ("O'Brien", "OBrien"),
    ],
)
def test_a_value_that_was_escaped_is_none(guard, asked, heard, sent, written):
    asked.of(sent)
    guard.inspect(f"SELECT * FROM t WHERE name = E'{written}'")
    assert heard == []


@pytest.mark.parametrize("word", ["lamp", "5", "-5.25", "select", "ключ"])
def test_a_single_word_or_number_is_not_even_looked_for(word):
    assert forms(word) is None


def test_what_runs_outside_of_requests_is_the_apps_own_text(guard, asked):
    asked.now = None
    assert guard.inspect("SELECT 1 OR 1=1") is True


def test_a_text_without_a_value_in_it_is_clear_for_good(guard, asked):
    asked.of("x' or 1=1", "50 % off")
    assert guard.inspect("SELECT * FROM t WHERE name = ?") is True


def test_a_literal_of_the_request_is_clear_when_it_comes_a_second_time(guard, asked):
    asked.of("desk lamp")
    sql = FIND.format("desk lamp")
    assert [guard.inspect(sql), guard.inspect(sql)] == [False, True]


def test_a_request_with_too_many_values_clears_nothing(guard, asked):
    asked.of("x y", complete=False)
    assert guard.inspect("SELECT 1") is False


def test_a_shape_that_the_app_is_known_to_run_is_its_own(guard, asked, heard):
    asked.of("z'")
    assert guard.inspect("SELECT * FROM t WHERE id = 7 AND owner = 1") is True
    asked.of("7 AND owner = 2")
    guard.inspect("SELECT * FROM t WHERE id = 7 AND owner = 2")
    assert heard == [], "perhaps the app's text: two that are equal"
    asked.of("7 or owner = 2")
    guard.inspect("SELECT * FROM t WHERE id = 7 or owner = 2")
    assert len(heard) == 1


def test_a_known_shape_excuses_no_comment(guard, asked, heard):
    asked.of("other")
    guard.inspect("SELECT * FROM user WHERE name = 'other'")
    asked.of("admin'--")
    guard.inspect("SELECT * FROM user WHERE name = 'admin'--' AND password = 'x'")
    assert len(heard) == 1


def test_the_signal_tells_shape_endpoint_place_and_source_and_no_value(guard, asked, heard):
    asked.of("top-secret' or pin = 1234 --")
    guard.inspect(FIND.format("top-secret' or pin = 1234 --"))
    ((name, told),) = heard
    assert name == "suspicious_query"
    assert told == {
        "sql": "SELECT * FROM t WHERE name = ? or pin = ?",
        "endpoint": "find",
        "place": "app.py:7",
        "source": "query",
        "blocked": False,
    }


def test_it_is_logged_once_a_minute_and_counted_each_time(guard, asked, heard, clock, caplog):
    asked.of("x' or 1=1--")
    sql = FIND.format("x' or 1=1--")
    for seconds in (0, 20, 20, 20, 20):
        clock.now += seconds
        guard.inspect(sql)
    assert len(heard) == 5
    line = "find: a value from the request (query) changes a statement: SELECT * FROM t WHERE name = ? or ? = ?"
    assert [record.message for record in caplog.records] == [f"{line}  [app.py:7]"] * 2
    (one,) = guard.suspicions()
    assert (one.count, one.last_seen - one.first_seen) == (5, 80)


def test_a_flood_of_shapes_fills_neither_memory_nor_the_log(guard, asked, clock, caplog):
    for number in range(300):
        attack = f"x' or column{number} is null--"
        asked.of(attack)
        guard.inspect(FIND.format(attack))
        clock.now += 0.01
    assert len(guard.suspicions()) == 100
    assert guard.suspicions()[0].sql.endswith("column299 is null")
    assert len(caplog.records) == 30


def test_blocking_refuses_before_the_statement_runs(asked, heard, clock):
    guard = Guard("block", asked, emit=heard, clock=clock)
    asked.of("5 or 1=1")
    with pytest.raises(StatementRefused, match=r"\(query\) changes what this statement says") as caught:
        guard.inspect("DELETE FROM t WHERE id = 5 or 1=1")
    assert isinstance(caught.value, DBOptError)
    assert "parameter" in caught.value.hint
    assert "1=1" not in str(caught.value)
    assert heard[0][1]["blocked"] is True
    asked.of("5")
    assert guard.inspect("DELETE FROM t WHERE id = 5") is True


def test_a_quote_alone_counts_where_it_leaves_a_literal_open(guard, asked, heard):
    asked.of("'")
    guard.inspect("SELECT * FROM t WHERE kind = 'word' AND name = ?")
    assert heard == []
    guard.inspect("SELECT * FROM t WHERE name = ''' AND kind = 1")
    assert len(heard) == 1


def test_a_value_that_begins_the_statement_and_does_not_end_it_is_a_coincidence(guard, asked, heard):
    asked.of("select * from t")
    guard.inspect("SELECT * FROM t WHERE name = ? LIMIT 5")
    assert heard == []
    guard.inspect("select * from t")
    assert len(heard) == 1, "a statement that a request brings is none of the app's"


def test_letters_that_grow_in_lower_case_do_not_mislead(guard, asked, heard):
    asked.of("x' or 1=1--")
    guard.inspect("SELECT 'İİİİ' FROM t WHERE name = 'x' or 1=1--'")
    assert len(heard) == 1


def test_a_long_value_is_looked_for_as_it_is(guard, asked, heard):
    attack = "a" * 20_000 + "' or 1=1 --"
    asked.of(attack)
    guard.inspect(FIND.format(attack))
    assert len(heard) == 1
