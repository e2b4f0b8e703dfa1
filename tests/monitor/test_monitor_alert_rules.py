"""Each rule: what breaks it, what is not enough to break it, and what it says."""

import logging

import pytest

from flask_dbopt.monitor import rules
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.monitor.evidence import Evidence
from flask_dbopt.monitor.rules import trend
from flask_dbopt.settings.alert_rules import ALERT_RULES

NOW = 1_800_000_000.0
GIB = 1 << 30
HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
def judge():
    """Apply one rule to evidence: what it says of each broken subject, and the subjects that are well."""

    def judge(rule, threshold=None, **evidence):
        limit = ALERT_RULES[rule].default if threshold is None else threshold
        found = rules.judge(rule, Evidence(now=NOW, **{"life": DAY, **evidence}), limit)
        assert {finding.rule for finding in found} <= {rule}
        broken = {finding.subject: finding.message for finding in found if finding.broken}
        return broken, {finding.subject for finding in found if finding.broken is False}

    return judge


def pool(**figures):
    return {f"pool.main.{name}": value for name, value in figures.items()}


def test_every_rule_can_be_judged_and_has_a_sentence_and_a_hint():
    everything = Evidence(
        now=NOW,
        life=DAY,
        slowest={"abc": (9.0, "SELECT 1")},
        endpoints={"report": (500, 9.0)},
        lately={"cache.misses": 5_000, **pool(requests_num=5_000, requests_wait_ms=1e6, requests_queued=4_000)},
        hour={
            **pool(connections_lost=99),
            "leaks.main.GET report": 2,
            "lost_updates.main.stock": 3,
            "n_plus_one.report": 500,
            "suspicious.search": 1,
            "monitor.dropped": 7,
        },
        watched={
            "wal": {"main": {"bytes": 900, "limit": 100}},
            "backup": {"main": {"interval": HOUR, "newest": NOW - DAY, "backups": 3, "unproved": 2}},
            "disk": {"/srv": {"free": 1.0 * GIB, "total": 40.0 * GIB}},
            "ledger": {"ledger": {"memory_since": NOW - 600}},
        },
        measured={
            "disk": {"/srv": tuple((NOW - HOUR * (6 - n), (7.0 - n) * GIB) for n in range(7))},
            "rows": {"main.log": ((NOW - DAY, 100_000.0), (NOW, 900_000.0))},
        },
    )
    found = {
        f.rule: f
        for name, rule in ALERT_RULES.items()
        for f in rules.judge(name, everything, 1.0 if rule.default is None else rule.default)
    }
    assert found.keys() == ALERT_RULES.keys()
    for name, finding in found.items():
        assert finding.broken, name
        alert = Alert(name, finding.subject, finding.message, finding.value, finding.threshold, NOW)
        assert alert.hint
        assert "{" not in alert.hint
        assert ALERT_RULES[name].shown(finding.value)
        assert ALERT_RULES[name].sentence(finding.threshold)


def test_a_figure_is_shown_in_its_rules_own_unit():
    shown = {name: ALERT_RULES[name].shown for name in ALERT_RULES}
    assert shown["query_too_slow"](2.5) == "2.5 s"
    assert shown["cache_hit_ratio"](0.973) == "97.3 %"
    assert shown["table_growth"](79.0) == "7,900 %"
    assert shown["wal_size"](2.0) == "2 ×"
    assert (shown["wal_size"](0.00104), shown["wal_size"](0.256)) == ("0 ×", "0.26 ×")
    assert shown["n_plus_one"](1234) == "1,234"
    assert ALERT_RULES["connection_leaked"].sentence(0).startswith("any connections in an hour are held longer")
    assert ALERT_RULES["slow_requests"].sentence(None) == "p95 of an endpoint's requests is over a limit of your own"


def test_slow_endpoints_are_told_where_they_were_given_a_limit(build, serve, clock):
    monitor = build(alert_rules={"slow_requests": 0.5})
    for _ in range(100):
        cost = monitor.recorder.begin("report", "GET")
        cost.started -= 2.0
        monitor.recorder.end(cost, 200)
        monitor.recorder.end(monitor.recorder.begin("quick", "GET"), 200)
    monitor.sweep(clock.now)
    monitor.evaluate(clock.now)
    (alert,) = monitor.alerts()
    assert alert.subject == "report"
    assert alert.message.startswith("1 in 20 of 100 requests of report took longer than 2")
    plain = build()
    plain.evaluate(clock.now)
    assert next(state for state in plain.rules() if state.rule.name == "slow_requests").threshold is None


