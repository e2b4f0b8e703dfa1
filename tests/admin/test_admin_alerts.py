"""The alerts page over a real app: what stands, what is silenced from here, and the webhook's test."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_dbopt import DBOptimizer

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Shop:
    """An app whose two WALs are too large, as its rules found."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.app = Flask("shop", instance_path=str(folder / "instance"))
        self.app.config.update(
            TESTING=True,
            DBOPT_DATABASE=str(folder / "shop.db"),
            DBOPT_STATE_DIR=str(folder / "state"),
            DBOPT_ADMIN_TOKEN=TOKEN,
            DBOPT_BACKUP_ENABLED=False,
            **config,
        )
        self.optimizer = DBOptimizer(self.app).optimizer
        self.monitor = self.optimizer.monitor
        self.sizes = {"main": 500.0, "log": 900.0}
        self.monitor.watch("wal", lambda: {name: {"bytes": size, "limit": 100.0} for name, size in self.sizes.items()})
        self.monitor.evaluate(time.time())

    def signed_in(self) -> FlaskClient:
        client = self.app.test_client()
        client.post("/_dbopt/sign-in", data={"token": TOKEN})
        return client

    def words(self, client: FlaskClient, address: str = "/_dbopt/alerts") -> str:
        answer = client.get(address)
        assert answer.status_code == 200
        return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))

    def post(self, client: FlaskClient, path: str, **form: Any) -> str:
        """Send a form as the page has it; the words of the page that follows."""
        csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/_dbopt/alerts").text)
        assert csrf
        answer = client.post(f"/_dbopt/alerts/{path}", data={"csrf": csrf[1], **form})
        assert answer.status_code == 303, answer.text
        return self.words(client, answer.location)


@pytest.fixture
def open_shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    opened = []

    def open_shop(**config: Any) -> Shop:
        opened.append(Shop(tmp_path, **config))
        return opened[-1]

    yield open_shop
    for shop in opened:
        shop.optimizer.close()


@pytest.fixture
def shop(open_shop: Callable[..., Shop]) -> Shop:
    return open_shop()


def test_standing_alerts_say_what_to_do_and_every_rule_what_it_finds(shop: Shop) -> None:
    told = shop.words(shop.signed_in())
    assert "The WAL of main has 500 B, 5.0 × its limit of 100 B" in told
    assert "A reader holds an old state open" in told
    assert "the WAL is larger than 2 × DBOPT_SQLITE_WAL_LIMIT 9 × log 2 raised" in told
    assert "slow_requests p95 of an endpoint's requests is over a limit of your own – off" in told
    assert "cache_hit_ratio the cache answers less than 50 % of its look-ups – not judged" in told
    assert "DBOPT_ALERT_WEBHOOK is not set" in told


def test_the_overview_tells_the_first_alerts_a_line_each_and_how_many_more_there_are(shop: Shop) -> None:
    client = shop.signed_in()
    told = shop.words(client, "/_dbopt/")
    assert "WAL size The WAL of main has 500 B" in told
    assert "What to do about them" in told
    assert "more alert" not in told
    shop.sizes.update({f"log{number}": 300.0 for number in range(5)})
    shop.monitor.evaluate(time.time())
    told = shop.words(client, "/_dbopt/")
    assert told.count("WAL size") == 5
    assert "What to do about them and 2 more alerts" in told


