"""The performance overview: is the app well, how fast is it, and where does the time go."""

from __future__ import annotations

from collections.abc import Sequence

from flask_dbopt.admin import charts
from flask_dbopt.admin.charts import Line
from flask_dbopt.admin.desk import Page, Tile, Visit
from flask_dbopt.admin.wording import count, decimal, limit, ms, rate, ratio
from flask_dbopt.monitor.figures import Point

SHOWN = 6
"""Rows of each short list; the tabs have them all."""

MOST_RAISED = 5
"""Alerts that are told here, a line each: the figures stay in sight."""

TOO_YOUNG = 10.0
"""Seconds: a step that has just begun would look like a fall to nothing."""


def show(visit: Visit) -> Page:
    report = visit.report
    raised = [alert for alert in report.alerts if alert.state == "raised"]
    health = visit.optimizer.health()
    return Page(
        "",
        "Overview",
        "overview.html",
        {
            "report": report,
            "health": health,
            # an alert stands below with all it has to say
            "reasons": [why for why in health.reasons if not any(alert.message in why for alert in raised)],
            "raised": raised,
            "most_raised": MOST_RAISED,
            "tiles": tiles(visit),
            "charts": drawings(report.series, report.at),
            "slowest": sorted(report.queries, key=lambda q: q.total_exec_time, reverse=True)[:SHOWN],
            "database_ms": sum(query.total_exec_time for query in report.queries),
            "endpoints": sorted(report.endpoints, key=lambda e: e.total_time, reverse=True)[:SHOWN],
            "slow_ms": visit.settings.monitor_slow_seconds * 1000,
        },
    )


def tiles(visit: Visit) -> list[Tile]:
    """The six figures anybody asks for first."""
    figures, settings = visit.report.overview, visit.settings
    return [
        Tile(
            "Requests",
            rate(figures.requests_per_second),
            f"{count(figures.errors)} of {count(figures.requests)} failed"
            if figures.errors
            else f"{count(figures.requests)} in this window",
            "bad" if figures.errors else "",
        ),
        Tile("Response time, p95", ms(figures.p95), f"half within {ms(figures.p50)}" if figures.p50 else ""),
        Tile(
            "Time in the database",
            ratio(figures.database_share),
            "of all response time" if figures.database_share is not None else "",
        ),
        Tile(
            "Queries a request",
            decimal(figures.queries_per_request),
            f"{count(figures.queries)} in all",
            path="queries",
        ),
        Tile(
            "Cache hit ratio",
            ratio(figures.cache_hit_ratio),
            f"alert below {limit(settings.alert_cache_hit_ratio)}, once warm".replace(" %", "\u00a0%"),
            tone(visit, "cache_hit_ratio"),
            "cache",
        ),
        Tile(
            "Pool hit ratio",
            ratio(figures.pool_hit_ratio),
            "loans without waiting",
            tone(visit, "pool_hit_ratio"),
            "pool",
        ),
    ]


def drawings(series: Sequence[Point], at: float) -> list[str]:
    """The charts; none while nothing was measured."""
    series = since_first_use(series)
    if not series:
        return []
    if len(series) > 1 and at - series[-1].start < TOO_YOUNG:
        series = series[:-1]
    starts = [point.start for point in series]
    lengths = slot_seconds(starts, at)
    return [
        charts.series(
            "Requests and queries a second",
            starts,
            [
                Line("queries", "two", [p.queries / n for p, n in zip(series, lengths, strict=True)]),
                Line("requests", "one", [p.requests / n for p, n in zip(series, lengths, strict=True)]),
            ],
            rate,
        ),
        charts.series(
            "Response time",
            starts,
            [
                Line("p95", "two", [p.p95 for p in series]),
                Line("mean", "one", [p.request_ms / p.requests if p.requests else None for p in series]),
            ],
            ms,
        ),
        charts.series(
            "Where a request's time goes",
            starts,
            [
                Line("database", "one", [p.database_ms / max(1, p.requests) for p in series]),
                Line(
                    "the rest",
                    "three",
                    [max(0.0, p.request_ms - p.database_ms) / max(1, p.requests) for p in series],
                ),
            ],
            ms,
            bars=True,
        ),
        charts.series(
            "Failed requests",
            starts,
            [Line("failed", "bad", [float(p.errors) for p in series])],
            count,
            bars=True,
        ),
    ]


def since_first_use(series: Sequence[Point], least: int = 15) -> Sequence[Point]:
    """The steps from the first that saw anything, at least ``least`` of them; none if nothing happened."""
    used = [i for i, point in enumerate(series) if point.requests or point.queries]
    return series[max(0, min(used[0] - 1, len(series) - least)) :] if used else ()


def slot_seconds(starts: Sequence[float], at: float) -> list[float]:
    """How long each step lasted; the last one has only begun."""
    usual = starts[1] - starts[0] if len(starts) > 1 else 60.0
    return [max(1.0, min(usual, at - start)) for start in starts]


def tone(visit: Visit, rule: str, subject: str = "") -> str:
    """The tone of a figure that a rule watches: a warning while its alert stands, so that both say the same."""
    standing = (alert for alert in visit.report.alerts if alert.resolved_at is None and alert.rule == rule)
    return "warn" if any(not subject or alert.subject == subject for alert in standing) else ""
