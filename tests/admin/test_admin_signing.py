"""Signatures that are good for one purpose, and guesses that take too long."""

from __future__ import annotations

from typing import Any

from flask_dbopt.admin.signing import Signer
from flask_dbopt.admin.throttle import PEERS, SECONDS_A_TRY, TRIES, Throttle

Build = Any
TOKEN = "a-token-of-the-tests-0123456789"
NOW = 1_795_000_000.0
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_a_csrf_token_is_no_sign_in(build: Build) -> None:
    """A signature for one purpose must not be good for another."""
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    signer = Signer(TOKEN, staged.clock)
    for purpose in ("csrf", "visit", "note"):
        client = staged.client
        client.set_cookie(f"dbopt_{signer.name('cookie')}", signer.sign(purpose, f"nonce:{int(NOW):x}"), path="/_dbopt")
        assert client.get("/_dbopt/").status_code == 401
    client = staged.client
    client.set_cookie(f"dbopt_{signer.name('cookie')}", signer.sign("sign-in", f"nonce:{int(NOW):x}"), path="/_dbopt")
    assert client.get("/_dbopt/").status_code == 200


def test_what_was_signed_in_the_future_or_altered_is_not_believed() -> None:
    now = [NOW]
    signer = Signer("secret", lambda: now[0])
    signed = signer.sign("note", "hello")
    assert signer.read("note", signed, 60)
    body, _, mac = signed.rpartition(".")
    text, _, moment = body.rpartition(".")
    assert signer.read("note", f"{text}.{int(moment, 16) + 9:x}.{mac}", 60) is None
    now[0] = NOW - 3600
    assert signer.read("note", signed, 60) is None
    assert signer.read("note", signer.sign("note", "x").replace(".", "!", 1), 60) is None


def test_text_that_is_signed_but_cannot_be_read_is_no_sign_in() -> None:
    signer = Signer("secret", lambda: NOW)
    for body in ("/w.1", "A.zz", "_.1"):
        assert signer.read("note", f"{body}.{signer._mac('note', body)}", 1e12) is None


# --- guessing ---


def test_guessing_is_slowed_down_and_a_right_token_in_between_does_not_count(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    client = staged.client
    for _ in range(TRIES):
        answer = client.post("/_dbopt/sign-in", data={"token": "wrong"})
        assert answer.status_code == 401
        assert "not the token" in answer.text
    answer = client.post("/_dbopt/sign-in", data={"token": TOKEN})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= SECONDS_A_TRY + 1
    assert client.get("/_dbopt/api/v1/report", headers=BEARER).status_code == 429


def test_guessing_by_header_is_slowed_down_too(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).client
    statuses = [
        client.get("/_dbopt/api/v1/report", headers={"Authorization": f"Bearer {n}"}).status_code
        for n in range(TRIES + 2)
    ]
    assert statuses == [401] * TRIES + [429] * 2


def test_one_guesser_does_not_lock_out_others_nor_who_is_signed_in(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    signed_in = staged.signed_in()
    for _ in range(TRIES + 1):
        staged.client.post("/_dbopt/sign-in", data={"token": "wrong"})
    assert signed_in.get("/_dbopt/").status_code == 200
    elsewhere = {"REMOTE_ADDR": "198.51.100.7"}
    answer = staged.client.post("/_dbopt/sign-in", data={"token": TOKEN}, environ_base=elsewhere)
    assert answer.status_code == 303


def test_the_wait_gets_shorter_with_time_and_a_peer_is_forgotten_in_the_end() -> None:
    now = [100.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(TRIES):
        assert throttle.wait("198.51.100.7") == 0
        throttle.failed("198.51.100.7")
    assert throttle.wait("198.51.100.7") == SECONDS_A_TRY
    now[0] += SECONDS_A_TRY / 2
    assert throttle.wait("198.51.100.7") == SECONDS_A_TRY / 2
    now[0] += SECONDS_A_TRY / 2
    assert throttle.wait("198.51.100.7") == 0
    for n in range(PEERS + 5):
        throttle.failed(f"peer {n}")
    assert len(throttle._free_at) == PEERS


def test_an_ipv6_customer_does_not_get_tries_for_each_of_its_addresses() -> None:
    throttle = Throttle(lambda: 0.0)
    for n in range(TRIES):
        throttle.failed(f"2001:db8:1:2::{n}")
    assert throttle.wait("2001:db8:1:2:ffff::1%eth0") > 0
    assert throttle.wait("2001:db8:1:3::1") == 0
    assert throttle.wait(None) == 0
