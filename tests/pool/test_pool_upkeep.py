"""What happens to connections between loans, with the clock in hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.sqlite.connector import Arguments
from flask_dbopt.pool.pool import Pool
from flask_dbopt.pool.stats import PoolStats
from flask_dbopt.pool.upkeep import Upkeep

Make = Callable[..., Pool]
PLAIN = Arguments()


def use(pool: Pool, count: int = 1) -> None:
    held = [pool.lend(PLAIN) for _ in range(count)]
    while held:
        held.pop().close()


@pytest.fixture
def pool(make_pool: Make, clock: Any) -> Pool:
    return make_pool(minimum=2, maximum=5, clock=clock, max_lifetime=10_000)


@pytest.fixture
def upkeep(pool: Pool) -> Upkeep:
    return Upkeep(pool, health_interval=300, idle_timeout=600, leak_after=60)


def test_nothing_is_opened_before_anybody_asked(pool: Pool, upkeep: Upkeep) -> None:
    upkeep.sweep(0)
    assert pool.stats().connections_num == 0


def test_the_pool_is_refilled_to_its_minimum(pool: Pool, upkeep: Upkeep) -> None:
    use(pool)
    upkeep.sweep(0)
    assert pool.stats().pool_available == 2


def test_idle_connections_beyond_the_minimum_are_closed(pool: Pool, upkeep: Upkeep, clock: Any) -> None:
    use(pool, 5)
    upkeep.sweep(0)
    assert pool.stats().pool_available == 5
    clock.now += 601
    upkeep.sweep(0)
    assert pool.stats().pool_available == 2


def test_dead_connections_are_found_by_the_regular_check(pool: Pool, upkeep: Upkeep, clock: Any) -> None:
    use(pool, 3)
    sqlite3.Connection.close(pool.idle[PLAIN][0].connection)
    clock.now += 301
    upkeep.sweep(0)
    assert pool.stats().connections_lost == 1
    assert pool.stats().pool_available == 2


def test_old_connections_are_replaced_without_being_asked_for(make_pool: Make, clock: Any) -> None:
    pool = make_pool(minimum=1, max_lifetime=100, clock=clock)
    upkeep = Upkeep(pool, health_interval=300, idle_timeout=600, leak_after=60)
    use(pool)
    clock.now += 101
    upkeep.sweep(0)
    assert pool.stats().connections_num == 2
    assert pool.stats().pool_available == 1


def test_a_loan_that_lasts_too_long_is_reported_once(make_pool: Make, clock: Any) -> None:
    heard: list[object] = []
    pool = make_pool(clock=clock, emit=lambda name, **details: heard.append((name, details["borrower"])))
    upkeep = Upkeep(pool, health_interval=300, idle_timeout=600, leak_after=60)
    held = pool.lend(PLAIN, borrower="GET export")
    clock.now += 61
    upkeep.sweep(0)
    upkeep.sweep(0)
    assert heard == [("connection_leaked", "GET export")]
    held.close()


def test_a_connection_that_somebody_keeps_holding_is_closed_for_real(pool: Pool, upkeep: Upkeep) -> None:
    held = pool.lend(PLAIN)
    held.close()
    upkeep.sweep(0)
    assert pool.stats().pool_parked == 1
    upkeep.sweep(0)
    assert pool.stats().pool_parked == 0


def test_connections_to_a_removed_file_are_closed_in_the_sweep(pool: Pool, upkeep: Upkeep, path: Path) -> None:
    use(pool, 2)
    pool.resize(0, 5)
    path.unlink()
    upkeep.sweep(0)
    assert pool.stats().pool_size == 0
    assert not path.exists()


def test_a_refill_that_fails_is_tried_again_later(pool: Pool, upkeep: Upkeep, path: Path, clock: Any) -> None:
    use(pool)
    pool.drain()
    path.unlink()
    path.mkdir()
    upkeep.sweep(0)
    assert pool.stats().pool_available == 0
    path.rmdir()
    path.touch()
    upkeep.sweep(0)
    assert pool.stats().pool_available == 0
    clock.now += 2
    upkeep.sweep(0)
    assert pool.stats().pool_available == 2


def test_a_file_that_was_deleted_is_not_made_anew_by_a_refill(pool: Pool, upkeep: Upkeep, path: Path) -> None:
    use(pool)
    pool.drain()
    path.unlink()
    upkeep.sweep(0)
    assert not path.exists()
    assert pool.stats().pool_available == 0


def test_a_backward_clock_expires_nothing(pool: Pool, upkeep: Upkeep, clock: Any) -> None:
    use(pool, 3)
    clock.now -= 500
    upkeep.sweep(0)
    use(pool, 3)
    assert pool.stats().connections_num == 3


def test_figures_of_several_pools_add_up() -> None:
    total = PoolStats.total([PoolStats(requests_num=3, usage_ms=1.5), PoolStats(requests_num=4, usage_ms=2)])
    assert total.requests_num == 7
    assert total.counters()["usage_ms"] == 3.5
    assert "pool_size" in total.gauges()
