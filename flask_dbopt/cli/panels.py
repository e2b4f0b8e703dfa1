"""The report as people read it in a terminal: one part a function, put together by `stats` and `monitor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flask_dbopt.cli.terminal import ago, cut, milliseconds, number, share, size, span, table

if TYPE_CHECKING:
    from flask_dbopt.report import Report


def parts(report: Report, *, limit: int) -> Iterator[Any]:
    """Everything worth seeing, most urgent first; empty parts are left out."""
    yield overview(report)
    yield ""
    raised = [alert for alert in report.alerts if alert.state == "raised"]
    if raised:
        yield table(
            ("Alert", "About", "What", ">Since"),
            [(a.rule, a.subject, a.message, ago(a.raised_at, report.at)) for a in raised],
            title="Alerts",
        )
    if report.queries:
        yield queries(report, limit)
    if report.endpoints:
        yield endpoints(report, limit)
    if report.requests:
        yield requests(report, limit)
    if report.databases:
        yield databases(report)
    if any(one.writers is not None and one.writers.writers_num for one in report.databases):
        yield writers(report)
    if report.lost_updates:
        yield lost_updates(report)
    if report.guarded:
        yield guarded(report, limit)
    for notice in report.notices:
        yield notice_line(notice)


def overview(report: Report) -> Any:
    """The first figures, two columns of names and values."""
    from rich.table import Table

    first, cache = report.overview, report.cache
    window = f"the last {span(report.at - report.since)}" if report.since is not None else "all that is kept"
    quantiles = ", ".join(map(milliseconds, (first.p50, first.p95, first.p99)))
    lines = [
        ("Window", window, "Workers", number(len(report.workers))),
        (
            "Requests",
            f"{number(first.requests)} ({first.requests_per_second:,.1f}/s)",
            "p50, p95, p99",
            quantiles,
        ),
        ("Queries", number(first.queries), "Queries a request", number(first.queries_per_request)),
        ("Failed requests", number(first.errors), "In the database", share(first.database_share)),
        ("Cache hits", share(first.cache_hit_ratio), "Kept", f"{number(cache.entries)}, {size(cache.bytes)}"),
        ("Pool hits", share(first.pool_hit_ratio), "Index advice", number(len(report.recommendations))),
    ]
    made = Table.grid(padding=(0, 3))
    for column in range(4):
        made.add_column(style="dim" if column % 2 == 0 else None)
    for line in lines:
        made.add_row(*line)
    return made


def queries(report: Report, limit: int) -> Any:
    """The costliest statements; their database where there is more than one."""
    several = len(report.databases) > 1
    return table(
        ("Id", ">Calls", ">Total", ">Mean", ">p95", ">Rows", ">Cached", *(("Database",) if several else ()), "Query"),
        [
            (
                one.id, number(one.calls), milliseconds(one.total_exec_time),
                milliseconds(one.mean_exec_time), milliseconds(one.p95), number(one.rows),
                share(one.cache_hits / one.calls if one.calls else None),
                *((one.database,) if several else ()), cut(one.query),
            )
            for one in report.queries[:limit]
        ],
        title=f"Queries, costliest first ({number(min(limit, len(report.queries)))} of {number(len(report.queries))})",
    )  # fmt: skip


def endpoints(report: Report, limit: int) -> Any:
    """The costliest endpoints; their errors where there are any, for 80 signs are soon full."""
    failed = any(one.errors for one in report.endpoints)
    return table(
        ("Endpoint", ">Calls", ">Mean", ">p95", ">Queries each", ">N+1", ">In the database",
         *((">Errors",) if failed else ())),
        [
            (
                one.endpoint, number(one.calls), milliseconds(one.mean_time), milliseconds(one.p95),
                f"{one.queries / one.calls:,.1f}" if one.calls else "–", number(one.n_plus_one),
                share(one.database_time / one.total_time if one.total_time else None),
                *((number(one.errors),) if failed else ()),
            )
            for one in report.endpoints[:limit]
        ],
        title="Endpoints",
    )  # fmt: skip


def requests(report: Report, limit: int) -> Any:
    """Single requests worth a look, the slowest first."""
    return table(
        ("Request", ">Took", ">Queries", ">In the database", "Ran again and again", ">When"),
        [
            (
                f"{one.method} {one.endpoint}".lstrip(), milliseconds(one.time), number(one.queries),
                milliseconds(one.database_time),
                ", ".join(f"{group.id} ×{number(group.calls)}" for group in one.n_plus_one) or "–",
                ago(one.at, report.at),
            )
            for one in report.requests[:limit]
        ],
        title="Requests worth a look",
    )  # fmt: skip


def databases(report: Report) -> Any:
    """Each database's file, pool and newest backup."""
    rows = []
    for one in report.databases:
        lent = hits = proof = "–"
        if one.pool is not None:
            lent = f"{number(one.pool.pool_size - one.pool.pool_available)} of {number(one.pool.pool_max)}"
            hits = share(one.pool.hit_ratio)
        taken = one.backups[0].taken_at if one.backups else None
        if one.backups:
            proved = one.backups[0].verified_at
            proof = f"proved {ago(proved, report.at)}" if proved else "not proved"
        rows.append(
            (
                one.name,
                one.kind,
                size(one.bytes),
                size(one.wal_bytes),
                lent,
                hits,
                ago(taken, report.at),
                proof,
            )
        )
    return table(
        ("Database", "Kind", ">Size", ">WAL", ">Lent", ">At once", ">Last backup", "Proof"),
        rows,
        title="Databases",
    )


def writers(report: Report) -> Any:
    """Each database's line of writers."""
    return table(
        ("Database", ">Turns", ">Waited", ">Mean wait", ">Longest", ">No turn in time", "Longest at it"),
        [
            (
                one.name,
                number(line.writers_num),
                number(line.writers_queued),
                milliseconds(line.writers_wait_ms / line.writers_queued if line.writers_queued else None),
                milliseconds(line.writers_wait_max_ms or None),
                number(line.writers_errors),
                ", ".join(f"{each.who} ({milliseconds(each.ms)})" for each in one.holders[:2]),
            )
            for one in report.databases
            if (line := one.writers) is not None and line.writers_num
        ],
        title="Writers",
    )


def lost_updates(report: Report) -> Any:
    """Which requests wrote what another commit had changed since they read it."""
    return table(
        ("Endpoint", "Table", "Changed by", ">Last time"),
        [
            (
                one.endpoint,
                f"{one.table} ({one.database})",
                one.other or "work outside requests",
                ago(one.at, report.at),
            )
            for one in report.lost_updates
        ],
        title="Updates that may be lost",
    )


def guarded(report: Report, limit: int) -> Any:
    """What the guard and the policy did not like."""
    return table(
        ("Guard", "Why", "Endpoint", "Place", ">Times", ">Last"),
        [
            (cut(f"{one.verdict}: {one.what}"), one.reason, one.endpoint, one.place, number(one.count),
             ago(one.last_seen, report.at))
            for one in report.guarded[:limit]
        ],
        title="Statements that were refused, or looked like injections",
    )  # fmt: skip


def notice_line(notice: str) -> Any:
    """Something about the optimizer itself."""
    from rich.text import Text

    return Text(f"Note: {notice}", style="yellow")
