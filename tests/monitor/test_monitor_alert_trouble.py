"""Alerts when things go wrong around them: a ledger that cannot be read, facts that make no sense, a storm."""

import logging
import os
import sqlite3
from contextlib import closing

import pytest

from flask_dbopt.monitor.alerts import MOST_STANDING
from flask_dbopt.monitor.register import MOST_RESOLVED, Register


@pytest.fixture
def look(clock):
    """Let some seconds pass, then sweep and evaluate: what stands."""

    def look(monitor, seconds=10):
        clock.now += seconds
        monitor.sweep(clock.now)
        monitor.evaluate(clock.now)
        return sorted((alert.rule, alert.subject) for alert in monitor.alerts() if alert.resolved_at is None)

    return look


def told(heard):
    return [(name.removeprefix("alert_"), details["alert"].subject) for name, details in heard if "alert" in details]


def spoil(path):
    """Let nobody open the ledger: what is in its place is a folder."""
    aside = path.with_name("aside")
    aside.mkdir()
    for each in list(path.parent.glob("ledger.db*")):
        each.rename(aside / each.name)
    path.mkdir()
    return lambda: (path.rmdir(), [each.rename(path.with_name(each.name)) for each in aside.iterdir()])


def count_leaks(monitor, number=1):
    for _ in range(number):
        monitor.count("leaks.default.GET report")


def test_a_ledger_that_cannot_be_read_for_a_while_raises_and_resolves_nothing_again(monitor, look, heard, path):
    count_leaks(monitor)
    assert look(monitor) == [("connection_leaked", "default")]
    mend = spoil(path)
    for _ in range(3):
        assert ("connection_leaked", "default") in look(monitor)
    mend()
    for _ in range(5):
        assert ("connection_leaked", "default") in look(monitor)
    assert [each for each in told(heard) if each[1] == "default"] == [("raised", "default")]


def test_growth_that_was_told_stands_while_the_ledger_cannot_be_read(monitor, look, heard, path, clock):
    tables = {"main.log": 20_000.0}
    monitor.measure("tables", lambda: {"rows": tables}, every=3_600, keep=3 * 86_400)
    look(monitor)
    look(monitor, 60)
    tables["main.log"] = 90_000.0
    assert look(monitor, 86_400) == [("table_growth", "main.log")]
    mend = spoil(path)
    for _ in range(8):
        assert ("table_growth", "main.log") in look(monitor)
    mend()
    for _ in range(8):
        assert ("table_growth", "main.log") in look(monitor, 5)
    assert [each for each in told(heard) if each[1] == "main.log"] == [("raised", "main.log")]


def test_what_hardly_changes_is_not_read_at_every_look(monitor, look, monkeypatch):
    asked = []
    whole = Register.series
    monkeypatch.setattr(Register, "series", lambda register, kind: asked.append(kind) or whole(register, kind))
    for _ in range(12):
        look(monitor, 5)
    assert sorted(asked) == ["disk", "rowids", "rows"]


def test_a_ledger_that_was_deleted_repeats_nothing(monitor, look, heard, path):
    count_leaks(monitor)
    look(monitor)
    for each in path.parent.glob("ledger.db*"):
        each.unlink()
    count_leaks(monitor)
    assert look(monitor) == look(monitor) == [("connection_leaked", "default")]
    assert told(heard) == [("raised", "default")]


def test_what_another_worker_resolved_meanwhile_does_not_come_back(build, look, heard):
    first, second = build(), build()
    count_leaks(first)
    look(first)
    assert look(second, 3_700) == []
    assert look(first) == []
    assert told(heard) == [("raised", "default"), ("resolved", "default")]


def test_what_was_raised_in_memory_and_stood_in_the_file_too_is_resolved_once(build, look, heard, path):
    first, second = build(), build()
    count_leaks(first)
    look(first)
    mend = spoil(path)
    count_leaks(second)
    assert ("connection_leaked", "default") in look(second)
    mend()
    first.close()
    look(second, 40)
    assert look(second) == [("connection_leaked", "default")]
    look(second, 3_700)
    look(second)
    assert [each for each in told(heard) if each == ("resolved", "default")] == [("resolved", "default")]
    assert not [alert for alert in second.alerts() if alert.resolved_at is None]


