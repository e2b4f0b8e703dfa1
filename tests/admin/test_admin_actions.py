"""What the page does when it is told to, and the same figures as JSON."""

from __future__ import annotations

import re
from typing import Any

import pytest

from flask_dbopt.errors import BackupError
from flask_dbopt.health import Health

Build = Any
TOKEN = "a-token-of-the-tests-0123456789"
NOW = 1_795_000_000.0
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found.group(1)


@pytest.fixture
def staged(build: Build) -> Any:
    return build(DBOPT_ADMIN_TOKEN=TOKEN)


def test_an_index_is_built_only_after_a_second_look(staged: Any) -> None:
    client = staged.signed_in()
    page = client.get("/_dbopt/indexes/feedc0ffee01").text
    assert "nothing else can write" in page
    assert staged.rooms.asked == []
    answer = client.post("/_dbopt/indexes/feedc0ffee01/apply", data={"csrf": csrf_of(page)})
    assert staged.rooms.asked == [("take", "before index feedc0ffee01"), ("apply", "feedc0ffee01")]
    assert "Built: CREATE INDEX keyword_word" in client.get(answer.location).text


def test_the_second_look_says_what_building_means_on_a_server(staged: Any) -> None:
    staged.rooms.writers_wait = False
    staged.optimizer.databases["default"].backups = None
    client = staged.signed_in()
    page = client.get("/_dbopt/indexes/feedc0ffee01").text
    assert "the app reads and writes on meanwhile" in page
    assert "A backup is taken" not in page
    client.post("/_dbopt/indexes/feedc0ffee01/apply", data={"csrf": csrf_of(page)})
    assert staged.rooms.asked == [("apply", "feedc0ffee01")]


def test_where_nothing_can_be_tried_the_page_says_why(staged: Any) -> None:
    staged.rooms.hindrance = lambda: "an index can not be tried without HypoPG"
    assert (
        "Nothing is advised here: an index can not be tried without HypoPG."
        in staged.signed_in().get("/_dbopt/indexes").text
    )


def test_advice_that_is_no_longer_given_cannot_be_applied(staged: Any) -> None:
    assert staged.client.post("/_dbopt/indexes/000000000000/apply", headers=BEARER).status_code == 404
    staged.rooms.recommend = lambda force=False: () if force else staged.rooms.report.recommendations
    answer = staged.client.post("/_dbopt/indexes/feedc0ffee01/apply", headers=BEARER)
    assert answer.status_code == 404
    assert "may exist by now" in answer.json["hint"]
    assert staged.rooms.asked == []


def test_a_backup_can_be_taken_and_checked_from_the_page(staged: Any) -> None:
    client = staged.signed_in()
    csrf = csrf_of(client.get("/_dbopt/backups").text)
    answer = client.post("/_dbopt/backups/take", data={"csrf": csrf, "database": "default", "label": " tonight "})
    assert answer.status_code == 303
    assert "is kept: 8.68 MiB in 1.31 s, restored and checked" in client.get(answer.location).text
    known = staged.rooms.report.databases[0].backups
    answer = client.post("/_dbopt/backups/verify", data={"csrf": csrf, "backup": known[0].id})
    assert "was restored and checked" in client.get(answer.location).text
    answer = client.post("/_dbopt/backups/verify", data={"csrf": csrf, "backup": known[2].id})
    assert "did not prove: page 31 differs" in client.get(answer.location).text
    assert staged.rooms.asked == [("take", "tonight"), ("verify", known[0].id), ("verify", known[2].id)]


def test_a_backup_of_an_unknown_database_is_not_taken(staged: Any) -> None:
    assert staged.client.post("/_dbopt/backups/take", headers=BEARER, data={"database": "x"}).status_code == 404