def test_a_wait_in_line_is_a_mean_over_all_loans(judge):
    figures = {"requests_num": 2_000, "requests_wait_ms": 24_000, "requests_queued": 400}
    assert judge("pool_wait", lately=pool(**figures))[0] == {
        "main": "a loan of main waited 12.0 ms on average, longer than 5 ms: 400 of 2,000 had to stand in line"
    }
    assert judge("pool_wait", lately=pool(requests_num=99, requests_wait_ms=9_900)) == ({}, set())
    assert judge("pool_wait", lately=pool(requests_num=2_000, requests_wait_ms=9_000)) == ({}, set()), "nearly"
    assert judge("pool_wait", lately=pool(requests_num=2_000, requests_wait_ms=8_000)) == ({}, {"main"})


def test_a_leak_is_told_with_who_leaked_most(judge):
    hour = {"leaks.main.GET report": 1, "leaks.main.GET export": 4}
    assert judge("connection_leaked", hour=hour)[0] == {
        "main": "5 connections of main were lent for too long within an hour, most of all to GET export"
    }
    assert judge("connection_leaked", hour={"leaks.main.worker": 1})[0]["main"].startswith(
        "1 connection of main was lent"
    )
    assert judge("connection_leaked", 5, hour=hour) == ({}, set()), "no more, but no fifth less"
    assert judge("connection_leaked", 7, hour=hour) == ({}, {"main"})


@pytest.mark.parametrize(
    ("rule", "counter", "subject", "words"),
    [
        ("lost_update_risk", "lost_updates.main.stock", "main.stock", "3 updates of main.stock may have been lost"),
        (
            "suspicious_query",
            "suspicious.shop.find",
            "shop.find",
            "values of requests reshaped 3 statements of shop.find",
        ),
        ("suspicious_query", "suspicious.", "", "values of requests reshaped 3 statements of no request"),
        ("n_plus_one", "n_plus_one.shop.list", "shop.list", "3 requests of shop.list in an hour ran one statement"),
        ("monitor_dropped", "monitor.dropped", "monitor", "3 records were lost within an hour"),
    ],
)
def test_what_is_counted_by_the_hour_is_told_by_its_subject(judge, rule, counter, subject, words):
    broken, _ = judge(rule, 2, hour={counter: 3.0})
    assert list(broken) == [subject]
    assert broken[subject].startswith(words)
    assert judge(rule, 3, hour={counter: 3.0}) == ({}, set())
    assert judge(rule, 4, hour={counter: 3.0}) == ({}, {subject})
    assert judge(rule, 2) == ({}, set())


def test_a_wal_is_measured_by_its_limit(judge):
    def wal(mebibytes):
        return {"wal": {"main": {"bytes": mebibytes * 2**20, "limit": 64 * 2**20}}}

    assert judge("wal_size", watched=wal(320))[0] == {
        "main": "the WAL of main has 320 MiB, 5.0 × its limit of 64.0 MiB, more than 2 ×"
    }
    assert judge("wal_size", watched=wal(128)) == ({}, set()), "at its threshold, and not well below it"
    assert judge("wal_size", watched=wal(64)) == ({}, {"main"})


def test_a_backup_is_overdue_by_its_interval_and_the_first_after_an_hour(judge):
    def backup(**facts):
        return {"backup": {"main": {"interval": DAY, "backups": 1, "unproved": 0, **facts}}}

    assert judge("backup_overdue", watched=backup(newest=NOW - 3 * DAY))[0] == {
        "main": "the last backup of main is 3 days old, though one is due every 24 h"
    }
    assert judge("backup_overdue", watched=backup(newest=NOW - 1.5 * DAY)) == ({}, {"main"})
    assert judge("backup_overdue", watched=backup(newest=NOW + HOUR)) == ({}, set()), "the clock went back"
    assert judge("backup_overdue", life=HOUR, watched=backup(backups=0)) == ({}, {"main"})
    assert judge("backup_overdue", life=HOUR + 1, watched=backup(backups=0))[0] == {
        "main": "there is no backup of main to rely on, though one is due every 24 h"
    }


