"""Every setting, declared once: default, meaning, unit, range. Knows mappings and text, not Flask."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from flask_dbopt.errors import ConfigurationError
from flask_dbopt.settings import policy
from flask_dbopt.settings.alert_rules import check_alert_rules
from flask_dbopt.settings.declaration import HIDDEN, Setting, setting, text

__all__ = ["HIDDEN", "SETTINGS", "SQLITE_PRAGMAS", "Resolved", "Setting", "Settings", "resolve"]

PREFIX = "DBOPT_"

SQLITE_PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "NORMAL",
    "cache_size": -10000,
    "temp_store": "MEMORY",
    "mmap_size": 268435456,
}
"""The built-in tuning. NORMAL can lose the last commits at a power cut; "synchronous": "FULL" undoes that."""


def _pragmas(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if not re.fullmatch(r"[A-Za-z_]+", name):
            raise ValueError(f"{name!r} is not the name of a PRAGMA")
        if not re.fullmatch(r"-?\w+", str(value)):
            raise ValueError(f"{name} = {value!r} is not a PRAGMA value: a number, a word, None to leave it alone")
    return {**SQLITE_PRAGMAS, **{name.lower(): value for name, value in given.items()}}


def _databases(given: Mapping[str, Any]) -> dict[str, str]:
    for name in given:
        if name == "default" or not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"{name!r} cannot name a database: letters, digits, - and _, and not 'default'")
    return {name: text(place) for name, place in given.items()}


def _not_yet(given: Any) -> Any:
    """For settings that protect something: going on as if they did would be worse than a refusal."""
    if given:
        raise ValueError("is not available in this version yet, so nothing would be protected by it")
    return given


def _site_path(given: str) -> str:
    if not re.fullmatch(r"(/[\w.~-]+)+/?", given):
        raise ValueError('is not a path below the site\'s root, such as "/_dbopt"')
    return given.rstrip("/")


def _web_address(given: str) -> str:
    if not re.match(r"https?://\S+$", given):
        raise ValueError("is not an http:// or https:// address")
    return given


# fmt: off
@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """The effective values. Relative folders are meant under the app's instance folder."""

    enabled: bool = setting(True, "off: every entrance still works, plain and untimed, and nothing starts")
    database: str | None = setting(None, "path or URL; None: the app's SQLAlchemy engines, else its DATABASE")
    databases: Mapping[str, str] = setting({}, "more databases by name, for connect(name)", check=_databases)
    state_dir: str = setting("dbopt", "folder of what workers share; losing it loses history, never data")

    pool_max: int = setting(20, "the most connections lent at a time, in each process", unit="connections",
                            low=1, high=10_000, env="DB_MAX_CONNECTIONS")
    pool_min: int = setting(5, "connections kept open", unit="connections",
                            low=0, high=10_000, env="DB_MIN_CONNECTIONS")
    pool_timeout: float = setting(30.0, "how long to wait for a connection", unit="seconds",
                                  low=0, env="DB_CONNECTION_TIMEOUT")
    pool_max_waiting: int = setting(0, "how many may wait in line; 0: no limit", unit="requests", low=0)
    pool_health_interval: float = setting(300.0, "how often idle connections are checked", unit="seconds",
                                          low=0.01, env="DB_HEALTH_CHECK_INTERVAL")
    pool_max_lifetime: float = setting(3600.0, "age at which a connection is replaced", unit="seconds",
                                       low=0.01, env="DB_MAX_LIFETIME")
    pool_idle_timeout: float = setting(600.0, "idle time after which a connection beyond pool_min is closed",
                                       unit="seconds", low=0.01, env="DB_IDLE_TIMEOUT")
    pool_check_after: float = setting(0.5, "idle time after which a connection is checked before it is lent",
                                      unit="seconds", low=0)
    pool_reconnect_timeout: float = setting(300.0, "how long connecting may fail before it is told as an error",
                                            unit="seconds", low=0)
    pool_leak_after: float = setting(60.0, "how long a loan may last unreported", unit="seconds", low=0.01)

    sqlite_pragmas: Mapping[str, Any] = setting(SQLITE_PRAGMAS, "what connections are tuned to; yours are "
                                                "laid over these, None leaves one alone", check=_pragmas)
    sqlite_busy_timeout: float = setting(5.0, "how long to wait for a lock; the app's own timeout= wins",
                                         unit="seconds", low=0)
    sqlite_transactions: str = setting("app", "how transactions begin: as the app does, or IMMEDIATE",
                                       choices=("app", "immediate"))
    sqlite_policy: Mapping[str, Any] = setting({}, "what statements may not do, and tables they may not touch",
                                               check=policy.read)
    sqlite_wal_limit: int = setting(64 << 20, "size that the WAL may grow to; 0: as SQLite does it",
                                    unit="bytes", low=0)

    cache_enabled: bool = setting(True, "whether results of SELECTs are kept", env="DB_ENABLE_SELECT_CACHE")
    cache_max_entries: int = setting(1000, "the most results kept, in each process", unit="results",
                                     low=1, env="DB_CACHE_MAX_SIZE")
    cache_ttl: float = setting(3600.0, "the longest a result is served", unit="seconds",
                               low=0.001, env="DB_CACHE_TTL")
    cache_max_bytes: int = setting(64 << 20, "memory for kept results, in each process", unit="bytes", low=1)
    cache_max_result: int = setting(1 << 20, "the largest result that is kept", unit="bytes", low=1)
    cache_store: str | Mapping[str, Any] = setting("memory", '"memory", or a Flask-Caching configuration',
                                                   later=True)

    monitor_enabled: bool = setting(True, "whether queries and requests are timed")
    monitor_slow_seconds: float = setting(0.1, "from here on a statement is slow", unit="seconds", low=0)
    monitor_record_params: bool = setting(False, "whether values of slow statements are kept")
    monitor_n_plus_one: int = setting(10, "repeats of a statement in a request that are reported; 0: never",
                                      unit="calls", low=0)
    monitor_retention_days: float = setting(30.0, "how long figures are kept", unit="days", low=0.01)
    monitor_guard: str = setting("log", "what happens to a suspected SQL injection",
                                 choices=("log", "block", "off"))
    monitor_statement_timeout: float | None = setting(None, "the longest a statement may run; None: no limit",
                                                      unit="seconds", low=0.001)

    advisor_min_rows: int = setting(500, "smaller tables get no advice", unit="rows", low=0)
    advisor_min_calls: int = setting(50, "statements run less often get no advice", unit="calls", low=1)
    advisor_min_seconds: float = setting(0.02, "quicker statements get no advice", unit="seconds", low=0)

    backup_enabled: bool = setting(True, "whether backups are taken on schedule", env="DB_BACKUP_ENABLED")
    backup_dir: str = setting("backups", "folder of the backups", env="DB_BACKUP_DIR")
    backup_interval_hours: float = setting(24.0, "time between scheduled backups", unit="hours",
                                           low=0.001, high=8784, env="DB_BACKUP_INTERVAL_HOURS")
    backup_retention_days: float = setting(30.0, "age at which a backup is removed", unit="days",
                                           low=0.01, env="DB_BACKUP_RETENTION_DAYS")
    backup_keep_weekly: int = setting(0, "weekly backups kept beyond that", unit="weeks", low=0)
    backup_keep_monthly: int = setting(0, "monthly backups kept beyond that", unit="months", low=0)
    backup_compression: bool = setting(True, "whether backups are compressed", env="DB_COMPRESSION_ENABLED")
    backup_recipients: tuple[str, ...] = setting((), "age public keys that backups are encrypted for",
                                                 check=_not_yet, later=True)
    backup_verify: bool = setting(True, "whether each backup is restored and checked before it counts")
    backup_copy_to: str | None = setting(None, "a second folder that each backup is copied to",
                                         check=_not_yet, later=True)

    alert_slow_query_seconds: float = setting(2.0, "alert when a query is slower", unit="seconds", low=0)
    alert_cache_hit_ratio: float = setting(0.5, "alert when the cache answers a smaller part", low=0, high=1)
    alert_pool_hit_ratio: float = setting(0.8, "alert when fewer loans are immediate", low=0, high=1)
    alert_connection_errors_per_hour: int = setting(10, "alert when there are more",
                                                    unit="errors an hour", low=0)
    alert_rules: Mapping[str, Any] = setting({}, "rules by name: a threshold, or False to switch one off",
                                             check=check_alert_rules)
    alert_webhook: str | None = setting(None, "address that alerts are posted to", secret=True,
                                        check=_web_address)
    alert_webhook_secret: str | None = setting(None, "what the posts are signed with (HMAC); None: unsigned",
                                               secret=True)

    admin_enabled: bool = setting(True, "whether there is an admin page at all")
    admin_url: str = setting("/_dbopt", "path of the admin page", check=_site_path)
    admin_token: str | None = setting(None, "what opens the admin page; None: only local debugging does",
                                      secret=True)
    admin_readonly: bool = setting(False, "whether the admin page refuses every change")

    log_dir: str | None = setting(None, "folder of log files; None: the app's own logging only")
    log_max_bytes: int = setting(10 << 20, "size at which a log file is rotated", unit="bytes", low=1024)
    log_max_days: float = setting(7.0, "age at which a log file is rotated", unit="days", low=0.001)
    log_keep: int = setting(5, "rotated log files that are kept", unit="files", low=1, high=1000)
    log_audit_days: float = setting(365.0, "how long entries of the audit log are kept at least", unit="days", low=1)

    def shown(self, name: str) -> Any:
        """The value as people may see it, in JSON's types: secrets and passwords inside URLs are hidden."""
        return SETTINGS[name].shown(getattr(self, name))

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, by key, as people may see it."""
        return {one.key: self.shown(one.name) for one in SETTINGS.values() if getattr(self, one.name) != one.default}

    def __repr__(self) -> str:
        """Only what differs from the defaults, and no secret."""
        asked = [f"{_BY_KEY[key].name}={value!r}" for key, value in self.changed().items()]
        return f"Settings({', '.join(asked)})"
# fmt: on


@dataclass(frozen=True, slots=True)
class Resolved:
    """The effective settings, and where each came from: "app.config DBOPT_POOL_MAX", "default", …"""

    settings: Settings
    sources: Mapping[str, str]
    unheeded: tuple[str, ...] = ()
    """Settings that were given although they have no effect in this version yet."""


_DEFAULTS = Settings()
SETTINGS: Mapping[str, Setting] = {
    each.name: Setting(each.name, str(each.type), getattr(_DEFAULTS, each.name), **each.metadata)
    for each in fields(Settings)
}
"""Every declaration by field name, in the order of the rooms."""

_BY_KEY = {one.key: one for one in SETTINGS.values()}
_BY_ALIAS = {one.env: one for one in SETTINGS.values() if one.env}

_PAIRS = (("pool_min", "pool_max"), ("cache_max_result", "cache_max_bytes"))
"""The first of each may not be more than the second."""


def resolve(
    config: Mapping[str, Any], environ: Mapping[str, str], keywords: Mapping[str, Any] | None = None
) -> Resolved:
    """The effective settings: ``config`` before ``environ`` before ``keywords`` before the defaults.

    Text is read as its setting's type, wherever it comes from; an empty environment variable is not set.
    Raises ConfigurationError with every fault at once, unknown names with the nearest valid one.
    """
    keywords = keywords or {}
    faults = _unknown("app.config", (name for name in config if str(name).startswith(PREFIX)), _BY_KEY)
    ours = {name: environ[name] for name in environ if name.startswith(PREFIX) or name in _BY_ALIAS}
    faults += _unknown("environment", (name for name in ours if name.startswith(PREFIX)), _BY_KEY)
    faults += _unknown("keyword", keywords, SETTINGS)
    given = _given(config, ours, keywords)
    values: dict[str, Any] = {}
    sources = dict.fromkeys(SETTINGS, "default")
    for name in SETTINGS:
        if name not in given:
            continue
        one, source, value = given[name]
        sources[name] = source
        try:
            values[name] = one.read(value)
        except ValueError as fault:
            faults.append(f"{source} = {_quoted(one, value)}: {fault}")
    faults += _disagreements(values, sources)
    if faults:
        count = "1 setting cannot be used" if len(faults) == 1 else f"{len(faults)} settings cannot be used"
        raise ConfigurationError(
            "\n  - ".join([f"{count}:", *faults]),
            hint="`flask db-opt config` lists every setting with its meaning",
        )
    unheeded = tuple(name for name, value in values.items() if SETTINGS[name].later and value != SETTINGS[name].default)
    return Resolved(Settings(**values), sources, unheeded)


def _given(
    config: Mapping[str, Any], environ: Mapping[str, str], keywords: Mapping[str, Any]
) -> dict[str, tuple[Setting, str, Any]]:
    """Each setting that is given somewhere, with the place that counts and the value there.

    The places come from the weakest to the strongest, and not setting by setting: an app gives a few of many.
    """
    found = {name: (SETTINGS[name], f"keyword {name}", value) for name, value in keywords.items() if name in SETTINGS}
    for names in (_BY_ALIAS, _BY_KEY):
        for name, value in environ.items():
            if name in names and value.strip():
                found[names[name].name] = (names[name], f"environment {name}", value)
    for name, value in config.items():
        if name in _BY_KEY:
            found[_BY_KEY[name].name] = (_BY_KEY[name], f"app.config {name}", value)
    return found


def _unknown(place: str, names: Iterable[str], known: Mapping[str, Setting]) -> list[str]:
    return [
        f"{place} {name}: no such setting; the nearest is {difflib.get_close_matches(name, known, 1, 0.0)[0]}"
        for name in names
        if name not in known
    ]


def _disagreements(values: dict[str, Any], sources: dict[str, str]) -> list[str]:
    """Pairs that cannot both hold. A smaller default gives way; what was asked for is never altered."""
    faults = []
    for small, large in _PAIRS:
        low, high = (
            values.get(name, SETTINGS[name].default if sources[name] == "default" else None) for name in (small, large)
        )
        if low is None or high is None or low <= high:  # None: already a fault by itself
            continue
        if sources[small] == "default":
            values[small], sources[small] = high, f"default, lowered to {SETTINGS[large].key}"
        else:
            default = sources[large] == "default"
            named = f"{SETTINGS[large].key}, by default {high}" if default else f"{sources[large]} = {high}"
            faults.append(f"{sources[small]} = {low}: more than {named}")
    return faults


def _quoted(one: Setting, given: Any) -> str:
    quoted = repr(one.shown(given))
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."
