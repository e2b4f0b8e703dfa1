"""Alerts: enough evidence, raised once, resolved once, by whoever holds the lease."""

import logging

import pytest

from flask_dbopt.settings.alert_rules import ALERT_RULES


@pytest.fixture
def pool(monitor):
    """The counters of a pool called "default"."""
    figures = dict.fromkeys(
        ("requests_num", "requests_immediate", "requests_errors", "connections_errors", "connections_lost"), 0
    )
    monitor.source("pool.default", lambda: figures)
    return figures


@pytest.fixture
def grown(monitor, clock):
    """The monitor, in a worker that is warm."""
    clock.now += 600
    return monitor


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


def test_a_poor_cache_is_raised_only_after_a_thousand_look_ups(grown, look):
    grown.count("cache.hits", 400)
    grown.count("cache.misses", 599)
    assert look() == []
    grown.count("cache.misses", 201)
    assert look() == ["cache_hit_ratio"]
    (alert,) = grown.alerts()
    assert alert.message == "the cache answered 33 % of 1,200 look-ups, less than 50 %"


def test_a_cold_cache_is_not_judged_and_what_it_missed_is_forgotten_once_it_is_warm(monitor, look):
    monitor.count("cache.misses", 5_000)
    assert [look(), look(280), look(300)] == [[], [], []], "ten minutes are not over"
    monitor.count("cache.hits", 700)
    monitor.count("cache.misses", 500)
    assert look(30) == [], "58 % since it was warm, 11 % with the cold minutes"
    monitor.count("cache.misses", 500)
    assert look() == ["cache_hit_ratio"]


def test_a_restart_neither_resolves_nor_repeats_what_stood(build, clock, heard):
    before = build()
    clock.now += 600
    before.count("cache.misses", 2_000)
    before.sweep(clock.now)
    before.evaluate(clock.now)
    before.close()
    after = build()
    for hits in (0, 0, 20_000):
        clock.now += 310
        after.count("cache.hits", hits)
        after.count("cache.misses", 1_000)
        after.sweep(clock.now)
        after.evaluate(clock.now)
        assert [name for name, _ in heard] == ["alert_raised"]
    clock.now += 60
    after.sweep(clock.now)
    after.evaluate(clock.now)
    assert [name for name, _ in heard] == ["alert_raised", "alert_resolved"]


def test_a_ratio_that_hovers_at_its_threshold_does_not_flap(grown, look, heard):
    grown.count("cache.hits", 490)
    grown.count("cache.misses", 510)
    assert look() == ["cache_hit_ratio"]
    grown.count("cache.hits", 50)
    assert look() == ["cache_hit_ratio"], "51 % is over the threshold, and not well over it"
    grown.count("cache.hits", 200)
    assert look() == ["cache_hit_ratio"], "it is well, and must stay so for a minute"
    assert look(59) == ["cache_hit_ratio"]
    assert look(1) == []
    grown.count("cache.misses", 200)
    assert look() == [], "51 % is not under the threshold"
    assert len(heard) == 2


@pytest.mark.parametrize(
    ("hits", "lookups", "threshold", "words"),
    [
        (4_996, 10_000, 0.5, "49.96 % of 10,000 look-ups, less than 50 %"),
        (5_460, 10_000, 0.547, "54.6 % of 10,000 look-ups, less than 54.7 %"),
        (20, 1_000, 0.5, "2 % of 1,000 look-ups, less than 50 %"),
    ],
)
def test_a_sentence_never_says_that_a_ratio_is_less_than_itself(build, clock, hits, lookups, threshold, words):
    monitor = build(alert_cache_hit_ratio=threshold)
    clock.now += 600
    monitor.count("cache.hits", hits)
    monitor.count("cache.misses", lookups - hits)
    monitor.sweep(clock.now)
    monitor.evaluate(clock.now)
    (alert,) = monitor.alerts()
    assert alert.message == f"the cache answered {words}"


def test_a_run_just_over_the_threshold_is_told_with_the_digits_that_say_so(monitor, serve, look):
    serve(monitor, "export", ("SELECT 1", 2.004))
    look()
    assert monitor.alerts()[0].message.startswith("a query took 2.004 s, more than 2 s")


def test_a_pool_that_makes_people_wait_is_raised_by_its_name(grown, pool, look):
    pool.update(requests_num=2_000, requests_immediate=1_500)
    assert look() == ["pool_hit_ratio"]
    (alert,) = grown.alerts()
    assert alert.subject == "default"
    assert alert.message == "the pool of default served 75 % of 2,000 loans at once, less than 80 %"
    pool.update(requests_num=22_000, requests_immediate=21_500)
    assert look() == ["pool_hit_ratio"]
    assert look(60) == []


def test_more_than_ten_connection_errors_in_an_hour_are_raised(pool, look):
    pool.update(connections_errors=10, requests_errors=10)
    assert look() == [], "a failed attempt and the check-out it failed are one error"
    pool.update(connections_lost=1)
    assert look() == ["connection_errors"]
    assert look(2 * 3600) == []


def test_a_rule_is_switched_off_or_moved_by_its_name(build, serve, clock):
    monitor = build(alert_rules={"query_too_slow": False, "cache_hit_ratio": 0.9})
    clock.now += 600
    serve(monitor, "export", ("SELECT 1", 60.0))
    monitor.count("cache.hits", 800)
    monitor.count("cache.misses", 200)
    monitor.count("pool.default.requests_num", 5_000)
    monitor.sweep(clock.now)
    monitor.evaluate(clock.now)
    assert sorted((alert.rule, alert.threshold) for alert in monitor.alerts()) == [
        ("cache_hit_ratio", 0.9),
        ("pool_hit_ratio", 0.8),
    ]
    off = build(alert_rules=dict.fromkeys(ALERT_RULES, False))
    off.evaluate(clock.now)
    clock.now += 60
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
    look(900)
    monitor.count("cache.misses", 2_000)
    assert look() == ["cache_hit_ratio"]
    serve(monitor, "export", ("SELECT 1", 3.0))
    look()
    assert [(a.rule, a.resolved_at is None) for a in monitor.alerts()] == [
        ("query_too_slow", True),
        ("cache_hit_ratio", True),
        ("query_too_slow", False),
    ]
    clock.now += 31 * 86_400
    assert [a.rule for a in monitor.alerts()] == ["query_too_slow", "cache_hit_ratio"]


def test_a_long_statement_is_cut_in_the_message(monitor, serve, look):
    serve(monitor, "export", ("SELECT " + ", ".join(f"column_{n}" for n in range(200)), 3.0))
    look()
    assert len(monitor.alerts()[0].message) < 300
