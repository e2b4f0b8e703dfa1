"""Which rules are broken, raised once, resolved once. Decides only; telling is the caller's business."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

#: Seconds that a rule looks back, and the least it must have seen before it speaks.
SLOW_WINDOW = 300.0
RATIO_WINDOW, LEAST_LOOKUPS, LEAST_LOANS = 900.0, 1000, 1000
#: A ratio means nothing before this many seconds of a worker's life, and then its first minutes are left out:
#: caches and pools begin empty.
LEAST_LIFE, WARMING = 600.0, 300.0
ERROR_WINDOW = 3600.0
#: A ratio that was too low is well again when it is this much over its threshold: no flapping.
MARGIN = 0.05
#: A slow statement's text in a message.
SHOWN = 200


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule was broken for one subject (a statement, a database); ``resolved_at`` None: it still is."""

    rule: str
    subject: str
    message: str
    value: float
    threshold: float
    raised_at: float
    resolved_at: float | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where each of the four rules draws its line; None switches a rule off."""

    query_too_slow: float | None
    """Seconds of the slowest run."""
    cache_hit_ratio: float | None
    pool_hit_ratio: float | None
    connection_errors: float | None
    """Errors an hour."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules look at."""

    slowest: Mapping[str, tuple[float, str]]
    """The slowest run in seconds, and the text, of statements of the last ``SLOW_WINDOW``, by their id."""
    lately: Mapping[str, float]
    """The counters since ``ratios_since``."""
    hour: Mapping[str, float]
    """The counters of the last hour."""
    life: float
    """Seconds that the oldest living worker has lived."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule, applied to one subject. ``broken`` None: neither broken nor well, so nothing changes."""

    rule: str
    subject: str
    message: str
    value: float
    threshold: float
    broken: bool | None


def ratios_since(now: float, life: float) -> float:
    """Where the ratios' window begins: once they are judged, not before the oldest worker was warm."""
    begin = now - RATIO_WINDOW
    return max(begin, now - life + WARMING) if life >= LEAST_LIFE else begin


def examine(evidence: Evidence, thresholds: Thresholds) -> list[Finding]:
    """Apply every rule. A subject without enough evidence has no finding."""
    return [
        *_slow_queries(evidence, thresholds.query_too_slow),
        *_cache(evidence, thresholds.cache_hit_ratio),
        *_pools(evidence, thresholds.pool_hit_ratio),
        *_connections(evidence, thresholds.connection_errors),
    ]


def settle(findings: Iterable[Finding], raised: Iterable[Alert], now: float) -> tuple[list[Alert], list[Alert]]:
    """The alerts to raise and those that are resolved. What is no longer found at all is resolved too."""
    by_key = {(finding.rule, finding.subject): finding for finding in findings}
    standing = {(alert.rule, alert.subject): alert for alert in raised}
    new = [
        Alert(f.rule, f.subject, f.message, f.value, f.threshold, raised_at=now)
        for key, f in by_key.items()
        if f.broken and key not in standing
    ]
    resolved = [
        replace(alert, resolved_at=now)
        for key, alert in standing.items()
        if key not in by_key or by_key[key].broken is False
    ]
    return new, resolved


def _slow_queries(evidence: Evidence, threshold: float | None) -> Iterable[Finding]:
    if threshold is None:
        return
    for name, (seconds, query) in evidence.slowest.items():
        text = query if len(query) <= SHOWN else query[: SHOWN - 1] + "…"
        yield Finding(
            "query_too_slow",
            name,
            f"a query took {_apart(seconds, threshold, 1)} s, more than {threshold:,g} s: {text}",
            seconds,
            threshold,
            seconds > threshold,
        )


def _cache(evidence: Evidence, threshold: float | None) -> Iterable[Finding]:
    hits, misses = evidence.lately.get("cache.hits", 0), evidence.lately.get("cache.misses", 0)
    if threshold is None or hits + misses < LEAST_LOOKUPS:
        return
    ratio = hits / (hits + misses)
    shown, least = _apart(ratio * 100, threshold * 100), f"{threshold * 100:g}"
    message = f"the cache answered {shown} % of {hits + misses:,.0f} look-ups, less than {least} %"
    yield Finding("cache_hit_ratio", "cache", message, ratio, threshold, _too_low(ratio, threshold, evidence))


def _pools(evidence: Evidence, threshold: float | None) -> Iterable[Finding]:
    if threshold is None:
        return
    for name, loans in evidence.lately.items():
        if not _is_pools(name, "requests_num") or loans < LEAST_LOANS:
            continue
        pool = _pool(name)
        ratio = evidence.lately.get(f"pool.{pool}.requests_immediate", 0) / loans
        shown, least = _apart(ratio * 100, threshold * 100), f"{threshold * 100:g}"
        message = f"the pool of {pool} served {shown} % of {loans:,.0f} loans at once, less than {least} %"
        yield Finding("pool_hit_ratio", pool, message, ratio, threshold, _too_low(ratio, threshold, evidence))


def _connections(evidence: Evidence, threshold: float | None) -> Iterable[Finding]:
    if threshold is None:
        return
    errors: dict[str, float] = {}
    for name, count in evidence.hour.items():
        # A failed attempt may show in both: once as the attempt, once as the check-out that failed by it.
        if _is_pools(name, "connections_errors") or _is_pools(name, "requests_errors"):
            errors[_pool(name)] = max(count, errors.get(_pool(name), 0))
        elif _is_pools(name, "connections_lost"):
            errors.setdefault(_pool(name), 0)
    for pool, failed in errors.items():
        count = failed + evidence.hour.get(f"pool.{pool}.connections_lost", 0)
        message = f"{count:,.0f} connection errors of {pool} in an hour, more than {threshold:,g}"
        yield Finding("connection_errors", pool, message, count, threshold, count > threshold)


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


def _is_pools(name: str, figure: str) -> bool:
    return name.startswith("pool.") and name.endswith("." + figure)


def _pool(name: str) -> str:
    return name[len("pool.") : name.rindex(".")]
