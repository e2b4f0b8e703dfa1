"""The pool: how many connections are open, lent and waited for, who writes, and how each worker does."""

from __future__ import annotations

from flask_dbopt.admin.desk import Page, Tile, Visit
from flask_dbopt.admin.overview import tone
from flask_dbopt.admin.wording import count, ms, ratio
from flask_dbopt.pool.stats import PoolStats

HOLDERS = 8
"""Writers that are listed."""


def show(visit: Visit) -> Page:
    report = visit.report
    return Page(
        "pool",
        "Pool",
        "pool.html",
        {
            "report": report,
            "pools": [(each, tiles(each.name, each.pool, visit)) for each in report.databases if each.pool is not None],
            "unpooled": [each for each in report.databases if each.pool is None],
            "lines": [each for each in report.databases if each.writers is not None and each.writers.writers_num],
            "most_holders": HOLDERS,
            "workers": report.workers,
        },
    )


def tiles(name: str, stats: PoolStats, visit: Visit) -> list[Tile]:
    lent = lent_now(stats)
    queued = stats.requests_queued
    return [
        Tile("Lent now", count(lent), f"of {count(stats.pool_max)} allowed"),
        Tile("Idle", count(stats.pool_available), f"{count(stats.pool_size)} open"),
        Tile("Waiting", count(stats.requests_waiting), "", "warn" if stats.requests_waiting else ""),
        Tile(
            "Hit ratio",
            ratio(stats.hit_ratio),
            f"{count(stats.requests_num)} loans",
            tone(visit, "pool_hit_ratio", name),
        ),
        Tile(
            "Mean wait",
            ms(stats.requests_wait_ms / queued if queued else None),
            f"{count(queued)} had to wait",
        ),
        Tile("Mean loan", ms(stats.usage_ms / stats.requests_num if stats.requests_num else None)),
    ]


def lent_now(stats: PoolStats) -> int:
    """Open and not idle. Parked ones are given back already."""
    return max(0, stats.pool_size - stats.pool_available)
