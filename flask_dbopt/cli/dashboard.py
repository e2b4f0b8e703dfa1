"""The live screen's picture: a Report fitted to any width and height, line by line. It only draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from flask_dbopt.cli.sparkline import sparkline
from flask_dbopt.cli.terminal import ago, clean, milliseconds, number, share, size, span

if TYPE_CHECKING:
    from flask_dbopt.monitor.figures import EndpointFigures, Point, QueryFigures
    from flask_dbopt.report import Report

SORTS: dict[str, tuple[str, Callable[[QueryFigures], float]]] = {
    "total": ("total time", lambda one: one.total_exec_time),
    "calls": ("calls", lambda one: one.calls),
    "mean": ("mean time", lambda one: one.mean_exec_time),
    "p95": ("p95", lambda one: one.p95),
    "slowest": ("slowest run", lambda one: one.max_exec_time),
    "rows": ("rows", lambda one: one.rows),
    "errors": ("errors", lambda one: one.errors),
    "last": ("last run", lambda one: one.last_seen),
}
"""What the queries may be sorted by: the option's word, the words on the screen, the figure; the largest first."""

#: Rates are those of the last so many seconds: long enough to be steady, short enough to be now.
LATELY = 30.0
#: Alerts that are shown one by one, and the fewest lines that are left for queries.
ALERTS, LEAST = 3, 4
#: The narrowest place for a statement's text.
TEXT = 24


