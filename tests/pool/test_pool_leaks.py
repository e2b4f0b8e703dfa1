"""Loans that do not end, databases that cannot be reached, and bounds that change."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.sqlite.connector import Arguments
from flask_dbopt.errors import PoolTimeout
from flask_dbopt.pool.entry import Entry
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.upkeep import Upkeep

Make = Callable[..., Pool]
Count = Callable[[Pool], int]
Replace = Callable[[Path, int], None]
ANY_THREAD = Arguments(check_same_thread=False)


# --- leaks and reconnecting ---


@pytest.fixture
def pool(make_pool: Make, clock: Any) -> Pool:
    return make_pool(minimum=1, maximum=3, clock=clock, max_lifetime=1e6)


@pytest.fixture
def upkeep(pool: Pool) -> Upkeep:
    return Upkeep(pool, health_interval=300, idle_timeout=600, leak_after=60, reconnect_timeout=30, chance=lambda: 0.5)


def test_a_second_leak_of_the_same_borrower_says_where_it_borrowed(
    pool: Pool, upkeep: Upkeep, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def leaky_view() -> Any:
        return pool.lend(ANY_THREAD, None, "GET export")

    first = leaky_view()
    innocent = pool.lend(ANY_THREAD, None, "GET list")
    clock.now += 61
    innocent.close()
    upkeep.sweep(0)
    assert "GET export has held a connection for 61 s (its next loans will be traced)" in caplog.text
    first.close()
    assert "GET export gave its connection back after 61 s" in caplog.text
    second = leaky_view()
    innocent = pool.lend(ANY_THREAD, None, "GET list")
    assert [bool(holder.stack) for holder in pool.holders()] == [True, False]
    clock.now += 61
    innocent.close()
    caplog.clear()
    upkeep.sweep(0)
    assert "in leaky_view" in caplog.text
    second.close()


def test_connecting_is_tried_again_ever_more_slowly_and_given_up_aloud_once(
    pool: Pool, upkeep: Upkeep, clock: Any, path: Path, caplog: pytest.LogCaptureFixture, count: Count, replace: Replace
) -> None:
    told: list[Pool] = []
    pool.reconnect_failed = told.append
    count(pool)
    pool.drain()
    path.unlink()
    path.mkdir()
    tried: list[float] = []
    for _ in range(120):
        before = pool.stats().connections_errors
        upkeep.sweep(0)
        if pool.stats().connections_errors > before:
            tried.append(clock.now - 1000)
        clock.now += 1
    assert tried == [0, 1, 3, 7, 15, 31, 63]
    assert told == [pool]
    assert caplog.text.count("no connection could be opened for 30 s") == 1
    path.rmdir()
    replace(path, 1)
    clock.now += 60
    upkeep.sweep(0)
    assert "connections can be opened again" in caplog.text
    assert pool.stats().pool_available == 1


def test_checking_by_hand_closes_what_no_longer_answers(pool: Pool) -> None:
    held = [pool.lend(ANY_THREAD) for _ in range(3)]
    while held:
        held.pop().close()
    dead: Entry = pool.stock.idle()[1]
    sqlite3.Connection.close(dead.connection)
    assert pool.check() == 1
    assert pool.stats().pool_available == 2
    assert pool.check() == 0


def test_a_smaller_pool_takes_effect_as_loans_end(pool: Pool) -> None:
    held = [pool.lend(ANY_THREAD) for _ in range(3)]
    pool.resize(0, 1)
    held.pop().close()
    held.pop().close()
    with pytest.raises(PoolTimeout):
        pool.lend(ANY_THREAD, timeout=0.01)
    pool.resize(0, 2)
    held.append(pool.lend(ANY_THREAD))
    while held:
        held.pop().close()
    assert len(pool.line.free) == 2
