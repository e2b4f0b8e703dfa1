"""Which rules are broken now, judged from evidence alone. Decides only; what follows is the caller's business."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from flask_dbopt.monitor.alerts import Finding
from flask_dbopt.monitor.evidence import Evidence
from flask_dbopt.monitor.register import Series

#: The least that a rule must have seen before it speaks.
LEAST_LOOKUPS = LEAST_LOANS = 1_000
LEAST_WAITS = LEAST_REQUESTS = 100
LEAST_GROWTH = 10_000
#: A disk with this much room is no worry, however large it is; the trend is asked only below half of it all.
ROOM = 10 << 30
#: A figure that was broken is well again when it is this much on the good side: no flapping. And with this part of the
#: least that it takes to speak, what was said stands.
MARGIN, PART_MARGIN, LEAST_PART = 0.05, 0.2, 0.5
#: Seconds of measurements, and how many, before they make a trend; where a day ago is looked for.
LEAST_TREND, LEAST_POINTS = 3_600.0, 6
DAY, ABOUT_A_DAY = 86_400.0, (20 * 3_600.0, 30 * 3_600.0)
#: Seconds without any backup after which the first is overdue.
FIRST_BACKUP = 3_600.0
#: A ratio means nothing before this many seconds of a worker's life: caches and pools begin empty.
LEAST_LIFE = 600.0
#: A slow statement's text in a message.
SHOWN = 200

Findings = Iterator[Finding]
Judge = Callable[[Evidence, float], Findings]


def judge(rule: str, evidence: Evidence, threshold: float) -> list[Finding]:
    """Apply one rule. A subject without enough evidence has no finding; facts that make no sense raise any error."""
    return list(_JUDGES[rule](evidence, threshold))


# --- the monitor's own figures ------------------------------------------------------------------------


def _slow_queries(evidence: Evidence, threshold: float) -> Findings:
    for name, (seconds, query) in evidence.slowest.items():
        text = query if len(query) <= SHOWN else query[: SHOWN - 1] + "…"
        shown = _apart(seconds, threshold, 1)
        message = f"a query took {shown} s, more than {threshold:,g} s: {text}"
        yield Finding("query_too_slow", name, message, seconds, threshold, seconds > threshold)


def _slow_requests(evidence: Evidence, threshold: float) -> Findings:
    for name, (requests, p95) in evidence.endpoints.items():
        if requests >= LEAST_REQUESTS * LEAST_PART:
            shown = _apart(p95, threshold, 2)
            message = f"1 in 20 of {requests:,} requests of {name} took longer than {shown} s, over {threshold:,g} s"
            verdict = _if_enough(_above(p95, threshold), requests, LEAST_REQUESTS)
            yield Finding("slow_requests", name, message, p95, threshold, verdict)


def _cache(evidence: Evidence, threshold: float) -> Findings:
    hits, misses = evidence.lately.get("cache.hits", 0), evidence.lately.get("cache.misses", 0)
    if hits + misses < LEAST_LOOKUPS * LEAST_PART:
        return
    ratio = hits / (hits + misses)
    shown, least = _apart(ratio * 100, threshold * 100), f"{threshold * 100:g}"
    message = f"the cache answered {shown} % of {hits + misses:,.0f} look-ups, less than {least} %"
    verdict = _if_enough(_too_low(ratio, threshold, evidence), hits + misses, LEAST_LOOKUPS)
    yield Finding("cache_hit_ratio", "cache", message, ratio, threshold, verdict)


def _pools(evidence: Evidence, threshold: float) -> Findings:
    for pool, loans in _by_pool(evidence.lately, "requests_num"):
        if loans < LEAST_LOANS * LEAST_PART:
            continue
        ratio = evidence.lately.get(f"pool.{pool}.requests_immediate", 0) / loans
        shown, least = _apart(ratio * 100, threshold * 100), f"{threshold * 100:g}"
        message = f"the pool of {pool} served {shown} % of {loans:,.0f} loans at once, less than {least} %"
        verdict = _if_enough(_too_low(ratio, threshold, evidence), loans, LEAST_LOANS)
        yield Finding("pool_hit_ratio", pool, message, ratio, threshold, verdict)


def _waits(evidence: Evidence, threshold: float) -> Findings:
    for pool, loans in _by_pool(evidence.lately, "requests_num"):
        if loans < LEAST_WAITS * LEAST_PART:
            continue
        mean = evidence.lately.get(f"pool.{pool}.requests_wait_ms", 0) / loans
        queued = evidence.lately.get(f"pool.{pool}.requests_queued", 0)
        message = (
            f"a loan of {pool} waited {_apart(mean, threshold, 1)} ms on average, longer than {threshold:,g} ms: "
            f"{queued:,.0f} of {loans:,.0f} had to stand in line"
        )
        verdict = _if_enough(_above(mean, threshold), loans, LEAST_WAITS)
        yield Finding("pool_wait", pool, message, mean, threshold, verdict)


def _connections(evidence: Evidence, threshold: float) -> Findings:
    failed: dict[str, float] = {}
    # A failed attempt may show in both: once as the attempt, once as the check-out that failed by it.
    for figure in ("connections_errors", "requests_errors"):
        for pool, count in _by_pool(evidence.hour, figure):
            failed[pool] = max(count, failed.get(pool, 0))
    lost = dict(_by_pool(evidence.hour, "connections_lost"))
    for pool in dict.fromkeys((*failed, *lost)):
        count = failed.get(pool, 0) + lost.get(pool, 0)
        message = f"{count:,.0f} connection errors of {pool} in an hour, more than {threshold:,g}"
        yield Finding("connection_errors", pool, message, count, threshold, _above(count, threshold))


# --- events that were counted -------------------------------------------------------------------------


def _leaks(evidence: Evidence, threshold: float) -> Findings:
    by_pool: dict[str, dict[str, float]] = {}
    for name, count in _below(evidence.hour, "leaks."):
        pool, _, borrower = name.partition(".")
        by_pool.setdefault(pool, {})[borrower] = count
    for pool, borrowers in by_pool.items():
        count, most = sum(borrowers.values()), max(borrowers, key=lambda name: borrowers[name])
        held = f"1 connection of {pool} was" if count == 1 else f"{count:,.0f} connections of {pool} were"
        message = f"{held} lent for too long within an hour, most of all to {most}"
        yield Finding("connection_leaked", pool, message, count, threshold, _above(count, threshold))


def _counted(rule: str, prefix: str, one: str, words: str, evidence: Evidence, threshold: float) -> Findings:
    """So many in an hour, by subject; ``words`` has places for how many and for the subject."""
    for subject, count in _below(evidence.hour, prefix):
        many = f"{count:,.0f} {one}{'' if count == 1 else 's'}"
        message = words.format(many, subject or "no request") + (f", more than {threshold:,g}" if threshold else "")
        yield Finding(rule, subject, message, count, threshold, _above(count, threshold))


def _dropped(evidence: Evidence, threshold: float) -> Findings:
    count = evidence.hour.get("monitor.dropped", 0)
    if count:
        message = f"{count:,.0f} records were lost within an hour before they were counted, so figures are too low"
        yield Finding("monitor_dropped", "monitor", message, count, threshold, _above(count, threshold))


# --- facts that were looked at ------------------------------------------------------------------------


def _wal(evidence: Evidence, threshold: float) -> Findings:
    for name, facts in evidence.facts("wal"):
        times = facts["bytes"] / facts["limit"]
        message = (
            f"the WAL of {name} has {_size(facts['bytes'])}, {_apart(times, threshold, 1)} × its limit of "
            f"{_size(facts['limit'])}, more than {threshold:,g} ×"
        )
        yield Finding("wal_size", name, message, times, threshold, _above(times, threshold))


def _backups(evidence: Evidence, threshold: float) -> Findings:
    for name, facts in evidence.facts("backup"):
        interval, newest = facts["interval"], facts.get("newest")
        due = f"though one is due every {interval / 3600:,g} h"
        if newest is None:
            late = evidence.life > min(FIRST_BACKUP, interval * threshold)
            message = f"there is no backup of {name} to rely on, {due}"
            yield Finding("backup_overdue", name, message, 0.0, threshold, late)
        elif evidence.now >= newest:
            age = evidence.now - newest
            message = f"the last backup of {name} is {_span(age)} old, {due}"
            yield Finding("backup_overdue", name, message, age / interval, threshold, age / interval > threshold)


def _proofs(evidence: Evidence, threshold: float) -> Findings:
    for name, facts in evidence.facts("backup"):
        if facts["backups"]:
            count = facts["unproved"]
            told = "the newest backup" if count == 1 else f"the newest {count:,.0f} backups"
            message = f"{told} of {name} {'is' if count == 1 else 'are'} not proved: it may not be restorable"
            yield Finding("backup_unproved", name, message, count, threshold, count > threshold)


def _room(evidence: Evidence, threshold: float) -> Findings:
    for place, facts in evidence.facts("disk"):
        free, part = facts["free"], facts["free"] / facts["total"]
        shown, least = _apart(part * 100, threshold * 100, 1), f"{threshold * 100:g}"
        message = f"{_size(free)} are free on the disk of {place}: {shown} %, less than {least} %"
        low: bool | None = part < threshold and free < ROOM
        if not low and part < min(1.0, threshold + MARGIN / 5) and free < ROOM * (1 + PART_MARGIN):
            low = None
        yield Finding("disk_free", place, message, part, threshold, low)


def _filling(evidence: Evidence, threshold: float) -> Findings:
    for place, facts in evidence.facts("disk"):
        lost = -trend(evidence.series("disk").get(place, ()))
        if lost <= 0 or facts["free"] > facts["total"] / 2:
            continue
        hours = facts["free"] / lost / 3600
        message = (
            f"the disk of {place} loses {_size(lost * 3600)} an hour and will be full in {_span(hours * 3600)}, "
            f"less than {threshold:,g} h"
        )
        full: bool | None = hours < threshold
        if not full and hours < threshold * (1 + PART_MARGIN):
            full = None
        yield Finding("disk_filling", place, message, hours, threshold, full)


def _growth(evidence: Evidence, threshold: float) -> Findings:
    for kind in ("rows", "rowids"):
        for table, series in evidence.series(kind).items():
            before = _a_day_ago(series)
            rows = series[-1][1]
            if before is None or evidence.now - series[-1][0] > ABOUT_A_DAY[0] / 5 or rows < LEAST_GROWTH:
                continue
            part = (rows - before) / max(1.0, before)
            grew = f"{_apart(part * 100, threshold * 100)} %" if before else "all its rows"
            message = (
                f"the table {table} grew by {grew} in a day, from {before:,.0f} to {rows:,.0f} rows, "
                f"more than {threshold * 100:,g} %"
            )
            verdict = _if_enough(_above(part, threshold), rows - before, LEAST_GROWTH)
            yield Finding("table_growth", table, message, part, threshold, verdict)


def _ledger(evidence: Evidence, threshold: float) -> Findings:
    for name, facts in evidence.facts("ledger"):
        minutes = (evidence.now - facts["memory_since"]) / 60
        message = (
            f"figures and alerts have been kept in memory alone for {_span(minutes * 60)}: they cover one process "
            "and end with it"
        )
        yield Finding("ledger_memory_only", name, message, minutes, threshold, minutes > threshold)


_JUDGES: Mapping[str, Judge] = {
    "query_too_slow": _slow_queries,
    "slow_requests": _slow_requests,
    "cache_hit_ratio": _cache,
    "pool_hit_ratio": _pools,
    "pool_wait": _waits,
    "connection_errors": _connections,
    "connection_leaked": _leaks,
    "wal_size": _wal,
    "backup_overdue": _backups,
    "backup_unproved": _proofs,
    "disk_free": _room,
    "disk_filling": _filling,
    "lost_update_risk": partial(
        _counted, "lost_update_risk", "lost_updates.", "update", "{0} of {1} may have been lost in an hour"
    ),
    "n_plus_one": partial(
        _counted, "n_plus_one", "n_plus_one.", "request", "{0} of {1} in an hour ran one statement again and again"
    ),
    "table_growth": _growth,
    "suspicious_query": partial(
        _counted, "suspicious_query", "suspicious.", "statement", "values of requests reshaped {0} of {1} in an hour"
    ),
    "monitor_dropped": _dropped,
    "ledger_memory_only": _ledger,
}


# --- figures ------------------------------------------------------------------------------------------


def trend(series: Series) -> float:
    """What a measured figure gains a second, if it keeps to one direction; 0 where there is no telling.

    The least-squares line over all points; its two halves must go the same way, so that one leap is no trend.
    """
    if len(series) < LEAST_POINTS or series[-1][0] - series[0][0] < LEAST_TREND:
        return 0.0
    middle = len(series) // 2
    whole, first, second = (_slope(part) for part in (series, series[:middle], series[middle:]))
    return whole if first * whole > 0 and second * whole > 0 else 0.0


def _slope(points: Series) -> float:
    count = len(points)
    at, value = sum(at for at, _ in points) / count, sum(value for _, value in points) / count
    spread = sum((x - at) ** 2 for x, _ in points)
    return sum((x - at) * (y - value) for x, y in points) / spread if spread else 0.0


def _a_day_ago(series: Series) -> float | None:
    """What was measured nearest to a day before the last; None when nothing was."""
    last, (least, most) = series[-1][0], ABOUT_A_DAY
    first = bisect_left(series, (last - most,))
    near = [(abs(last - at - DAY), value) for at, value in series[first:] if last - at >= least]
    return min(near)[1] if near else None


def _above(value: float, threshold: float) -> bool | None:
    if value > threshold:
        return True
    return False if value <= threshold * (1 - PART_MARGIN) else None


def _if_enough(verdict: bool | None, seen: float, least: float) -> bool | None:
    """With less than it takes to speak nothing is broken; with little less, what was said before stands."""
    if verdict and seen < least:
        return None if seen >= least * LEAST_PART else False
    return verdict


def _too_low(ratio: float, threshold: float, evidence: Evidence) -> bool | None:
    if evidence.life < LEAST_LIFE:
        return None
    if ratio < threshold:
        return True
    return False if ratio >= min(1.0, threshold + MARGIN) else None


def _apart(value: float, threshold: float, digits: int = 0) -> str:
    """``value`` with as few digits as keep it on its side of ``threshold``, and at least ``digits``."""
    limit = float(f"{threshold:g}")
    for text in (f"{value:,.{n}f}" for n in range(digits, 7)):
        shown = float(text.replace(",", ""))
        if (shown < limit, shown > limit) == (value < limit, value > limit):
            return text
    return f"{value:,g}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if count >= 100 or unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _span(seconds: float) -> str:
    for limit, length, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


def _below(counters: Mapping[str, float], prefix: str) -> Iterator[tuple[str, float]]:
    """Counters by what follows the prefix."""
    return ((name.removeprefix(prefix), count) for name, count in counters.items() if name.startswith(prefix))


def _by_pool(counters: Mapping[str, float], figure: str) -> Iterator[tuple[str, float]]:
    """One figure of each pool, by the pool's name."""
    return (
        (name.removesuffix(f".{figure}"), count)
        for name, count in _below(counters, "pool.")
        if name.endswith(f".{figure}")
    )
