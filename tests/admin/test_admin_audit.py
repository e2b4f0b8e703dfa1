"""The door writes down who came, who left and who was turned away; a tab shows the log."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def make(tmp_path):
    made = []

    def app_of(*, debug: bool = False, leaves_files: bool = True, **config: Any) -> Flask:
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.debug = debug
        app.config.update(TESTING=True, DBOPT_DATABASE=str(tmp_path / "shop.db"), **config)
        if leaves_files:
            app.config["DBOPT_STATE_DIR"] = str(tmp_path / "state")
        app.dbopt = DBOptimizer(app)
        made.append(app)
        return app

    yield app_of
    for app in made:
        app.extensions["dbopt"].close()


@pytest.fixture
def shop(make):
    return make(DBOPT_ADMIN_TOKEN=TOKEN)


def told(app: Flask) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Deed, who and what of each entry, the oldest first, less what is the same in all."""
    entries = reversed(list(app.extensions["dbopt"].audit.entries(deed="admin")))
    return [
        (entry.deed, {name: value for name, value in entry.who.items() if name not in ("pid", "app")}, dict(entry.what))
        for entry in entries
    ]


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


def test_a_sign_in_and_a_sign_out_are_written_down_and_the_token_is_not(shop):
    client = shop.test_client()
    client.post("/_dbopt/sign-in", data={"token": TOKEN}, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    csrf = csrf_of(client.get("/_dbopt/").text)
    client.get("/_dbopt/queries")
    client.post("/_dbopt/sign-out", data={"csrf": csrf})
    assert told(shop) == [
        ("admin.sign_in", {"by": "page", "address": "192.0.2.7"}, {"via": "token"}),
        ("admin.sign_out", {"by": "page", "via": "token", "address": "127.0.0.1"}, {}),
    ]
    assert TOKEN not in shop.extensions["dbopt"].audit.path.read_text()


def test_a_wrong_token_is_written_down_from_the_form_and_from_the_header(shop):
    client = shop.test_client()
    client.post("/_dbopt/sign-in", data={"token": "guess-one"})
    client.get("/_dbopt/api/v1/pool", headers={"Authorization": "Bearer guess-two"})
    for _ in range(10):
        client.post("/_dbopt/sign-in", data={"token": "guess-three"})
    who = {"by": "page", "address": "127.0.0.1"}
    assert told(shop) == [
        ("admin.refuse", who, {"reason": "wrong token", "page": "sign-in"}),
        ("admin.refuse", who, {"reason": "wrong token", "page": "api/v1/pool"}),
        ("admin.refuse", who, {"reason": "too many wrong tokens", "page": "sign-in"}),
    ]
    assert "guess" not in shop.extensions["dbopt"].audit.path.read_text()


def test_a_visitor_whom_the_app_lets_in_is_named_and_told_once(make):
    shop = make()
    shop.secret_key = "only for this test"
    answers = iter(["anna", "anna", "anna", True])
    shop.dbopt.admin_auth(lambda: next(answers))
    client = shop.test_client()
    csrf = csrf_of(client.get("/_dbopt/cache").text)
    client.get("/_dbopt/queries")
    assert client.post("/_dbopt/cache/clear", data={"csrf": csrf}).status_code == 303
    other = shop.test_client()
    other.get("/_dbopt/")
    entries = list(shop.extensions["dbopt"].audit.entries())
    assert [(entry.deed, entry.who.get("name")) for entry in reversed(entries)] == [
        ("audit.begin", None), ("admin.sign_in", "anna"), ("cache.clear", "anna"), ("admin.sign_in", None),
    ]  # fmt: skip


def test_whom_debug_mode_lets_in_is_told_once(make):
    shop = make(debug=True)
    client = shop.test_client()
    for path in ("", "queries", "static/page.css", "health"):
        client.get(f"/_dbopt/{path}")
    assert told(shop) == [("admin.sign_in", {"by": "page", "via": "debug", "address": "127.0.0.1"}, {})]


def test_a_closed_page_and_a_reading_program_leave_nothing(make, shop):
    assert make().test_client().get("/_dbopt/").status_code == 404
    shop.test_client().get("/_dbopt/api/v1/pool", headers=BEARER)
    shop.test_client().get("/_dbopt/health")
    assert told(shop) == []


def test_a_change_that_may_not_be_made_is_written_down(make):
    shop = make(DBOPT_ADMIN_TOKEN=TOKEN, DBOPT_ADMIN_READONLY=True)
    assert shop.test_client().post("/_dbopt/cache/clear", headers=BEARER).status_code == 403
    assert told(shop)[0][2] == {"reason": "nothing may be changed here", "page": "cache/clear"}
    client = make(DBOPT_ADMIN_TOKEN=TOKEN).test_client()
    client.post("/_dbopt/sign-in", data={"token": TOKEN})
    assert client.post("/_dbopt/cache/clear", data={"csrf": "forged"}).status_code == 400
    assert told(client.application)[-1][2]["reason"].startswith("a form without its token")


def test_a_change_that_has_no_deed_of_its_own_is_written_down_all_the_same(build):
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)  # whose rooms report no deeds
    assert staged.client.post("/_dbopt/cache/clear", headers=BEARER).status_code == 200
    (entry,) = staged.optimizer.audit.entries()
    assert (entry.deed, entry.what) == ("admin.change", {"change": "cache_clear"})


def page_of(app: Flask) -> str:
    answer = app.test_client().get("/_dbopt/audit", headers={**BEARER, "Accept": "text/html"})
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.text))


def test_the_tab_shows_the_newest_entries_and_that_the_chain_is_whole(shop):
    shop.test_client().post("/_dbopt/cache/clear", headers=BEARER)
    page = page_of(shop)
    assert "Chain intact, 2 entries" in page
    assert "cache.clear" in page
    assert "page via bearer address 127.0.0.1" in page
    told = shop.test_client().get("/_dbopt/api/v1/audit", headers=BEARER).json
    assert (told["intact"], told["entries_checked"], told["problem"]) == (True, 2, "")
    assert told["entries"][0]["deed"] == "cache.clear"


def test_the_tab_says_where_the_chain_is_broken_or_cannot_be_read(shop):
    shop.test_client().post("/_dbopt/cache/clear", headers=BEARER)
    path = shop.extensions["dbopt"].audit.path
    path.write_bytes(path.read_bytes().replace(b"cache.clear", b"cache.clean"))
    page = page_of(shop)
    assert "The chain is broken" in page
    assert "audit.log, line 2: entry 1 was changed" in page
    path.unlink()
    path.mkdir()
    assert "The audit log has a problem" in page_of(shop)
    assert shop.test_client().get("/_dbopt/api/v1/audit", headers=BEARER).json["intact"] is False


def test_the_tab_says_that_there_is_no_file(make):
    shop = make(leaves_files=False, DBOPT_ADMIN_TOKEN=TOKEN)
    shop.test_client().post("/_dbopt/cache/clear", headers=BEARER)
    assert "1 entry in memory" in page_of(shop)
