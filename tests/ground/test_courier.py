"""The courier against a real web server: dead, slow, failing, moving, and well."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_dbopt.courier import MOST, Courier, sign
from tests.receiver import Receiver, until


@pytest.fixture
def hire(receiver: Receiver) -> Iterator[Callable[..., Courier]]:
    hired = []

    def hire(address: str = "", **arguments: Any) -> Courier:
        courier = Courier(address or receiver.address, **{"pause": 0.01, "timeout": 1.0, **arguments})
        hired.append(courier)
        return courier

    yield hire
    for courier in hired:
        courier.close()


def test_messages_arrive_in_their_order_as_json(receiver, hire):
    courier = hire(agent="Flask-DBOpt/9")
    for number in range(5):
        courier.post({"number": number, "text": "später"})
    until(lambda: len(receiver.taken) == 5)
    assert receiver.bodies() == [{"number": number, "text": "später"} for number in range(5)]
    path, headers, _ = receiver.taken[0]
    assert path == "/hook?token=s3cret"
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers["user-agent"] == "Flask-DBOpt/9"
    assert "x-dbopt-signature" not in headers
    assert courier.problem == ""


def test_a_signed_body_can_be_checked_by_its_receiver(receiver, hire):
    assert hire(secret="key").try_once({"a": 1}).taken
    _, headers, body = receiver.taken[0]
    assert headers["x-dbopt-signature"] == f"sha256={sign(body, 'key')}"
    assert sign(b"what do ya want for nothing?", "Jefe") == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"  # RFC 4231, test case 2
    )


def test_name_and_password_of_the_address_go_into_a_header(receiver, hire):
    hire(f"http://ada:p%40ss@127.0.0.1:{receiver.server_port}/x#y").try_once({})
    path, headers, _ = receiver.taken[0]
    assert (path, headers["authorization"]) == ("/x", "Basic YWRhOnBAc3M=")


def test_a_receiver_that_fails_for_a_while_gets_it_later_and_the_order_stays(receiver, hire, caplog):
    receiver.answers = [(500, {}, 0), (503, {}, 0), (429, {}, 0)]
    courier = hire()
    courier.post({"number": 1})
    courier.post({"number": 2})
    until(lambda: len(receiver.taken) == 5)
    assert [body["number"] for body in receiver.bodies()] == [1, 1, 1, 1, 2]
    until(lambda: courier.problem == "")
    assert "the webhook at 127.0.0.1: answered 500" in caplog.messages


def test_a_receiver_that_refuses_is_not_asked_again(receiver, hire):
    receiver.answers = [(404, {}, 0)]
    courier = hire()
    courier.post({"number": 1})
    until(lambda: courier.problem)
    assert courier.problem == "answered 404; a message was given up"
    courier.post({"number": 2})
    until(lambda: courier.problem == "")
    assert [body["number"] for body in receiver.bodies()] == [1, 2]


def test_a_dead_receiver_holds_up_nobody_and_its_address_is_told_nobody(hire, caplog):
    caplog.set_level(logging.DEBUG)
    courier = hire("http://user:pass@127.0.0.1:9/services/SECRET")
    begun = time.monotonic()
    for number in range(MOST + 20):
        courier.post({"number": number})
    assert time.monotonic() - begun < 0.5
    until(lambda: "refused" in courier.problem.lower())
    begun = time.monotonic()
    courier.close()
    assert time.monotonic() - begun < 1.5
    courier.post({"number": -1})
    assert "oldest was dropped" in caplog.text
    for secret in ("SECRET", "pass", "user"):
        assert secret not in caplog.text


def test_a_slow_receiver_is_given_up_in_time_and_tried_again(receiver, hire):
    receiver.answers = [(200, {}, 0.5)]
    courier = hire(timeout=0.1)
    reply = courier.try_once({"number": 1})
    assert (reply.taken, reply.again, reply.told) == (False, True, "cannot be reached: TimeoutError")
    assert reply.seconds < 0.4
    receiver.answers = [(200, {}, 0.5)]
    courier.post({"number": 2})
    until(lambda: len(receiver.taken) == 3)


def test_a_message_that_is_an_hour_old_is_given_up_for_the_next(receiver, hire):
    now = 0.0
    receiver.answers = [(500, {}, 0)] * 3
    courier = hire(clock=lambda: now, pause=0.05)
    courier.post({"number": 1})
    until(lambda: receiver.taken)
    now = 4_000.0
    courier.post({"number": 2})
    until(lambda: any(body["number"] == 2 for body in receiver.bodies()))
    until(lambda: courier.problem == "")


@pytest.mark.parametrize("code", [307, 308])
def test_a_redirect_on_the_same_host_keeps_the_post(receiver, hire, code):
    receiver.answers = [(code, {"Location": "/new"}, 0)]
    assert hire(secret="key").try_once({"number": 1}).taken
    (_, first, body), (path, second, again) = receiver.taken
    assert (path, body) == ("/new", again)
    assert first["x-dbopt-signature"] == second["x-dbopt-signature"]


@pytest.mark.parametrize(
    ("code", "location"),
    [
        (302, "/new"),
        (301, "/new"),
        (307, "http://localhost:{port}/new"),
        (307, "http://127.0.0.1:9/new"),
        (307, "https://127.0.0.1:{port}/new"),
        (307, "file:///etc/passwd"),
        (307, "ftp://x/"),
    ],
)
def test_other_redirects_are_not_followed(receiver, hire, code, location):
    receiver.answers = [(code, {"Location": location.format(port=receiver.server_port)}, 0)]
    reply = hire().try_once({"number": 1})
    assert not reply.taken
    assert not reply.again
    assert reply.told == f"answered {code}, a redirect elsewhere, which is not followed"
    assert len(receiver.taken) == 1


def test_a_redirect_in_circles_ends(receiver, hire):
    receiver.answers = [(307, {"Location": "/hook"}, 0)] * 50
    assert not hire().try_once({}).taken
    assert len(receiver.taken) < 20


def test_after_a_fork_the_child_posts_only_its_own(hire):
    courier = hire("http://127.0.0.1:9/")
    courier.post({"number": 1})
    courier.abandon()
    assert not courier._waiting
    assert courier.problem == ""


def test_what_waits_is_still_posted_when_the_app_closes(receiver, hire):
    courier = hire(pause=30.0)
    receiver.answers = [(500, {}, 0)]
    courier.post({"number": 1})
    until(lambda: courier.problem)
    courier.close()
    assert [body["number"] for body in receiver.bodies()] == [1, 1]
    assert courier.problem == ""


def test_text_that_cannot_be_encoded_is_posted_all_the_same(receiver, hire):
    courier = hire(secret="k\udcffy")
    courier.post({"text": "SELECT \ud800"})
    until(lambda: receiver.taken)
    assert receiver.bodies() == [{"text": "SELECT ?"}]
    assert receiver.taken[0][1]["x-dbopt-signature"]


def test_a_message_that_cannot_be_sent_at_all_does_not_end_the_thread(receiver, hire, caplog):
    courier = hire()
    whole, courier._opener = courier._opener, None
    courier.post({"number": 1})
    until(lambda: courier.problem)
    courier._opener = whole
    courier.post({"number": 2})
    until(lambda: courier.problem == "")
    assert receiver.bodies()[-1] == {"number": 2}
    assert "token" not in caplog.text


def test_a_test_that_arrives_ends_the_notice(receiver, hire):
    courier = hire()
    receiver.answers = [(400, {}, 0)]
    courier.post({})
    until(lambda: courier.problem)
    assert courier.try_once({}).taken
    assert courier.problem == ""


def test_a_forked_child_posts_though_the_courier_was_at_work(receiver, hire):
    courier = hire(timeout=3.0)
    receiver.answers = [(200, {}, 0.5)]
    courier.post({"of": "parent"})
    until(lambda: receiver.taken)
    with courier._lock:  # as another thread may have it
        child = os.fork()
        if not child:
            try:
                courier.abandon()
                courier.post({"of": "child"})
                courier.close(3.0)
            finally:
                os._exit(0)
    os.waitpid(child, 0)
    until(lambda: len(receiver.taken) == 2)
    assert sorted(body["of"] for body in receiver.bodies()) == ["child", "parent"]


def test_the_thread_ends_when_nothing_waits(receiver, hire):
    courier = hire()
    courier.post({})
    until(lambda: receiver.taken)
    until(lambda: not [t for t in threading.enumerate() if t.name == "dbopt-courier"])
