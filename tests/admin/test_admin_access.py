"""The door: closed by default, opened by a token, a hook or local debugging, and by nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from flask_dbopt.admin.signing import Signer
from flask_dbopt.admin.throttle import TRIES

Build = Any
TOKEN = "a-token-of-the-tests-0123456789"
NOW = 1_795_000_000.0
PATHS = (
    "/_dbopt",
    "/_dbopt/",
    "/_dbopt/queries",
    "/_dbopt/api/v1/report",
    "/_dbopt/health",
    "/_dbopt/sign-in",
    "/_dbopt/static/page.css",
    "/_dbopt/nothing",
)
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def csrf_of(client: FlaskClient, path: str = "/_dbopt/cache") -> str:
    page = client.get(path).text
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found.group(1)


def debugging(build: Build) -> Any:
    app = Flask("omni")
    app.debug = True
    return build(app)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_there_until_a_token_or_a_hook_is_set(build: Build, path: str) -> None:
    client = build().client
    missing = client.get("/nowhere/near")
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (404, missing.text)
    assert dict(answer.headers) == dict(missing.headers), "it must not even be seen that a page could be there"


def test_a_change_is_not_there_either_while_the_page_is_closed(build: Build) -> None:
    staged = build()
    assert staged.client.post("/_dbopt/cache/clear").status_code == 404
    assert staged.rooms.asked == []


def test_switched_off_it_leaves_no_route(build: Build) -> None:
    staged = build(DBOPT_ADMIN_ENABLED=False, DBOPT_ADMIN_TOKEN=TOKEN)
    assert "dbopt" not in staged.app.blueprints
    assert staged.client.get("/_dbopt/", headers=BEARER).status_code == 404


# --- debugging on one's own machine ---


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "127.1.2.3"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_in_debug_mode_this_machine_gets_in(build: Build, host: str, peer: str) -> None:
    client = debugging(build).client
    answer = client.get("/_dbopt/", headers={"Host": host}, environ_base={"REMOTE_ADDR": peer})
    assert answer.status_code == 200


@pytest.mark.parametrize("peer", ["10.0.0.7", "192.168.1.4", "", "not-an-address", "2001:db8::1"])
def test_in_debug_mode_another_machine_finds_nothing(build: Build, peer: str) -> None:
    assert debugging(build).client.get("/_dbopt/", environ_base={"REMOTE_ADDR": peer}).status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::1", "0.0.0.0"]
)
def test_in_debug_mode_a_foreign_host_name_finds_nothing(build: Build, host: str) -> None:
    """DNS rebinding: a page elsewhere points its own name at 127.0.0.1."""
    answer = debugging(build).client.get("/_dbopt/", environ_overrides={"HTTP_HOST": host})
    assert answer.status_code in (400, 404)


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP"]
)
def test_in_debug_mode_a_visitor_through_a_proxy_finds_nothing(build: Build, header: str) -> None:
    answer = debugging(build).client.get("/_dbopt/", headers={header: "127.0.0.1"})
    assert answer.status_code == 404


def test_debug_mode_opens_nothing_once_a_token_is_set(build: Build) -> None:
    app = Flask("omni")
    app.debug = True
    assert build(app, DBOPT_ADMIN_TOKEN=TOKEN).client.get("/_dbopt/").status_code == 401


def test_debug_mode_opens_nothing_once_a_hook_is_set(build: Build) -> None:
    staged = debugging(build)
    staged.hook = lambda: False
    assert staged.client.get("/_dbopt/").status_code == 404


def test_changes_work_while_debugging_but_only_from_the_page(build: Build) -> None:
    staged = debugging(build)
    client = staged.client
    assert client.post("/_dbopt/cache/clear").status_code == 400
    assert staged.rooms.asked == []
    assert client.post("/_dbopt/cache/clear", data={"csrf": csrf_of(client)}).status_code == 303
    assert staged.rooms.asked == [("clear",)]


# --- the token ---


def test_the_token_opens_pages_and_json_as_a_bearer(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).client
    assert client.get("/_dbopt/", headers=BEARER).status_code == 200
    assert client.get("/_dbopt/api/v1/overview", headers={"Authorization": f"bearer  {TOKEN} "}).status_code == 200


@pytest.mark.parametrize(
    "given", ["Bearer wrong", "Bearer", "Basic eDp5", f"Token {TOKEN}", "Bearer ä", f"Bearer {TOKEN}x"]
)
def test_a_wrong_header_gets_a_plain_refusal(build: Build, given: str) -> None:
    answer = build(DBOPT_ADMIN_TOKEN=TOKEN).client.get("/_dbopt/api/v1/report", headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "token" in answer.json["error"]
    assert TOKEN not in answer.text


def test_a_token_outside_ascii_works_in_the_form_and_in_the_header(build: Build) -> None:
    token = "schlüssel-für-alles-☕"
    staged = build(DBOPT_ADMIN_TOKEN=token)
    assert staged.client.post("/_dbopt/sign-in", data={"token": token}).status_code == 303
    sent = f"Bearer {token}".encode().decode("latin-1")
    assert staged.client.get("/_dbopt/", environ_overrides={"HTTP_AUTHORIZATION": sent}).status_code == 200


def test_who_is_not_signed_in_gets_a_form_and_no_figure(build: Build) -> None:
    answer = build(DBOPT_ADMIN_TOKEN=TOKEN).client.get("/_dbopt/queries")
    assert answer.status_code == 401
    assert 'type="password"' in answer.text
    assert "keyword" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"


def test_signing_in_leads_to_the_page_that_was_asked_for(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).client
    assert 'name="path" value="queries/aaaaaaaaaaaa"' in client.get("/_dbopt/queries/aaaaaaaaaaaa").text
    answer = client.post("/_dbopt/sign-in", data={"token": f" {TOKEN}\n", "path": "queries/aaaaaaaaaaaa"})
    assert (answer.status_code, answer.location) == (303, "/_dbopt/queries/aaaaaaaaaaaa")
    assert client.get(answer.location).status_code == 200
    assert client.get("/_dbopt/sign-in").location == "/_dbopt/", "there is nothing more to sign in to"


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example", "/\\evil.example", "a" * 300, "\r\nSet-Cookie: x=y"]
)
def test_signing_in_never_leads_away(build: Build, path: str) -> None:
    answer = build(DBOPT_ADMIN_TOKEN=TOKEN).client.post("/_dbopt/sign-in", data={"token": TOKEN, "path": path})
    assert answer.location == "/_dbopt/"


def test_the_cookie_is_for_this_page_and_no_script(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).client
    plain = client.post("/_dbopt/sign-in", data={"token": TOKEN}).headers["Set-Cookie"]
    for part in ("HttpOnly", "SameSite=Strict", "Path=/_dbopt", "Max-Age=3600"):
        assert part in plain
    assert "Secure" not in plain
    assert TOKEN not in plain
    secure = client.post("/_dbopt/sign-in", data={"token": TOKEN}, base_url="https://omni.example").headers[
        "Set-Cookie"
    ]
    assert "; Secure" in secure


def test_the_sign_in_needs_no_secret_key_and_never_sees_the_hosts_session(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    assert staged.app.secret_key is None
    client = staged.signed_in()
    assert client.get("/_dbopt/").status_code == 200
    assert client.get_cookie("session") is None


def test_a_sign_in_ends_an_hour_after_the_last_page(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    client = staged.signed_in()
    for _ in range(3):
        staged.clock.now += 3000
        assert client.get("/_dbopt/").status_code == 200, "each page renews it"
    staged.clock.now += 3601
    assert client.get("/_dbopt/").status_code == 401


def test_figures_that_renew_themselves_do_not_keep_a_sign_in_alive(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    client = staged.signed_in()
    staged.clock.now += 3000
    assert client.get("/_dbopt/", headers={"X-DBOpt-Live": "1"}).status_code == 200
    staged.clock.now += 1000
    assert client.get("/_dbopt/").status_code == 401


def test_a_sign_in_ends_after_half_a_day_whatever_is_done(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    client = staged.signed_in()
    for _ in range(14):
        staged.clock.now += 3000
        assert client.get("/_dbopt/").status_code == 200
    staged.clock.now += 3000
    assert client.get("/_dbopt/").status_code == 401


def test_another_token_ends_every_sign_in(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).signed_in()
    kept = next(iter(client._cookies.values()))  # type: ignore[attr-defined]
    other = build(DBOPT_ADMIN_TOKEN="another-token").client
    other.set_cookie(kept.key, kept.value, path="/_dbopt")
    assert other.get("/_dbopt/").status_code == 401


def test_two_apps_on_one_host_do_not_sign_each_other_out(build: Build) -> None:
    one = build(DBOPT_ADMIN_TOKEN=TOKEN).client.post("/_dbopt/sign-in", data={"token": TOKEN})
    two = build(DBOPT_ADMIN_TOKEN="another").client.post("/_dbopt/sign-in", data={"token": "another"})
    assert one.headers["Set-Cookie"].partition("=")[0] != two.headers["Set-Cookie"].partition("=")[0]


@pytest.mark.parametrize("cookie", ["", "x", "a.b.c", "....", "YQ.zz.ff", "\u00e4.1.2"])
def test_a_made_up_cookie_opens_nothing(build: Build, cookie: str) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    name = f"dbopt_{Signer(TOKEN).name('cookie')}"
    client = staged.client
    client.set_cookie(name, cookie, path="/_dbopt")
    assert client.get("/_dbopt/").status_code == 401


# --- the app's own check ---


def test_a_hook_decides_and_closes_the_page_for_others(build: Build) -> None:
    staged = build()
    staged.hook = lambda: request.headers.get("X-User") == "ann"
    assert staged.client.get("/_dbopt/", headers={"X-User": "ann"}).status_code == 200
    assert staged.client.get("/_dbopt/", headers={"X-User": "bob"}).status_code == 404


def test_a_hook_that_raises_lets_nobody_in(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    staged = build()
    staged.hook = lambda: {}["user"]
    assert staged.client.get("/_dbopt/").status_code == 404
    assert "admin_auth" in caplog.text


def test_with_both_either_opens(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    staged.hook = lambda: request.headers.get("X-User") == "ann"
    assert staged.client.get("/_dbopt/", headers={"X-User": "ann"}).status_code == 200
    assert staged.client.get("/_dbopt/", headers=BEARER).status_code == 200
    assert staged.client.get("/_dbopt/").status_code == 401
    # the app may well use bearer tokens of its own
    for _ in range(TRIES + 2):
        mixed = {"X-User": "ann", "Authorization": "Bearer the-apps-own"}
        assert staged.client.get("/_dbopt/", headers=mixed).status_code == 200


@pytest.mark.parametrize("secret", [None, "a secret", b"\xff bytes"])
def test_who_is_let_in_by_a_hook_changes_things_from_the_page_only(build: Build, secret: Any) -> None:
    app = Flask("omni")
    app.secret_key = secret
    staged = build(app)
    staged.hook = lambda: True
    client, stranger = staged.client, staged.client
    token = csrf_of(client)
    assert stranger.post("/_dbopt/cache/clear", data={"csrf": token}).status_code == 400, "bound to the visitor"
    assert client.post("/_dbopt/cache/clear", data={"csrf": token}).status_code == 303
    assert staged.rooms.asked == [("clear",)]