def test_each_threshold_tells_where_it_comes_from(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(DBOPT_ALERT_RULES={"wal_size": 3}, DBOPT_ALERT_POOL_HIT_RATIO=0.5)
    told = shop.words(shop.signed_in())
    assert "the WAL is larger than 3 × DBOPT_SQLITE_WAL_LIMIT app.config DBOPT_ALERT_RULES" in told
    assert "less than 50 % of a pool's loans are served at once app.config DBOPT_ALERT_POOL_HIT_RATIO" in told
    assert told.count("app.config DBOPT_ALERT_") == 2


def test_an_alert_is_silenced_and_told_again_from_the_page(shop: Shop) -> None:
    client = shop.signed_in()
    told = shop.post(client, "silence", rule="wal_size", subject="main", hours="4")
    assert "Nobody is told of wal_size about main for 4 hours." in told
    assert "1 raised" in told
    assert "silenced by the admin page, told again in 4 h" in told
    (silence,) = shop.monitor.silences()
    assert (silence.rule, silence.subject, silence.by) == ("wal_size", "main", "the admin page")
    told = shop.post(client, "silence", rule="*", hours="")
    assert "Nobody is told of any alert until it is lifted." in told
    assert "2 silenced" in told
    assert "No alert is raised" in told
    assert "People are told of any alert again." in shop.post(client, "unsilence", rule="*")
    told = shop.post(client, "unsilence", rule="*")
    assert "There was no silence of any alert." in told
    assert [each.rule for each in shop.monitor.silences()] == ["wal_size"]


def test_what_was_is_listed_as_well_again(shop: Shop) -> None:
    shop.sizes.clear()
    for seconds in (10, 80):
        shop.monitor.evaluate(time.time() + seconds)
    told = shop.words(shop.signed_in())
    assert "No alert is raised" in told
    assert "wal_size the WAL of main has 500 B" in told.partition("Well again")[2]
    assert "80 s" in told


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("silence", {"rule": "wal", "hours": "1"}, 404),
        ("silence", {"rule": "wal_size", "hours": "3"}, 404),
        ("unsilence", {}, 404),
        ("test", {}, 404),
        ("silence", {"rule": "wal_size", "subject": "main"}, 200),
    ],
)
def test_programs_may_silence_too_and_are_told_what_they_got_wrong(
    shop: Shop, path: str, form: dict[str, str], status: int
) -> None:
    answer = shop.app.test_client().post(f"/_dbopt/alerts/{path}", data=form, headers=BEARER)
    assert answer.status_code == status
    assert len(shop.monitor.silences()) == (status == 200)


def test_nothing_is_silenced_without_the_forms_token_or_where_the_page_may_only_read(
    open_shop: Callable[..., Shop],
) -> None:
    shop = open_shop(DBOPT_ADMIN_READONLY=True)
    client = shop.signed_in()
    page = client.get("/_dbopt/alerts").text
    assert "alerts/silence" not in page
    form = {"rule": "wal_size", "hours": "1"}
    assert client.post("/_dbopt/alerts/silence", data=form).status_code == 403
    other = open_shop()
    assert other.signed_in().post("/_dbopt/alerts/silence", data=form).status_code == 400
    assert other.monitor.silences() == []


def test_a_test_can_be_posted_and_its_answer_is_told(open_shop: Callable[..., Shop], receiver: Any) -> None:
    shop = open_shop(DBOPT_ALERT_WEBHOOK=receiver.address)
    client = shop.signed_in()
    assert "The webhook answered 200" in shop.post(client, "test")
    receiver.answers = [(500, {}, 0)]
    told = shop.post(client, "test")
    assert "The webhook answered 500" in told
    assert "Alerts are posted to 127.0.0.1" in told
    assert "s3cret" not in client.get("/_dbopt/alerts").text
    assert receiver.bodies()[-1]["event"] == "test"


def test_the_same_as_json(shop: Shop) -> None:
    shop.monitor.silence("wal_size", "log", hours=1, by="ada")
    told = shop.app.test_client().get("/_dbopt/api/v1/alerts", headers=BEARER).json
    assert told is not None
    states = {alert["subject"]: (alert["state"], alert["silence"]) for alert in told["alerts"]}
    assert states["main"] == ("raised", None)
    assert states["log"][0] == "silenced"
    assert states["log"][1]["by"] == "ada"
    assert told["silences"][0]["subject"] == "log"
    rules = {each["rule"]["name"]: each for each in told["rules"]}
    assert rules["wal_size"]["worst"]["value"] == 9.0
    assert (rules["wal_size"]["raised"], rules["wal_size"]["silenced"]) == (2, 1)
    assert rules["slow_requests"]["threshold"] is None
