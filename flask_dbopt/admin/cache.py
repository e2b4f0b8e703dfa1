"""Cache metrics: how much is answered without the database, and what it takes."""

from __future__ import annotations

import logging

from flask_dbopt.admin import charts
from flask_dbopt.admin.charts import Line
from flask_dbopt.admin.desk import Done, Page, Visit
from flask_dbopt.admin.overview import since_first_use, tone
from flask_dbopt.admin.wording import count

log = logging.getLogger("flask_dbopt.admin")

SHOWN = 20


def show(visit: Visit) -> Page:
    report = visit.report
    served = sorted((q for q in report.queries if q.cache_hits), key=lambda q: q.cache_hits, reverse=True)
    return Page(
        "cache",
        "Cache",
        "cache.html",
        {
            "report": report,
            "stats": report.cache,
            "tone": tone(visit, "cache_hit_ratio") or "one",
            "threshold": visit.settings.alert_cache_hit_ratio,
            "chart": drawing(visit),
            "served": served[:SHOWN],
            # a hit saves one mean run
            "saved_ms": sum(q.cache_hits * q.mean_exec_time for q in served if q.calls > q.cache_hits),
        },
    )


def drawing(visit: Visit) -> str:
    """Hits and misses over time; empty while the cache was never asked."""
    series = since_first_use(visit.report.series)
    if not any(point.cache_hits or point.cache_misses for point in series):
        return ""
    return charts.series(
        "Look-ups",
        [point.start for point in series],
        [
            Line("hits", "one", [float(point.cache_hits) for point in series]),
            Line("misses", "three", [float(point.cache_misses) for point in series]),
        ],
        count,
        bars=True,
    )


def clear(visit: Visit) -> Done:
    """Empty the cache of the worker that answers; results elsewhere stay true by themselves."""
    visit.optimizer.cache.clear()
    log.warning("the admin page cleared the cache")
    return Done("The cache of the worker that answered is empty. It fills again with what is asked for.", "cache")