def test_a_change_that_fails_says_why_and_what_to_do(staged: Any) -> None:
    staged.rooms.fault = BackupError("the disk is full", hint="free 40 MiB on /srv")
    client = staged.signed_in()
    csrf = csrf_of(client.get("/_dbopt/backups").text)
    answer = client.post("/_dbopt/backups/take", data={"csrf": csrf})
    page = client.get(answer.location).text
    assert "the disk is full (free 40 MiB on /srv)" in page
    assert 'class="notice bad"' in page
    told = client.post("/_dbopt/figures/reset", headers=BEARER)
    assert told.status_code == 503
    assert "disk is full" in told.json["done"]


def test_figures_that_cannot_be_had_say_why(staged: Any) -> None:
    def build(*_: Any, **__: Any) -> Any:
        raise BackupError("the ledger is locked", hint="wait")

    staged.rooms.build = build
    answer = staged.signed_in().get("/_dbopt/")
    assert answer.status_code == 503
    assert "The ledger is locked (wait)" in answer.text


def test_a_message_cannot_be_put_on_the_page_by_a_link(staged: Any) -> None:
    client = staged.signed_in()
    page = client.get("/_dbopt/cache?note=Z29vZApTZW5kIG1vbmV5.1.ff").text
    assert "Send money" not in page
    csrf = csrf_of(page)
    done = client.post("/_dbopt/cache/clear", data={"csrf": csrf}).location
    assert "is empty" in client.get(done).text
    staged.clock.now += 61
    assert "is empty" not in client.get(done).text, "and it does not stay"


def test_figures_can_be_reset(staged: Any) -> None:
    client = staged.signed_in()
    csrf = csrf_of(client.get("/_dbopt/settings").text)
    answer = client.post("/_dbopt/figures/reset", data={"csrf": csrf})
    assert answer.location.startswith("/_dbopt/settings?note=")
    assert staged.rooms.asked == [("reset",)]


def test_json_has_the_same_figures_and_words(staged: Any) -> None:
    client = staged.client

    def get(path: str) -> Any:
        answer = client.get(f"/_dbopt/api/v1/{path}", headers=BEARER)
        assert answer.status_code == 200
        assert answer.mimetype == "application/json"
        return answer.json

    overview = get("overview")
    assert overview["workers"] == 2
    assert overview["p95"] == 51.2
    assert len(overview["series"]) == 60
    assert [alert["rule"] for alert in overview["alerts"]] == ["query_too_slow"]
    assert get("queries")["queries"][0]["mean_exec_time"] == 71.3
    assert get("queries/bbbbbbbbbbbb")["recommendations"][0]["id"] == "feedc0ffee01"
    assert get("queries/0123456789ab")["calls"] == 3
    assert get("indexes")["recommendations"][0]["after"]["steps"][0]["index"] == "keyword_word"
    assert get("pool")["databases"]["default"]["hit_ratio"] == pytest.approx(65_800 / 66_000)
    assert get("cache")["hit_ratio"] == pytest.approx(0.824)
    assert len(get("backups")["databases"]["default"]["backups"]) == 4
    assert len(get("alerts")["alerts"]) == 2
    assert get("settings")["admin_token"]["value"] == "(hidden)"
    assert get("settings")["pool_max"] == {"value": 20, "source": "default", "key": "DBOPT_POOL_MAX"}
    assert get("health")["status"] == "degraded"
    assert get("report")["version"] == "0.1.0"


@pytest.mark.parametrize("path", ["nothing", "queries/999999999999", "report/x"])
def test_json_that_is_not_there_says_what_is(staged: Any, path: str) -> None:
    answer = staged.client.get(f"/_dbopt/api/v1/{path}", headers=BEARER)
    assert answer.status_code == 404
    assert answer.json["hint"]


def test_health_tells_everybody_one_word_and_the_reasons_to_who_is_let_in(staged: Any) -> None:
    assert staged.client.get("/_dbopt/health").json == {"status": "degraded"}
    told = staged.client.get("/_dbopt/health", headers=BEARER)
    assert told.status_code == 200, "an alert must not take the worker out of the balance"
    assert "2.6 s" in told.json["reasons"][0]
    staged.optimizer.health = lambda: Health(False, "degraded", ("gone",))
    assert staged.client.get("/_dbopt/health").status_code == 503
