"""Query analysis: what runs, what it costs, how it is read, and which index would help or why none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flask_dbopt.admin import charts
from flask_dbopt.admin.charts import Mark
from flask_dbopt.admin.desk import Missing, Page, Tile, Visit
from flask_dbopt.admin.wording import count, decimal, ms, ratio
from flask_dbopt.engines.protocol import Plan
from flask_dbopt.monitor.figures import QueryFigures

SHOWN = 100

SORTS: dict[str, tuple[str, Callable[[QueryFigures], float]]] = {
    "total_time": ("Total", lambda q: q.total_exec_time),
    "calls": ("Calls", lambda q: q.calls),
    "mean_time": ("Mean", lambda q: q.mean_exec_time),
    "p95": ("p95", lambda q: q.p95),
    "max_time": ("Slowest", lambda q: q.max_exec_time),
    "rows": ("Rows", lambda q: q.rows),
    "errors": ("Failed", lambda q: q.errors),
    "last_seen": ("Last run", lambda q: q.last_seen),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How one database would run a statement, and what the advisor makes of it."""

    database: str
    plan: Plan
    why_not: str = ""


def show(visit: Visit) -> Page:
    sort = visit.arguments.get("sort", "")
    sort = sort if sort in SORTS else "total_time"
    sought = visit.arguments.get("q", "").strip()
    found = [q for q in visit.report.queries if holds(q, sought)]
    found.sort(key=SORTS[sort][1], reverse=True)
    advised = {helped for advice in visit.report.recommendations for helped in advice.query_ids}
    return Page(
        "queries",
        "Queries",
        "queries.html",
        {
            "report": visit.report,
            "queries": found[:SHOWN],
            "left_out": max(0, len(found) - SHOWN),
            "database_ms": sum(query.total_exec_time for query in visit.report.queries),
            "advised": advised,
            "sorts": {key: words for key, (words, _) in SORTS.items()},
            "sort": sort,
            "sought": sought,
            "some_failed": sort == "errors" or any(query.errors for query in found),
            "slow_ms": visit.settings.monitor_slow_seconds * 1000,
            "several": len(visit.report.databases) > 1,
        },
    )


def holds(query: QueryFigures, sought: str) -> bool:
    """Whether every word sought stands in the statement, in an endpoint that runs it, its place or database."""
    text = " ".join((query.query, *query.endpoints, query.place or "", query.database)).lower()
    return all(word in text for word in sought.lower().split())


def show_one(visit: Visit, query_id: str) -> Page:
    query = next((q for q in visit.report.queries if q.id == query_id), None)
    in_window = query is not None
    query = query or visit.optimizer.monitor.query(query_id)
    if query is None:
        raise Missing(f"no statement {query_id} is recorded: it was reset, or it is older than the figures kept")
    advice = [each for each in visit.report.recommendations if query_id in each.query_ids]
    read = readings(visit, query, bool(advice))
    details = visit.optimizer.monitor.details(query_id)
    return Page(
        "queries",
        "One query",
        "query.html",
        {
            "report": visit.report,
            "query": query,
            "in_window": in_window,
            "tiles": tiles(query, visit),
            "spread": quantiles(query),
            "readings": read,
            "why_not": next((reading.why_not for reading in read if reading.why_not), ""),
            "advice": advice,
            "details": details,
            "several": len(visit.report.databases) > 1,
            "slow_ms": visit.settings.monitor_slow_seconds * 1000,
        },
        live=False,
    )


def tiles(query: QueryFigures, visit: Visit) -> list[Tile]:
    runs = query.calls - query.cache_hits
    database_ms = sum(q.total_exec_time for q in visit.report.queries)
    share = query.total_exec_time / database_ms if database_ms else None
    slow = query.p95 >= visit.settings.monitor_slow_seconds * 1000
    return [
        Tile("Calls", count(query.calls), f"{count(query.errors)} failed", "bad" if query.errors else ""),
        Tile("Mean", ms(query.mean_exec_time if runs else None), f"± {ms(query.stddev_exec_time)}"),
        Tile("p95", ms(query.p95 if runs else None), "slow" if slow else "", "warn" if slow else ""),
        Tile("In all", ms(query.total_exec_time), f"{ratio(share)} of the database's time" if share else ""),
        Tile("Rows a run", decimal(query.rows / runs if runs else None), f"{count(query.rows)} known of"),
        Tile(
            "From the cache",
            ratio(query.cache_hits / query.calls if query.calls else None),
            f"{count(query.cache_hits)} of {count(query.calls)} calls",
        ),
    ]


def quantiles(query: QueryFigures) -> str:
    """Where the runs lie between the quickest and the slowest; empty when all came from the cache."""
    if query.calls <= query.cache_hits:
        return ""
    return charts.spread(
        "How long it takes",
        [
            Mark("quickest", query.min_exec_time, "three"),
            Mark("p50", query.p50, "one"),
            Mark("p95", query.p95, "two"),
            Mark("p99", query.p99, "two"),
            Mark("slowest", query.max_exec_time, "bad"),
        ],
        ms,
    )


def readings(visit: Visit, query: QueryFigures, advised: bool) -> list[Reading]:
    """The plan in the statement's own database, or in each that can explain it where that is not known."""
    found: list[Reading] = []
    databases = visit.optimizer.databases
    for name, database in databases.items():
        advisor: Any = database.advisor
        if advisor is None or (query.database in databases and name != query.database):
            continue
        plan = advisor.explain(query.query)
        found.append(Reading(name, plan))
        if not plan.problem:
            why = "" if advised else advisor.why_not(query.query)
            return [replace(found[-1], why_not=why)]
    return found
