"""flask db-opt alerts: what stands, who is left in peace, and whether the webhook hears."""

from __future__ import annotations

import time

import pytest


@pytest.fixture
def swollen(site):
    """Two WALs far over their limit, as the rules found them; set ``sizes`` and call it to look again."""
    monitor = site.extensions["dbopt"].monitor
    site.extensions["dbopt"].housekeeper.stop(2.0)
    sizes = {"main": 500.0, "log": 900.0}
    monitor.watch("wal", lambda: {name: {"bytes": size, "limit": 100.0} for name, size in sizes.items()})

    def look(seconds=0.0, **changed):
        sizes.update(changed)
        monitor.evaluate(time.time() + seconds)

    look()
    return look


@pytest.mark.usefixtures("swollen")
def test_standing_alerts_are_told_with_what_to_do_and_exit_with_one(say, ask):
    told = say("alerts")
    assert told.exit_code == 1
    assert "wal_size · main · since just now" in told.output
    assert "the WAL of main has 500 B, 5.0 × its limit" in told.output
    assert "A reader holds an old state open" in told.output
    code, told = ask("alerts")
    assert code == 1
    assert {(alert["subject"], alert["state"]) for alert in told["alerts"]} == {("main", "raised"), ("log", "raised")}
    assert "flask db-opt optimize" in told["alerts"][0]["hint"]


def test_nothing_wrong_is_said_too(say, ask):
    told = say("alerts")
    assert told.exit_code == 0
    assert "No alert stands." in told.output
    assert ask("alerts")[1]["alerts"] == []


def test_what_is_well_again_is_listed_with_how_long_it_lasted(say, swollen):
    swollen(60, main=1.0, log=1.0)
    swollen(120)
    told = say("alerts")
    assert told.exit_code == 0
    assert "Well again (2 of 2)" in told.output
    assert "2 min" in told.output


@pytest.mark.usefixtures("swollen")
def test_silenced_alerts_show_and_exit_with_nothing(say, ask):
    told = say("alerts", "--silence", "wal_size", "--subject", "main", "--for", "4h")
    assert told.exit_code == 0
    assert "Nobody is told of wal_size about main for 4 h, until 20" in told.output
    assert say("alerts").exit_code == 1, "log is still loud"
    code, made = ask("alerts", "--silence", "*")
    assert (code, made["rule"], made["subject"], made["until"]) == (0, "*", None, None)
    told = say("alerts")
    assert told.exit_code == 0
    assert "(silenced until it is lifted)" in told.output
    assert "Silences" in told.output
    assert say("alerts", "--unsilence", "*").output.startswith("People are told of any alert again.")
    assert ask("alerts", "--unsilence", "wal_size", "--subject", "main")[1]["silenced"] is False
    told = say("alerts", "--unsilence", "wal_size")
    assert told.exit_code == 2
    assert "wal_size is not silenced" in told.stderr


@pytest.mark.usefixtures("swollen")
def test_rules_are_listed_with_what_they_find(say):
    told = " ".join(say("alerts", "--rules").output.split())
    assert "wal_size the WAL is larger than 2 × DBOPT_SQLITE_WAL_LIMIT 9 × (log) raised 2" in told
    assert "slow_requests p95 of an endpoint's requests is over a limit of your own – off" in told
    say("alerts", "--silence", "wal_size")
    assert "9 × (log) silenced 2" in " ".join(say("alerts", "--rules").output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--silence", "wal"], "there is no rule 'wal'; the nearest is wal_size"),
        (["--silence", "wal_size", "--unsilence", "wal_size"], "say one at a time"),
        (["--silence", "wal_size", "--test-webhook"], "say one at a time"),
        (["--subject", "main"], "--subject goes with --silence"),
        (["--for", "4h"], "--for goes with --silence"),
        (["--silence", "wal_size", "--for", "soon"], "30s, 15m, 1h or 7d"),
        (["--silence", "wal_size", "--for", "0h"], "Error: a silence must end in the future"),
        (["--silence", "wal_size", "--for", "99999999999d"], "within ten years"),
        (["--test-webhook"], "there is no webhook"),
    ],
)
def test_misuse_is_told_with_what_was_meant(say, arguments, words):
    told = say("alerts", *arguments)
    assert told.exit_code == 2
    assert words in told.stderr


def test_a_test_of_the_webhook_tells_what_it_answered(make_app, say, ask, receiver):
    app = make_app(DBOPT_ALERT_WEBHOOK=receiver.address)
    code, told = ask("alerts", "--test-webhook", creates=lambda: app)
    assert (code, told["taken"], told["told"]) == (0, True, "answered 200")
    (body,) = receiver.bodies()
    assert (body["event"], body["alert"]) == ("test", None)
    assert body["text"].startswith("[words] this is a test")
    receiver.answers = [(404, {}, 0)]
    told = say("alerts", "--test-webhook", creates=lambda: app)
    assert told.exit_code == 1
    assert told.output.startswith("The webhook answered 404 after")