def test_backups_that_are_not_proved_are_counted_from_the_newest(judge):
    def backup(unproved, backups=9):
        return {"backup": {"main": {"interval": DAY, "newest": NOW, "backups": backups, "unproved": unproved}}}

    assert judge("backup_unproved", watched=backup(1))[0] == {
        "main": "the newest backup of main is not proved: it may not be restorable"
    }
    assert judge("backup_unproved", watched=backup(3))[0]["main"].startswith("the newest 3 backups of main are")
    assert judge("backup_unproved", watched=backup(0)) == ({}, {"main"})
    assert judge("backup_unproved", watched=backup(0, 0)) == ({}, set())


def test_a_disk_is_low_when_little_is_left_in_part_and_in_bytes(judge):
    def disk(free, total):
        return {"disk": {"/srv": {"free": free * GIB, "total": total * GIB}}}

    assert judge("disk_free", watched=disk(1.5, 40))[0] == {
        "/srv": "1.5 GiB are free on the disk of /srv: 3.8 %, less than 5 %"
    }
    assert judge("disk_free", watched=disk(40, 1000)) == ({}, {"/srv"}), "4 %, and yet much"
    assert judge("disk_free", watched=disk(2.2, 40)) == ({}, set()), "just above"
    assert judge("disk_free", watched=disk(3, 40)) == ({}, {"/srv"})


def falling(gibibytes_an_hour, hours=3, free=10.0):
    """Measurements every ten minutes that end with ``free``."""
    steps = hours * 6
    return {
        "disk": {
            "/srv": tuple(
                (NOW - 600 * (steps - n), (free + gibibytes_an_hour * (steps - n) / 6) * GIB) for n in range(steps + 1)
            )
        }
    }


def test_a_disk_that_fills_steadily_is_told_before_it_is_full(judge):
    disk = {"disk": {"/srv": {"free": 10.0 * GIB, "total": 40.0 * GIB}}}
    assert judge("disk_filling", watched=disk, measured=falling(1))[0] == {
        "/srv": "the disk of /srv loses 1.0 GiB an hour and will be full in 10 h, less than 24 h"
    }
    assert judge("disk_filling", watched=disk, measured=falling(0.4)) == ({}, set()), "25 h: neither"
    assert judge("disk_filling", watched=disk, measured=falling(0.1)) == ({}, {"/srv"})
    assert judge("disk_filling", watched=disk, measured=falling(-1)) == ({}, set())
    assert judge("disk_filling", watched=disk, measured=falling(1, hours=1)) != ({}, set())
    roomy = {"disk": {"/srv": {"free": 30.0 * GIB, "total": 40.0 * GIB}}}
    assert judge("disk_filling", watched=roomy, measured=falling(5)) == ({}, set()), "more than half is free"


def test_one_leap_or_a_short_look_is_no_trend():
    leap = tuple((600.0 * n, 10.0 if n < 9 else 5.0) for n in range(18))
    assert trend(leap) == 0
    assert trend(leap[:3]) == 0
    assert trend(tuple((60.0 * n, -1.0 * n) for n in range(30))) == 0, "half an hour"
    assert trend(tuple((600.0 * n, -6.0 * n) for n in range(12))) == pytest.approx(-0.01)


def test_a_table_that_doubles_in_a_day_is_told_once_it_is_large(judge):
    def table(before, after, ago=DAY, kind="rows"):
        return {kind: {"main.log": ((NOW - ago, float(before)), (NOW - HOUR, float(after)))}}

    assert judge("table_growth", measured=table(40_000, 128_000))[0] == {
        "main.log": "the table main.log grew by 220 % in a day, from 40,000 to 128,000 rows, more than 100 %"
    }
    assert judge("table_growth", measured=table(0, 50_000, kind="rowids"))[0]["main.log"].startswith(
        "the table main.log grew by all its rows in a day, from 0 to 50,000 rows"
    )
    assert judge("table_growth", measured=table(40_000, 80_000)) == ({}, set())
    assert judge("table_growth", measured=table(40_000, 72_000)) == ({}, {"main.log"})
    assert judge("table_growth", measured=table(10, 9_000)) == ({}, set()), "small"
    assert judge("table_growth", measured=table(9_000, 18_500)) == ({}, set()), "9,500 rows more are few"
    assert judge("table_growth", measured=table(6_000, 10_500)) == ({}, {"main.log"}), "4,500 are very few"
    assert judge("table_growth", measured=table(40_000, 128_000, ago=5 * HOUR)) == ({}, set()), "no day yet"
    old = {"rows": {"main.log": ((NOW - 4 * DAY, 1.0), (NOW - 3 * DAY, 90_000.0))}}
    assert judge("table_growth", measured=old) == ({}, set()), "nobody has measured since"