def test_one_rule_that_cannot_be_applied_leaves_the_others_theirs(monitor, look, heard, caplog):
    count_leaks(monitor)
    facts = {"main": {"bytes": 500.0, "limit": 100.0}}
    monitor.watch("wal", lambda: facts)
    assert look(monitor) == [("connection_leaked", "default"), ("wal_size", "main")]
    facts = {"main": {"bytes": 5.0, "limit": 0.0}}
    count_leaks(monitor)
    caplog.clear()
    assert look(monitor) == look(monitor) == [("connection_leaked", "default"), ("wal_size", "main")]
    assert [message for message in caplog.messages if "wal_size" in message] == ["the rule wal_size cannot be applied"]
    assert {state.rule.name for state in monitor.rules()} > {"wal_size"}
    facts = {"main": {"bytes": 5.0, "limit": 100.0}}
    look(monitor)
    assert look(monitor, 60) == [("connection_leaked", "default")]


def test_a_storm_is_told_by_its_worst_and_the_rest_comes_as_these_are_well(monitor, look, heard, serve):
    serve(monitor, "all", *((f"SELECT a{n} FROM t", 3.0 + n) for n in range(MOST_STANDING + 50)))
    assert len(look(monitor)) == MOST_STANDING
    assert len(look(monitor)) == MOST_STANDING == len(told(heard))
    values = [details["alert"].value for _, details in heard if "alert" in details]
    assert min(values) == 3.0 + 50


def test_only_so_many_that_are_well_again_are_kept(monitor, look, heard, path, clock):
    count_leaks(monitor)
    look(monitor)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO alert VALUES ('wal_size', ?, 'm', 3.0, 2.0, ?, ?)",
            ((f"s{n}", clock.now - n - 10, clock.now - n) for n in range(MOST_RESOLVED + 100)),
        )
    assert look(monitor, 3_700) == []
    alerts = monitor.alerts()
    assert len(alerts) == MOST_RESOLVED
    assert {alerts[0].rule, alerts[-1].subject} == {"connection_leaked", f"s{MOST_RESOLVED - 2}"}


@pytest.mark.parametrize(
    ("counter", "half_hourly"),
    [("n_plus_one.shop", (60, 41, 57, 44)), ("pool.default.connections_lost", (6, 5, 5, 6))],
)
def test_a_count_that_hovers_at_its_threshold_does_not_flap(monitor, look, heard, counter, half_hourly):
    for number in half_hourly:
        monitor.count(counter, number)
        look(monitor, 1_850)
    assert [event for event, _ in told(heard)] == ["raised"]
    look(monitor, 1_850)
    look(monitor, 3_700)
    assert [event for event, _ in told(heard)] == ["raised", "resolved"]


def test_a_ratio_of_which_there_is_hardly_enough_to_judge_by_does_not_flap(monitor, look, heard, clock):
    clock.now += 600
    for lookups in (1_010, 990, 1_010, 990):
        monitor.count("cache.misses", lookups)
        look(monitor, 850)
        assert look(monitor, 70) == [("cache_hit_ratio", "cache")]
    look(monitor, 2_000)
    look(monitor, 61)
    assert told(heard) == [("raised", "cache"), ("resolved", "cache")]


def test_too_few_look_ups_are_not_said_to_be_well(monitor, look, clock):
    monitor.count("cache.misses", 5_000)
    look(monitor)
    (state,) = (each for each in monitor.rules() if each.rule.name == "cache_hit_ratio")
    assert state.state == "not judged", "the worker is too young"


def test_a_silence_that_is_over_leaves_nothing_behind(monitor, look, path, clock):
    monitor.watch("wal", lambda: {"main": {"bytes": 500.0, "limit": 100.0}})
    for n in range(5):
        monitor.silence("wal_size", f"s{n}", hours=1)
    monitor.silence("*", hours=1)
    look(monitor)
    look(monitor, 7_200)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT kind, name FROM note WHERE kind IN ('silence', 'untold')").fetchall() == []


def test_names_that_are_no_text_harm_nothing(monitor, look, heard, caplog):
    strange = os.fsdecode(b"/srv/\xff")
    monitor.watch("disk", lambda: {strange: {"free": 1.0, "total": 1e6}})
    monitor.measure("disk", lambda: {"disk": {strange: 1.0}}, every=60, keep=3600)
    count_leaks(monitor)
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        assert ("connection_leaked", "default") in look(monitor, 100)
    assert [subject for event, subject in told(heard)] == ["default", "/srv/\\udcff"]
    assert not [message for message in caplog.messages if "broken" in message]


def test_a_statement_that_is_no_text_breaks_no_ledger(monitor, look, heard, serve, caplog):
    serve(monitor, "find", ("SELECT [a\udc80] FROM t", 3.0))
    serve(monitor, "find", ("SELECT größe FROM t", 0.1))
    ((rule, subject),) = look(monitor)
    assert rule == "query_too_slow"
    assert monitor.query(subject).query == "SELECT [a\\udc80] FROM t"
    assert "SELECT größe FROM t" in [each.query for each in monitor.queries()]
    assert monitor.notices() == []
