"""What may be changed from the page, and by whom: never by a link, a foreign form or a guess."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

Build = Any
TOKEN = "a-token-of-the-tests-0123456789"
NOW = 1_795_000_000.0
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def csrf_of(client: FlaskClient, path: str = "/_dbopt/cache") -> str:
    page = client.get(path).text
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found.group(1)


@pytest.mark.parametrize("data", [{}, {"csrf": ""}, {"csrf": "made.up.token"}])
def test_a_change_without_its_csrf_token_is_refused(build: Build, data: dict[str, str]) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    answer = staged.signed_in().post("/_dbopt/cache/clear", data=data)
    assert answer.status_code == 400
    assert "no longer good" in answer.text
    assert staged.rooms.asked == []


def test_a_csrf_token_of_another_sign_in_is_refused(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    stolen = csrf_of(staged.signed_in())
    assert staged.signed_in().post("/_dbopt/cache/clear", data={"csrf": stolen}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 400),
        ({"Sec-Fetch-Site": "same-site"}, 400),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"}, 303),
        ({"Origin": "https://evil.example"}, 400),
        ({"Origin": "null"}, 400),
        ({"Origin": "http://[bad"}, 400),
        ({"Origin": "http://localhost"}, 303),
    ],
)
def test_a_form_sent_from_elsewhere_is_refused_though_its_token_is_right(
    build: Build, headers: dict[str, str], status: int
) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).signed_in()
    answer = client.post("/_dbopt/cache/clear", data={"csrf": csrf_of(client)}, headers=headers)
    assert answer.status_code == status


def test_a_program_with_the_token_needs_no_csrf_token(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    answer = staged.client.post("/_dbopt/cache/clear", headers=BEARER)
    assert answer.status_code == 200
    assert "empty" in answer.json["done"]
    assert staged.rooms.asked == [("clear",)]


@pytest.mark.parametrize("method", ["get", "options", "put", "delete"])
def test_only_a_post_changes_anything(build: Build, method: str) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    answer = getattr(staged.client, method)("/_dbopt/cache/clear", headers=BEARER)
    assert answer.status_code in (404, 405)
    assert staged.rooms.asked == []


def test_a_read_only_page_offers_no_change_and_refuses_all(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN, DBOPT_ADMIN_READONLY=True)
    client = staged.signed_in()
    changes = (
        "/cache/clear",
        "/backups/take",
        "/backups/verify",
        "/figures/reset",
        "/indexes/feedc0ffee01/apply",
    )
    for path in ("", "queries", "indexes", "indexes/feedc0ffee01", "cache", "backups", "settings"):
        page = client.get(f"/_dbopt/{path}").text
        assert not any(f'action="/_dbopt{change}"' in page for change in changes)
    for change in changes:
        assert client.post(f"/_dbopt{change}", headers=BEARER).status_code == 403
    assert staged.rooms.asked == []


def test_a_huge_form_is_refused_unread(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    assert staged.client.post("/_dbopt/sign-in", data={"token": "x" * 100_000}).status_code in (401, 413)
    assert staged.client.post("/_dbopt/cache/clear", headers=BEARER, data={"x": "x" * 100_000}).status_code == 413


def test_signing_out_ends_the_sign_in(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).signed_in()
    assert client.post("/_dbopt/sign-out").status_code == 400, "only from the page itself"
    assert client.post("/_dbopt/sign-out", data={"csrf": csrf_of(client)}).location == "/_dbopt/"
    assert client.get("/_dbopt/").status_code == 401
