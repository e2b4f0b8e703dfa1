"""In debug mode each response says what it cost: a ``Server-Timing`` header, which a browser's tools show as bars."""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import Flask, Response, request_finished, request_started

from flask_dbopt.monitor.request import CURRENT, RequestCost

log = logging.getLogger("flask_dbopt")


def register(app: Flask) -> None:
    """Say it from the first request on, if the app is in debug mode by then; else there is nothing left to pay for."""
    request_started.connect(_decide, app, weak=False)


def header(cost: RequestCost, now: float, *, streams: bool = False) -> str:
    """What a request cost until ``now``, without any SQL. What a stream will yet run is not in it."""
    queries = [record for record in cost.records if not record[4]]
    hits = len(cost.records) - len(queries)
    database = sum(record[1] for record in queries) * 1e3
    total = (now - cost.started) * 1e3
    so_far = " before the body" if streams else ""
    told = [
        f'db;dur={database:.2f};desc="{_count(len(queries), "query", "queries")}{so_far}"',
        f'app;dur={max(0.0, total - database):.2f};desc="everything else"',
        f"total;dur={total:.2f}",
    ]
    if hits:
        told.insert(1, f'cache;desc="{_count(hits, "hit", "hits")}"')
    return ", ".join(told)


def _decide(app: Flask, **_: Any) -> None:
    request_started.disconnect(_decide, app)
    if app.debug:
        request_finished.connect(_say, app, weak=False)


def _say(app: Flask, response: Response, **_: Any) -> None:
    """After all of the app's own ``after_request`` functions; their time counts too."""
    cost = CURRENT.get()
    if cost is None or cost.ended is not None:
        return
    try:
        streams = response.is_streamed and response.content_length is None
        response.headers.add("Server-Timing", header(cost, time.perf_counter(), streams=streams))
    except Exception:
        log.exception("this response does not say what it cost")


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
