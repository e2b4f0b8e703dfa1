"""Silences: what nobody wants to hear shows all the same, and is told when it outlives its silence."""

import sqlite3
import threading
from contextlib import closing

import pytest


@pytest.fixture
def trouble(monitor, clock):
    """Alerts about WALs: set their multiples of the limit, then look."""
    sizes = {}
    monitor.watch("wal", lambda: {name: {"bytes": times * 100, "limit": 100} for name, times in sizes.items()})

    def look(seconds=10, **times):
        sizes.update(times)
        clock.now += seconds
        monitor.evaluate(clock.now)
        return {alert.subject: alert.state for alert in monitor.alerts()}

    return look


def told(heard):
    return [(name.removeprefix("alert_"), details["alert"].subject) for name, details in heard if "alert" in details]


def test_a_silenced_alert_shows_marked_and_is_told_nobody(monitor, trouble, heard, caplog, clock):
    made = monitor.silence("wal_size", "main", hours=4, by="ada")
    assert trouble(main=5, other=5) == {"main": "silenced", "other": "raised"}
    assert told(heard) == [("raised", "other")]
    (quiet,) = (alert for alert in monitor.alerts() if alert.subject == "main")
    assert quiet.silence == made
    assert (made.until, made.by, made.since) == (clock.now - 10 + 4 * 3600, "ada", clock.now - 10)
    assert trouble(main=1) == {"main": "silenced", "other": "raised"}
    assert trouble(60) == {"other": "raised", "main": "resolved"}
    assert told(heard) == [("raised", "other")]
    assert "nobody is told of wal_size about main for now: silenced by ada" in caplog.messages


def test_what_outlives_its_silence_is_told_then_and_once(monitor, trouble, heard):
    monitor.silence("wal_size", hours=1)
    trouble(main=5)
    assert told(heard) == []
    assert trouble(3600) == {"main": "raised"}
    trouble()
    assert told(heard) == [("raised", "main")]
    trouble(main=1)
    trouble(60)
    assert told(heard) == [("raised", "main"), ("resolved", "main")]


def test_the_end_of_an_alert_that_was_told_is_not_told_while_it_is_silenced(monitor, trouble, heard):
    trouble(main=5)
    monitor.silence("wal_size")
    trouble(main=1)
    assert trouble(60) == {"main": "resolved"}
    assert told(heard) == [("raised", "main")]


def test_a_silence_without_a_time_holds_until_it_is_lifted_and_for_every_worker(build, monitor, trouble, heard, clock):
    monitor.silence("*", by="deploy")
    assert trouble(40 * 86_400, main=5) == {"main": "silenced"}
    other = build()
    assert [(each.rule, each.subject, each.until, each.by) for each in other.silences()] == [
        ("*", None, None, "deploy")
    ]
    assert not other.unsilence("wal_size"), "the silence that was made is another"
    assert other.unsilence("*")
    assert not other.unsilence("*")
    assert trouble() == {"main": "raised"}
    assert told(heard) == [("raised", "main")]


def test_a_silence_of_one_rule_leaves_the_others_loud(monitor, serve, trouble, heard, clock):
    monitor.silence("query_too_slow", hours=1)
    serve(monitor, "export", ("SELECT 1", 9.0))
    monitor.sweep(clock.now)
    trouble(main=5)
    assert told(heard) == [("raised", "main")]
    assert [(state.rule.name, state.raised, state.silenced) for state in monitor.rules() if state.raised] == [
        ("query_too_slow", 1, 1),
        ("wal_size", 1, 0),
    ]


def test_nonsense_is_refused_with_what_was_meant(monitor, clock):
    with pytest.raises(ValueError, match="no alert rule 'wal'; the nearest is 'wal_size'"):
        monitor.silence("wal")
    with pytest.raises(ValueError, match="must end in the future"):
        monitor.silence("wal_size", until=clock.now)
    with pytest.raises(ValueError, match="must end in the future"):
        monitor.silence("wal_size", hours=-1)
    for hours in (float("inf"), float("nan"), 1e12):
        with pytest.raises(ValueError, match="within ten years"):
            monitor.silence("wal_size", hours=hours)


def test_a_later_silence_replaces_the_one_before(monitor, trouble, clock):
    monitor.silence("wal_size", hours=1, by="ada")
    clock.now += 10
    monitor.silence("wal_size", hours=5, by="bob")
    assert [each.by for each in monitor.silences()] == ["bob"]
    assert trouble(2 * 3600, main=5) == {"main": "silenced"}


def test_a_silence_outlasts_a_moment_in_which_others_write(build, monitor, path):
    monitor.silence("wal_size")
    writing, done = threading.Event(), threading.Event()

    def write():
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing.set()
            done.wait(0.4)
            other.execute("ROLLBACK")

    thread = threading.Thread(target=write)
    thread.start()
    writing.wait()
    monitor.silence("n_plus_one")
    done.set()
    thread.join()
    assert {each.rule for each in build().silences()} == {"wal_size", "n_plus_one"}


def test_silences_are_kept_where_the_ledger_cannot_be(build):
    monitor = build(path=None)
    monitor.silence("wal_size", hours=1)
    assert len(monitor.silences()) == 1
    assert monitor.unsilence("wal_size")
