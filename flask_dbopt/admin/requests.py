"""Requests: what each endpoint asks of the database, and single requests that ask too much."""

from __future__ import annotations

from collections.abc import Callable

from flask_dbopt.admin.desk import Page, Visit
from flask_dbopt.monitor.figures import EndpointFigures

SHOWN, SINGLE = 100, 20

SORTS: dict[str, tuple[str, Callable[[EndpointFigures], float]]] = {
    "total_time": ("Total", lambda e: e.total_time),
    "calls": ("Requests", lambda e: e.calls),
    "mean_time": ("Mean", lambda e: e.mean_time),
    "p95": ("p95", lambda e: e.p95),
    "queries": ("Queries", lambda e: _each(e.queries, e)),
    "repeated": ("Repeated", lambda e: _each(e.repeated, e)),
    "transactions": ("Transactions", lambda e: _each(e.transactions, e)),
    "errors": ("Failed", lambda e: e.errors),
}


def show(visit: Visit) -> Page:
    sort = visit.arguments.get("sort", "")
    sort = sort if sort in SORTS else "total_time"
    report = visit.report
    found = sorted(report.endpoints, key=SORTS[sort][1], reverse=True)
    return Page(
        "requests",
        "Requests",
        "requests.html",
        {
            "report": report,
            "endpoints": found[:SHOWN],
            "left_out": max(0, len(found) - SHOWN),
            "sorts": {key: words for key, (words, _) in SORTS.items()},
            "sort": sort,
            "some_failed": sort == "errors" or any(each.errors for each in found),
            "requests": report.requests[:SINGLE],
            "often": visit.settings.monitor_n_plus_one,
        },
    )


def _each(amount: float, endpoint: EndpointFigures) -> float:
    return amount / endpoint.calls if endpoint.calls else 0.0