def test_figures_in_memory_alone_are_an_alert_after_a_minute(build, clock, path):
    path.parent.mkdir(parents=True)
    path.mkdir()
    monitor = build()
    for seconds in (0, 5, 60):
        clock.now += seconds
        monitor.sweep(clock.now)
        monitor.evaluate(clock.now)
    (alert,) = monitor.alerts()
    assert alert.message == (
        "figures and alerts have been kept in memory alone for 65 s: they cover one process and end with it"
    )
    path.rmdir()
    clock.now += 60
    monitor.sweep(clock.now)
    monitor.evaluate(clock.now)
    assert [alert.state for alert in monitor.alerts()] == ["resolved"]


def test_no_state_folder_at_all_is_nobodys_alert(build, clock):
    monitor = build(path=None)
    for _ in range(3):
        clock.now += 100
        monitor.evaluate(clock.now)
    assert monitor.alerts() == []


def test_a_watch_that_fails_changes_nothing_and_is_logged_once(monitor, clock, caplog):
    sizes = {"main": {"bytes": 900.0, "limit": 100.0}}
    is_broken = False

    def probe():
        if is_broken:
            raise OSError("the disk is away")
        return sizes

    monitor.watch("wal", probe)
    monitor.evaluate(clock.now)
    is_broken = True
    for _ in range(5):
        clock.now += 100
        monitor.evaluate(clock.now)
    assert [alert.state for alert in monitor.alerts()] == ["raised"]
    assert [record.levelno for record in caplog.records if "facts of wal" in record.message] == [logging.ERROR]
    is_broken, sizes = False, {}
    for _ in range(2):
        clock.now += 100
        monitor.evaluate(clock.now)
    assert [alert.state for alert in monitor.alerts()] == ["resolved"]


def test_a_watch_is_asked_no_more_often_than_it_wants(monitor, clock):
    asked = []
    monitor.watch("backup", lambda: asked.append(clock.now) or {}, every=60)
    for _ in range(13):
        monitor.evaluate(clock.now)
        clock.now += 10
    assert len(asked) == 3
    clock.now -= 1_000
    monitor.evaluate(clock.now)
    assert len(asked) == 4, "a clock that went back keeps nobody waiting"


def test_measurements_go_on_where_the_last_worker_left_off_and_old_ones_go(build, clock):
    taken = []

    def probe():
        taken.append(clock.now)
        return {"disk": {"/srv": 1.0 * len(taken)}}

    one = build()
    one.measure("disk", probe, every=300, keep=3_600)
    for _ in range(12):
        clock.now += 60
        one.evaluate(clock.now)
    assert len(taken) == 3
    other = build()
    other.measure("disk", probe, every=300, keep=3_600)
    for _ in range(3):
        other.evaluate(clock.now)
        clock.now += 60
    assert len(taken) == 3, "the last was taken less than five minutes ago"
    for _ in range(100):
        clock.now += 300
        other.evaluate(clock.now)
    kept = other._evaluation._register.series("disk")["/srv"]
    assert clock.now - kept[0][0] <= 3_600
    assert len(kept) in (12, 13)


def test_the_rules_tell_their_worst_subject_and_what_is_off(build, serve, clock):
    monitor = build(alert_rules={"n_plus_one": False})
    serve(monitor, "report", ("SELECT 1", 0.8), ("SELECT a", 1.5), ("SELECT b, c", 0.1))
    monitor.watch("disk", lambda: {"/a": {"free": 5.0, "total": 10.0}, "/b": {"free": 3.0, "total": 10.0}})
    monitor.sweep(clock.now)
    states = {state.rule.name: state for state in monitor.rules()}
    assert list(states) == list(ALERT_RULES)
    assert states["query_too_slow"].worst.value == 1.5
    assert states["disk_free"].worst.subject == "/b"
    assert states["n_plus_one"].threshold is None
    assert states["cache_hit_ratio"].worst is None