@dataclass(frozen=True, slots=True)
class View:
    """What its reader chose."""

    window: float = 900.0
    interval: float = 2.0
    sort: str = "total"
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; those with the largest ``rank`` go first when it is narrow."""

    name: str
    width: int
    rank: int


def picture(report: Report, view: View, width: int, height: int) -> list[Text]:
    """``height`` lines at most, none wider than ``width``: the most urgent of what there is to see."""
    head, foot = _head(report, view, width), _foot(view, width)
    if height < 3:
        return [head, *_figures(report, width)][: max(height, 1)]
    alerts = list(_alerts(report, width))
    figures = list(_figures(report, width))[: max(1, (height - 2) // 3)]
    alerts = alerts[: max(0, height - 2 - len(figures) - LEAST)]
    above = [head, *figures, *alerts]
    room = height - len(above) - 1
    lines = [*above, *_tables(report, view, width, room)][: height - 1]
    return [*lines, *(Text() for _ in range(height - 1 - len(lines))), foot]


def _tables(report: Report, view: View, width: int, room: int) -> Iterator[Text]:
    """Queries, and endpoints where there is room for both: a blank line, a title, the names and a row each."""
    endpoints = report.endpoints
    wanted = len(endpoints) + 3
    lower = min(wanted, room // 3) if room >= 2 * (LEAST + 3) and endpoints else 0
    upper = min(room - lower, max(len(report.queries), 1) + 3)
    lower = min(wanted, room - upper) if lower else 0
    yield from _queries(report, view, width, upper)
    if lower > 3:
        yield from _endpoints(endpoints, width, lower)


# --- lines ---


def _head(report: Report, view: View, width: int) -> Text:
    workers = "1 worker" if len(report.workers) == 1 else f"{number(len(report.workers))} workers"
    told = [
        f"Flask-DBOpt {report.version}",
        time.strftime("%H:%M:%S", time.localtime(report.at)),
        workers if report.workers else "no worker lives",
        f"last {span(view.window)}",
        "PAUSED" if view.paused else f"every {span(view.interval)}",
    ]
    words = set_cell_size(_fit(f" {' · '.join(told)}", width), width)
    return Text(words, style="reverse yellow" if view.paused else "reverse")


def _foot(view: View, width: int) -> Text:
    keys = [("q", "quit"), ("s", f"sort: {SORTS[view.sort][0]}"), ("p", "go on" if view.paused else "pause")]
    keys += [("w", "window"), ("+ -", "interval"), ("r", "now")]
    line = Text()
    for key, words in keys:
        if line.cell_len + len(key) + len(words) + 3 > width:
            break
        line.append(f" {key} ", "reverse").append(f"{words} ")
    return line


def _figures(report: Report, width: int) -> Iterator[Text]:
    """The first figures, the most urgent line first."""
    first, series = report.overview, report.series
    quantiles = f"p50 {milliseconds(first.p50)}  p95 {milliseconds(first.p95)}  p99 {milliseconds(first.p99)}"
    failed = f"  {number(first.errors)} failed" if first.errors else ""
    rate, queries = lately(series, report.at)
    drawn = 0 if width < 40 else min(len(series), max(12, width - 66))
    series = series[:-1]  # the last step has only begun, and would look like a fall
    yield _line(width, "requests", f"{rate:,.1f}/s", sparkline([p.requests for p in series], drawn), quantiles + failed)
    each = f"{number(first.queries_per_request)} a request  {share(first.database_share)} in the database"
    yield _line(width, "queries", f"{queries:,.1f}/s", sparkline([p.queries for p in series], drawn), each)
    yield _line(width, "p95", milliseconds(first.p95), sparkline([p.p95 for p in series], drawn), _pools(report))
    yield _line(width, "cache", share(first.cache_hit_ratio), sparkline(_hit_ratios(series), drawn), _cache(report))
    for one in report.databases:
        wal = f"{size(one.bytes)}  WAL {size(one.wal_bytes)}"
        newest = one.backups[0] if one.backups else None
        proof = ", proved" if newest is not None and newest.verified_at else ""
        backup = "no backup" if newest is None else f"backup {ago(newest.taken_at, report.at)}{proof}"
        yield _line(width, one.name, "", "", wal if one.path else one.kind, backup if one.path else "")


def _line(width: int, name: str, figure: str, drawing: str, *notes: str) -> Text:
    line = Text(f"{_fit(f' {name}', 10):<10}").append(f"{figure:>10}  ", "bold")
    if drawing:
        line.append(f"{drawing}  ", "cyan")
    line.append("   ".join(note for note in notes if note), "dim")
    return _cut(line, width)


def _pools(report: Report) -> str:
    pools = [one.pool for one in report.databases if one.pool is not None]
    if not pools:
        return ""
    lent = sum(pool.pool_size - pool.pool_available for pool in pools)
    waiting = sum(pool.requests_waiting for pool in pools)
    return (
        f"pool {number(lent)} of {number(sum(pool.pool_max for pool in pools))} lent"
        f"  {number(waiting)} waiting  {share(report.overview.pool_hit_ratio)} at once"
    )


def _cache(report: Report) -> str:
    return f"hits  {number(report.cache.entries)} results kept, {size(report.cache.bytes)}"


def _alerts(report: Report, width: int) -> Iterator[Text]:
    standing = [alert for alert in report.alerts if alert.resolved_at is None]
    for alert in standing[: ALERTS if len(standing) <= ALERTS else ALERTS - 1]:
        words = f" ! {alert.rule}, {ago(alert.raised_at, report.at)}: {alert.message}"
        yield Text(_fit(words, width), style="bold red")
    if len(standing) > ALERTS:
        yield Text(_fit(f" ! and {len(standing) - ALERTS + 1} alerts more", width), style="bold red")
    for notice in report.notices[:1]:
        yield Text(_fit(f" Note: {notice}", width), style="yellow")


# --- tables ---

_QUERY = (
    Column("calls", 9, 0),
    Column("total", 9, 1),
    Column("mean", 9, 2),
    Column("p95", 9, 3),
    Column("slowest", 9, 6),
    Column("rows", 9, 5),
    Column("cached", 7, 4),
    Column("errors", 7, 7),
)
_ENDPOINT = (
    Column("calls", 9, 0),
    Column("mean", 9, 1),
    Column("p95", 9, 2),
    Column("queries", 9, 3),
    Column("N+1", 7, 5),
    Column("database", 9, 4),
    Column("cached", 7, 7),
    Column("errors", 7, 6),
)


def _queries(report: Report, view: View, width: int, room: int) -> Iterator[Text]:
    words, figure = SORTS[view.sort]
    ordered = sorted(report.queries, key=figure, reverse=True)
    shown = max(0, min(len(ordered), room - 3))
    title = f" Queries by {words}" + (f", {shown} of {number(len(ordered))}" if shown < len(ordered) else "")
    rows = (
        (
            *(number(one.calls), milliseconds(one.total_exec_time), milliseconds(one.mean_exec_time)),
            *(milliseconds(one.p95), milliseconds(one.max_exec_time), number(one.rows)),
            *(
                share(one.cache_hits / one.calls if one.calls else None),
                number(one.errors) if one.errors else "",
                one.query,
            ),
        )
        for one in ordered[:shown]
    )
    yield from _table(title, _QUERY, "query", rows, width, room, view.sort)
    if not ordered:
        yield Text(_fit(" nothing has run yet", width), style="dim")


def _endpoints(endpoints: Sequence[EndpointFigures], width: int, room: int) -> Iterator[Text]:
    shown = min(len(endpoints), room - 3)
    title = " Endpoints" + (f", {shown} of {number(len(endpoints))}" if shown < len(endpoints) else "")
    rows = (
        (
            *(number(one.calls), milliseconds(one.mean_time), milliseconds(one.p95)),
            f"{one.queries / one.calls:,.1f}" if one.calls else "–",
            number(one.n_plus_one) if one.n_plus_one else "",
            share(one.database_time / one.total_time if one.total_time else None),
            share(one.cache_hits / one.queries if one.queries else None),
            number(one.errors) if one.errors else "",
            one.endpoint,
        )
        for one in endpoints[:shown]
    )
    yield from _table(title, _ENDPOINT, "endpoint", rows, width, room)


def _table(
    title: str,
    columns: Sequence[Column],
    last: str,
    rows: Iterator[tuple[str, ...]],
    width: int,
    room: int,
    sorted_by: str = "",
) -> Iterator[Text]:
    """At most ``room`` lines; the last column takes what the others leave."""
    kept = _that_fit(columns, width)
    places = [columns.index(column) for column in kept]
    lines = [Text(), Text(_fit(title, width), style="bold")] if room > 3 else []
    names = Text(style="dim")
    for column in kept:
        names.append(f"{column.name:>{column.width}}", "not dim bold" if column.name == sorted_by else "")
    lines.append(_cut(names.append(f"  {last}"), width))
    yield from lines[:room]
    for row in rows:
        cells = "".join(_right(row[place], columns[place].width) for place in places)
        yield Text(_fit(f"{cells}  {clean(row[-1])}", width))


def _that_fit(columns: Sequence[Column], width: int) -> list[Column]:
    """Those that leave room for a text: the first one always stays."""
    kept = sorted(columns, key=lambda column: column.rank)
    while len(kept) > 1 and sum(column.width for column in kept) + TEXT > width:
        kept.pop()
    return [column for column in columns if column in kept]


# --- figures and words ---


def lately(series: Sequence[Point], at: float) -> tuple[float, float]:
    """Requests and statements a second in the last half minute, or in the last step where that is longer."""
    recent = [point for point in series if point.start > at - LATELY] or list(series[-1:])
    if not recent:
        return 0.0, 0.0
    seconds = max(1.0, at - recent[0].start)
    return sum(point.requests for point in recent) / seconds, sum(point.queries for point in recent) / seconds


def _hit_ratios(series: Sequence[Point]) -> list[float | None]:
    lookups = [(point.cache_hits, point.cache_hits + point.cache_misses) for point in series]
    return [hits / asked if asked else None for hits, asked in lookups]


def _right(text: str, width: int) -> str:
    return " " * (width - cell_len(text)) + text if cell_len(text) < width else f" {_fit(text, width - 1)}"


def _fit(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, cut with an ellipsis; some signs take two."""
    text = clean(text)
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 0 else ""


def _cut(line: Text, width: int) -> Text:
    line.truncate(max(0, width), overflow="ellipsis")
    return line
