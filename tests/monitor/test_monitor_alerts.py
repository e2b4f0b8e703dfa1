"""Alerts: enough evidence, raised once, resolved once, by whoever holds the lease."""

import logging

import pytest


@pytest.fixture
def pool(monitor):
    """The counters of a pool called "default"."""
    figures = dict.fromkeys(
        ("requests_num", "requests_immediate", "requests_errors", "connections_errors", "connections_lost"), 0
    )
    monitor.source("pool.default", lambda: figures)
    return figures


@pytest.fixture
def look(monitor, clock):
    """Let some seconds pass, then sweep and evaluate."""

    def look(seconds=10):
        clock.now += seconds
        monitor.sweep(clock.now)
        monitor.evaluate(clock.now)
        return [alert.rule for alert in monitor.alerts() if alert.resolved_at is None]

    return look


def test_a_query_slower_than_two_seconds_is_raised_once_and_resolved_when_it_is_seen_no_more(
    monitor, serve, look, heard, caplog
):
    caplog.set_level(logging.INFO, "flask_dbopt.monitoring")
    serve(monitor, "export", ("SELECT 'secret'", 2.5))
    assert look() == look() == ["query_too_slow"]
    (alert,) = monitor.alerts()
    assert alert.subject == monitor.queries()[0].id
    assert (alert.value, alert.threshold) == (2.5, 2.0)
    assert alert.message == "a query took 2.5 s, more than 2 s: SELECT ?"
    assert look(400) == look() == []
    (alert,) = monitor.alerts()
    assert alert.resolved_at - alert.raised_at == 410
    assert [len(heard.named(name)) for name in ("alert_raised", "alert_resolved")] == [1, 1]
    assert heard.named("alert_resolved")[0]["alert"] == alert
    assert [m for m in caplog.messages if m.startswith("alert")] == [
        "alert query_too_slow: a query took 2.5 s, more than 2 s: SELECT ?",
        "alert query_too_slow is resolved: a query took 2.5 s, more than 2 s: SELECT ?",
    ]


def test_a_query_of_just_two_seconds_and_one_from_the_cache_are_no_alert(monitor, serve, look):
    serve(monitor, "export", ("SELECT 1", 2.0), ("SELECT 2", 9.0, 1, None, True))
    assert look() == []


def test_a_poor_cache_is_raised_only_after_a_hundred_look_ups(monitor, look):
    monitor.count("cache.hits", 40)
    monitor.count("cache.misses", 59)
    assert look() == []
    monitor.count("cache.misses", 21)
    assert look() == ["cache_hit_ratio"]
    (alert,) = monitor.alerts()
    assert alert.message == "the cache answered 33% of 120 look-ups, less than 50%"


def test_a_ratio_that_hovers_at_its_threshold_does_not_flap(monitor, look, heard):
    monitor.count("cache.hits", 49)
    monitor.count("cache.misses", 51)
    assert look() == ["cache_hit_ratio"]
    monitor.count("cache.hits", 5)
    assert look() == ["cache_hit_ratio"], "51 % is over the threshold, and not well over it"
    monitor.count("cache.hits", 20)
    assert look() == []
    monitor.count("cache.misses", 20)
    assert look() == [], "51 % is not under the threshold"
    assert len(heard) == 2


def test_a_pool_that_makes_people_wait_is_raised_by_its_name(monitor, pool, look):
    pool.update(requests_num=200, requests_immediate=150)
    assert look() == ["pool_hit_ratio"]
    (alert,) = monitor.alerts()
    assert alert.subject == "default"
    assert alert.message == "the pool of default served 75% of 200 loans at once, less than 80%"
    pool.update(requests_num=2_200, requests_immediate=2_150)
    assert look() == []


def test_more_than_ten_connection_errors_in_an_hour_are_raised(pool, look):
    pool.update(connections_errors=10, requests_errors=10)
    assert look() == [], "a failed attempt and the check-out it failed are one error"
    pool.update(connections_lost=1)
    assert look() == ["connection_errors"]
    assert look(2 * 3600) == []


def test_a_rule_is_switched_off_or_moved_by_its_name(build, serve, clock):
    monitor = build(alert_rules={"query_too_slow": False, "cache_hit_ratio": 0.9, "wal_size": 5})
    serve(monitor, "export", ("SELECT 1", 60.0))
    monitor.count("cache.hits", 80)
    monitor.count("cache.misses", 20)
    monitor.count("pool.default.requests_num", 500)
    monitor.sweep(clock.now)
    monitor.evaluate(clock.now)
    assert sorted((alert.rule, alert.threshold) for alert in monitor.alerts()) == [
        ("cache_hit_ratio", 0.9),
        ("pool_hit_ratio", 0.8),
    ]
    every = ("query_too_slow", "cache_hit_ratio", "pool_hit_ratio", "connection_errors")
    off = build(alert_rules=dict.fromkeys(every, False))
    off.evaluate(clock.now)
    assert [alert.rule for alert in off.alerts() if alert.resolved_at is None] == []


def test_the_next_lease_holder_knows_what_was_raised_and_resolves_it(build, serve, clock, heard):
    one, other = build(), build()
    serve(one, "export", ("SELECT 1", 3.0))
    one.sweep(clock.now)
    one.evaluate(clock.now)
    one.close()
    other.evaluate(clock.now)
    assert len(heard.named("alert_raised")) == 1
    clock.now += 400
    other.evaluate(clock.now)
    assert len(heard.named("alert_resolved")) == 1


def test_standing_alerts_come_first_and_what_is_long_resolved_is_not_told(monitor, serve, look, clock):
    serve(monitor, "export", ("SELECT old", 3.0))
    look()
    look(400)
    monitor.count("cache.misses", 200)
    assert look() == ["cache_hit_ratio"]
    serve(monitor, "export", ("SELECT 1", 3.0))
    look()
    assert [(a.rule, a.resolved_at is None) for a in monitor.alerts()] == [
        ("query_too_slow", True),
        ("cache_hit_ratio", True),
        ("query_too_slow", False),
    ]
    clock.now += 86_400
    assert [a.rule for a in monitor.alerts()] == ["query_too_slow", "cache_hit_ratio"]


def test_a_long_statement_is_cut_in_the_message(monitor, serve, look):
    serve(monitor, "export", ("SELECT " + ", ".join(f"column_{n}" for n in range(200)), 3.0))
    look()
    assert len(monitor.alerts()[0].message) < 300
