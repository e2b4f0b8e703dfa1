"""What anybody may cause by the thousand is written down soon, together, and never without bound."""

from __future__ import annotations

import time

import pytest

from flask_dbopt.audit.actor import Actor, acting
from flask_dbopt.audit.audit import Audit
from flask_dbopt.audit.refusals import KINDS
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def audit(tmp_path, clock):
    return Audit(tmp_path / "audit.log", clock=clock)


def knock(audit: Audit, address: str = "192.0.2.1", reason: str = "wrong token") -> None:
    with acting(Actor("page", address=address)):
        audit.note("admin.refuse", "refused", reason=reason)


def told(audit: Audit) -> list[tuple[str, dict]]:
    return [(entry.who.get("address", ""), dict(entry.what)) for entry in reversed(list(audit.entries(deed="admin")))]


def test_a_refusal_waits_for_the_sweep_and_costs_the_request_nothing_else(audit):
    knock(audit)
    assert not audit.path.exists()
    audit.sweep(0.0)
    assert told(audit) == [("192.0.2.1", {"reason": "wrong token"})]


def test_equal_ones_are_one_line_and_then_a_count(audit, clock):
    for _ in range(500):
        knock(audit)
    knock(audit, address="192.0.2.2")
    audit.sweep(0.0)
    assert len(told(audit)) == 2
    clock.now += 61
    audit.sweep(0.0)
    assert told(audit)[2:] == [("192.0.2.1", {"reason": "wrong token", "again": 499})]
    clock.now += 61
    audit.sweep(0.0)
    assert len(told(audit)) == 3


def test_after_its_minute_the_same_refusal_is_told_anew(audit, clock):
    knock(audit)
    audit.sweep(0.0)
    clock.now += 61
    audit.sweep(0.0)
    knock(audit)
    audit.sweep(0.0)
    assert told(audit) == [("192.0.2.1", {"reason": "wrong token"})] * 2


def test_an_attack_from_everywhere_is_counted_together(audit, clock):
    for number in range(5000):
        knock(audit, address=f"2001:db8::{number:x}")
    audit.sweep(0.0)
    assert len(told(audit)) == KINDS + 1
    clock.now += 61
    audit.sweep(0.0)
    *_, (address, last) = told(audit)
    assert address == ""
    assert last["again"] == 5000 - KINDS - 1


def test_one_that_goes_on_is_told_less_and_less_often(audit, clock):
    for _ in range(24 * 60 * 6):
        knock(audit)
        clock.now += 10
        audit.sweep(0.0)
    lines = [what for _, what in told(audit)]
    assert len(lines) < 35
    assert sum(what.get("again", 1) for what in lines) >= 23 * 60 * 6
    assert {(what["reason"], address) for address, what in told(audit)} == {("wrong token", "192.0.2.1")}


def test_an_attack_that_lasts_all_day_does_not_fill_the_disk(audit, clock):
    for number in range(24 * 60 * 25):
        knock(audit, address=f"2001:db8::{number:x}")
        if number % 25 == 0:
            clock.now += 60
            audit.sweep(0.0)
    assert len(told(audit)) < 800
    assert audit.path.stat().st_size < 400_000


def test_a_thousand_refusals_take_a_few_milliseconds(audit):
    began = time.perf_counter()
    for _ in range(1000):
        knock(audit)
    assert time.perf_counter() - began < 0.5
    assert not audit.path.exists()


def test_what_waits_comes_before_the_next_deed_and_not_after_the_end(audit, clock):
    knock(audit)
    clock.now += 1
    audit.note("cache.clear")
    knock(audit)
    audit.close()
    found = [(entry.deed, entry.what) for entry in reversed(list(audit.entries()))][1:]
    assert found == [
        ("admin.refuse", {"reason": "wrong token"}),
        ("cache.clear", {}),
        ("admin.refuse", {"reason": "wrong token", "again": 1}),
    ]


def test_a_clock_that_was_set_back_holds_nothing_up(audit, clock):
    knock(audit)
    audit.sweep(0.0)
    knock(audit)
    clock.now -= 3600
    audit.sweep(0.0)
    assert told(audit)[-1][1]["again"] == 1
