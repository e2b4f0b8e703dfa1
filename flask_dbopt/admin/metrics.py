"""What a Prometheus server is told at ``/_dbopt/metrics``: figures of all workers, in seconds and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from flask_dbopt.admin.exposition import Family, text
from flask_dbopt.errors import DBOptError
from flask_dbopt.monitor.figures import Worker
from flask_dbopt.monitor.request import OUTSIDE
from flask_dbopt.monitor.totals import Totals, cumulated
from flask_dbopt.settings.alert_rules import ALERT_RULES

if TYPE_CHECKING:
    from flask_dbopt.optimizer import Optimizer

#: Statements that have series of their own: the costliest of all time. The bound on what a scraper has to keep.
STATEMENTS = 50
#: The same for counters that have no name of their own here: the first by name.
MOST_EVENTS = 300
#: Characters of a statement's text.
LONGEST_TEXT = 200
NO_REQUEST = "(no request)"

#: Counters of a pool: their names here and there, what they are, and by how much they are divided.
_POOL_COUNTERS = (
    ("requests", "requests_num", "Connections asked for.", 1),
    ("requests_immediate", "requests_immediate", "Of those, served at once by an idle connection.", 1),
    ("requests_queued", "requests_queued", "Of those, made to wait in line.", 1),
    ("request_errors", "requests_errors", "Of those, that got none: it took too long, or connecting failed.", 1),
    ("wait_seconds", "requests_wait_ms", "Time spent waiting for a connection.", 1000),
    ("usage_seconds", "usage_ms", "Time for which connections were lent.", 1000),
    ("returns_bad", "returns_bad", "Connections that came back in a transaction or beyond repair.", 1),
    ("connections_opened", "connections_num", "Connections opened.", 1),
    ("connect_seconds", "connections_ms", "Time spent opening connections.", 1000),
    ("connection_errors", "connections_errors", "Connections that could not be opened.", 1),
    ("connections_lost", "connections_lost", "Connections that were found dead.", 1),
)
_POOL_GAUGES = (
    ("connections", "pool_size", "Connections open, lent or idle."),
    ("connections_idle", "pool_available", "Connections that nobody has."),
    ("connections_parked", "pool_parked", "Connections given back that somebody still refers to."),
    ("connections_max", "pool_max", "The most connections lent at a time, in all workers together."),
    ("requests_waiting", "requests_waiting", "Requests that wait for a connection now."),
)
_CACHE_COUNTERS = (
    ("hits", "Results served from the cache."),
    ("misses", "Look-ups that were not served although their result could be kept."),
    ("fills", "Results kept."),
    ("evictions", "Results dropped to make room."),
    ("expirations", "Results dropped because of their age."),
    ("invalidations", "Results dropped because the database changed, or because somebody asked."),
    ("refused", "Results that were not worth keeping."),
)
_CACHE_GAUGES = (
    ("entries", "Results held now."),
    ("bytes", "Their estimated size."),
    ("max_bytes", "Memory that they may take, in all workers together."),
)


def exposition(optimizer: Optimizer, now: float) -> str:
    """Everything, in the text format. Counters are left out while the ledger cannot be read: a gap, not a fall."""
    totals = optimizer.monitor.totals(STATEMENTS)
    workers = optimizer.monitor.workers()
    return text(
        [
            *_about(optimizer, workers, totals),
            *(_requests(totals) if totals else ()),
            *(_statements(totals) if totals else ()),
            *_cache(optimizer, workers, totals),
            *_pools(optimizer, workers, totals),
            *_databases(optimizer),
            *_backups(optimizer, now),
            *_alerts(optimizer),
            *(_rest(totals) if totals else ()),
        ]
    )


def _about(optimizer: Optimizer, workers: Sequence[Worker], totals: Totals | None) -> Iterator[Family]:
    yield _gauge("info", "Which version tells this; always 1.").add(1, version=optimizer.version)
    yield _gauge("workers", "Living workers whose figures these are; the dead ones' counts stay.").add(len(workers))
    yield _gauge("ledger_readable", "Whether the counters could be read; else they are not here.").add(
        totals is not None
    )
    yield _gauge("healthy", "Whether requests can be served.").add(optimizer.health().ok)


def _requests(totals: Totals) -> Iterator[Family]:
    requests = _counter("requests", "Requests answered.")
    failed = _counter("request_errors", "Requests that raised or were answered with 5xx.")
    took = _histogram("request_seconds", "Time from a request's begin to its end.")
    queries = _counter("queries", "Statements, those answered by the cache too.")
    hits = _counter("query_cache_hits", "Statements answered by the cache.")
    database = _counter("database_seconds", "Time spent in the database.")
    for one in totals.endpoints:
        name = NO_REQUEST if one.endpoint == OUTSIDE else one.endpoint
        queries.add(one.queries, endpoint=name)
        hits.add(one.cache_hits, endpoint=name)
        database.add(one.database, endpoint=name)
        if one.endpoint != OUTSIDE:
            requests.add(one.calls, endpoint=name)
            failed.add(one.errors, endpoint=name)
            took.add_histogram(cumulated(one.times), one.seconds, endpoint=name)
    runs = _histogram("query_seconds", "Time of each run in the database.")
    runs.add_histogram(cumulated(totals.query_times), sum(one.database for one in totals.endpoints))
    return iter((requests, failed, took, queries, hits, database, runs))


def _statements(totals: Totals) -> Iterator[Family]:
    note = f"of the {STATEMENTS} statements that took most time"
    texts = _gauge("statement_info", f"The text {note}, without its literals; always 1.")
    calls = _counter("statement_calls", f"Calls {note}, those answered by the cache too.")
    seconds = _counter("statement_seconds", f"Time in the database {note}.")
    rows = _counter("statement_rows", f"Rows read or changed {note}.")
    errors = _counter("statement_errors", f"Failed calls {note}.")
    hits = _counter("statement_cache_hits", f"Calls answered by the cache {note}.")
    for one in totals.statements:
        query = one.query if len(one.query) <= LONGEST_TEXT else one.query[: LONGEST_TEXT - 1] + "…"
        texts.add(1, id=one.id, query=query)
        calls.add(one.calls, id=one.id)
        seconds.add(one.seconds, id=one.id)
        rows.add(one.rows, id=one.id)
        errors.add(one.errors, id=one.id)
        hits.add(one.cache_hits, id=one.id)
    return iter((texts, calls, seconds, rows, errors, hits))


def _cache(optimizer: Optimizer, workers: Sequence[Worker], totals: Totals | None) -> Iterator[Family]:
    here = optimizer.cache.stats()
    gauges = _gauges(workers, "cache.") or {name: getattr(here, name) for name, _ in _CACHE_GAUGES}
    for name, words in _CACHE_COUNTERS if totals else ():
        amount = totals.counters.get(f"cache.{name}", 0) if totals else 0
        yield _counter(f"cache_{name}", words).add(amount)
    for name, words in _CACHE_GAUGES:
        yield _gauge(f"cache_{name}", words).add(gauges.get(name, 0))


def _pools(optimizer: Optimizer, workers: Sequence[Worker], totals: Totals | None) -> Iterator[Family]:
    pools = [one for one in list(optimizer.databases.values()) if one.pools]
    for name, field, words, per in _POOL_COUNTERS if totals else ():
        family = _counter(f"pool_{name}", words)
        for one in pools:
            amount = totals.counters.get(f"pool.{one.name}.{field}", 0) if totals else 0
            family.add(amount / per, database=one.name)
        yield family
    now = {one.name: _gauges(workers, f"pool.{one.name}.") or one.pool_stats().gauges() for one in pools}
    for name, field, words in _POOL_GAUGES:
        family = _gauge(f"pool_{name}", words)
        for database, gauges in now.items():
            family.add(gauges.get(field, 0), database=database)
        yield family


def _databases(optimizer: Optimizer) -> Iterator[Family]:
    size = _gauge("database_bytes", "Size of the database file.")
    wal = _gauge("wal_bytes", "Size of its write-ahead log.")
    for one in list(optimizer.databases.values()):
        if one.path is not None:
            size.add(_size(one.path), database=one.name)
            wal.add(_size(one.path.with_name(f"{one.path.name}-wal")), database=one.name)
    return iter((size, wal))


def _backups(optimizer: Optimizer, now: float) -> Iterator[Family]:
    count = _gauge("backups", "Backups there are.")
    newest = _gauge("backup_timestamp_seconds", "When the newest backup was taken; 0: there is none.")
    proved = _gauge(
        "backup_proved_timestamp_seconds",
        "When the newest backup that was restored and found right was taken; 0: there is none.",
    )
    due = _gauge("backup_next_timestamp_seconds", "When the next backup is due.")
    for one in list(optimizer.databases.values()):
        if one.backups is None:
            continue
        with suppress(DBOptError):  # the catalog cannot be read: no sample, which an alert can notice
            records = one.backups.list()
            count.add(len(records), database=one.name)
            newest.add(max((each.taken_at for each in records), default=0), database=one.name)
            proof = (each.taken_at for each in records if each.verified_at is not None)
            proved.add(max(proof, default=0), database=one.name)
    next_backup = optimizer.next_backup()
    if next_backup is not None:
        due.add(max(next_backup, now))
    return iter((count, newest, proved, due))


def _alerts(optimizer: Optimizer) -> Iterator[Family]:
    rules = [alert.rule for alert in optimizer.monitor.alerts() if alert.resolved_at is None]
    yield _gauge("alerts", "Alerts that stand now, silenced ones too.").add(len(rules))
    by_rule = _gauge("alerts_by_rule", "The same by rule.")
    for rule in dict.fromkeys((*ALERT_RULES, *rules)):
        by_rule.add(rules.count(rule), rule=rule)
    yield by_rule


def _rest(totals: Totals) -> Iterator[Family]:
    """Counters of other rooms, so that none is left out: ``monitor.n_plus_one`` among them."""
    family = _counter("events", "Whatever else is counted, by its name.")
    others = ((name, amount) for name, amount in totals.counters.items() if not name.startswith(("pool.", "cache.")))
    for name, amount in islice(others, MOST_EVENTS):
        family.add(amount, name=name)
    yield family


def _counter(name: str, words: str) -> Family:
    return Family(f"flask_dbopt_{name}_total", "counter", words)


def _gauge(name: str, words: str) -> Family:
    return Family(f"flask_dbopt_{name}", "gauge", words)


def _histogram(name: str, words: str) -> Family:
    return Family(f"flask_dbopt_{name}", "histogram", words)


def _gauges(workers: Sequence[Worker], prefix: str) -> Mapping[str, float]:
    """What the living workers say, summed, by the names behind ``prefix``."""
    found: dict[str, float] = {}
    for worker in workers:
        for name, value in worker.gauges.items():
            if name.startswith(prefix):
                short = name.removeprefix(prefix)
                found[short] = found.get(short, 0) + value
    return found


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
