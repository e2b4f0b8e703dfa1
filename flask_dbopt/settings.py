"""Every setting, declared once: default, meaning, unit, range. Reads mappings and strings; knows nothing of Flask."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from typing import Any, TypeVar

from flask_dbopt.errors import ConfigurationError

PREFIX = "DBOPT_"
HIDDEN = "(hidden)"

T = TypeVar("T")
Check = Callable[[Any], Any]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_SECONDS = {"seconds": 1, "hours": 3600, "days": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^@\s]*@")


class _Fault(ValueError):
    """What is wrong with one value, as the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One declaration, as docs and ``flask db-opt config`` show it."""

    name: str
    kind: str
    """The type of its values, as annotated: "int", "float | None", …"""
    default: Any
    meaning: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    env: str | None
    """The second environment name it also answers to."""
    secret: bool

    @property
    def key(self) -> str:
        """Its name in ``app.config`` and in the environment."""
        return PREFIX + self.name.upper()

    @property
    def room(self) -> str:
        """The part of the package it belongs to: the first word of its name."""
        return self.name.partition("_")[0]


def setting(
    default: T,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    env: str | None = None,
    secret: bool = False,
    check: Check | None = None,
) -> T:
    """Declare a setting. ``check`` takes a well-formed value and returns it in its final form, or raises ValueError."""
    metadata = {
        "meaning": meaning, "unit": unit, "low": low, "high": high,
        "choices": choices, "env": env, "secret": secret, "check": check,
    }  # fmt: skip
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)  # type: ignore[return-value]
    return field(default=default, metadata=metadata)


def _pragmas(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if not re.fullmatch(r"[A-Za-z_]+", name):
            raise _Fault(f"{name!r} is not the name of a PRAGMA")
        if not (value is None or isinstance(value, (int, str)) and re.fullmatch(r"-?\w+", str(value))):
            raise _Fault(
                f"{name} = {value!r} is not a PRAGMA value (a number, a word, or None to leave it alone)"
            )
    return {**SQLITE_PRAGMAS, **{name.lower(): value for name, value in given.items()}}


def _databases(given: Mapping[str, Any]) -> dict[str, str]:
    for name in given:
        if name == "default" or not re.fullmatch(r"[\w-]+", name):
            raise _Fault(
                f"{name!r} cannot name a database (letters, digits, - and _; DBOPT_DATABASE is 'default')"
            )
    return {name: _text(place) for name, place in given.items()}


def _rules(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, threshold in given.items():
        if threshold is not False and (
            isinstance(threshold, bool) or not isinstance(threshold, (int, float))
        ):
            raise _Fault(f"{name} = {threshold!r} is neither a threshold (a number) nor False")
    return dict(given)


def _path_of_a_page(given: str) -> str:
    if not re.fullmatch(r"(/[\w.~-]+)+/?", given):
        raise _Fault('is not a path below the site\'s root, such as "/_dbopt"')
    return given.rstrip("/")


def _web_address(given: str) -> str:
    if not re.match(r"https?://\S+$", given):
        raise _Fault("is not an http:// or https:// address")
    return given


SQLITE_PRAGMAS: Mapping[str, Any] = {
    "journal_mode": "WAL",
    "synchronous": "NORMAL",
    "cache_size": -10000,
    "temp_store": "MEMORY",
    "mmap_size": 268435456,
}
"""What every connection is tuned to; DBOPT_SQLITE_PRAGMAS is laid over it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective values. Relative folders are meant under the app's instance folder."""

    enabled: bool = setting(
        True, "whether the optimizer does anything; off, every entrance still works, plain and untimed"
    )
    database: str | None = setting(
        None, "the app's database, a path or URL; None: the app's SQLAlchemy engines, else DATABASE"
    )
    databases: Mapping[str, str] = setting({}, "more databases by name, for connect(name)", check=_databases)
    state_dir: str = setting(
        "dbopt", "folder of the ledger and what workers share; losing it loses history only"
    )

    pool_max: int = setting(
        20,
        "the most connections lent at a time, a process",
        unit="connections",
        low=1,
        high=10_000,
        env="DB_MAX_CONNECTIONS",
    )
    pool_min: int = setting(
        5, "connections kept open", unit="connections", low=0, high=10_000, env="DB_MIN_CONNECTIONS"
    )
    pool_timeout: float = setting(
        30.0, "how long a request waits for a connection", unit="seconds", low=0, env="DB_CONNECTION_TIMEOUT"
    )
    pool_max_waiting: int = setting(0, "how many may wait in line; 0: no limit", unit="requests", low=0)
    pool_health_interval: float = setting(
        300.0,
        "how often idle connections are checked",
        unit="seconds",
        low=0.01,
        env="DB_HEALTH_CHECK_INTERVAL",
    )
    pool_max_lifetime: float = setting(
        3600.0, "age at which a connection is replaced", unit="seconds", low=0.01, env="DB_MAX_LIFETIME"
    )
    pool_idle_timeout: float = setting(
        600.0,
        "idle time after which a connection above pool_min is closed",
        unit="seconds",
        low=0.01,
        env="DB_IDLE_TIMEOUT",
    )
    pool_check_after: float = setting(
        0.5, "idle time after which a connection is checked before it is lent", unit="seconds", low=0
    )
    pool_reconnect_timeout: float = setting(
        300.0, "how long a lost database is tried again", unit="seconds", low=0
    )
    pool_leak_after: float = setting(
        60.0, "how long a loan may last before it is reported", unit="seconds", low=0.01
    )

    sqlite_pragmas: Mapping[str, Any] = setting(
        dict(SQLITE_PRAGMAS), "PRAGMAs laid over the built-in ones; None leaves one alone", check=_pragmas
    )
    sqlite_busy_timeout: float = setting(
        5.0, "how long a statement waits for a lock; the app's own timeout= wins", unit="seconds", low=0
    )
    sqlite_transactions: str = setting(
        "app", "how transactions begin: as the app does, or IMMEDIATE", choices=("app", "immediate")
    )
    sqlite_policy: Mapping[str, Any] = setting({}, "which tables and actions statements may touch")
    sqlite_wal_limit: int = setting(
        64 << 20, "size of the WAL above which it is checkpointed and cut", unit="bytes", low=0
    )

    cache_enabled: bool = setting(True, "whether results of SELECTs are kept", env="DB_ENABLE_SELECT_CACHE")
    cache_max_entries: int = setting(
        1000, "the most results kept", unit="results", low=1, env="DB_CACHE_MAX_SIZE"
    )
    cache_ttl: float = setting(
        3600.0, "the longest a result is served", unit="seconds", low=0.001, env="DB_CACHE_TTL"
    )
    cache_max_bytes: int = setting(64 << 20, "memory for kept results, a process", unit="bytes", low=1024)
    cache_max_result: int = setting(1 << 20, "the largest result that is kept", unit="bytes", low=1)
    cache_store: str | Mapping[str, Any] = setting(
        "memory", 'where results are kept: "memory", or a Flask-Caching configuration'
    )

    monitor_enabled: bool = setting(True, "whether queries and requests are timed")
    monitor_slow_seconds: float = setting(
        0.1, "a statement from here on is reported as slow", unit="seconds", low=0
    )
    monitor_record_params: bool = setting(
        False, "whether statements are kept with their values; off: their shape only"
    )
    monitor_n_plus_one: int = setting(
        10, "repeats of a statement in one request that are reported; 0: never", unit="calls", low=0
    )
    monitor_retention_days: float = setting(30.0, "how long figures are kept", unit="days", low=0.01)
    monitor_guard: str = setting(
        "log", "what happens to a suspected SQL injection", choices=("log", "block", "off")
    )
    monitor_statement_timeout: float | None = setting(
        None, "the longest a statement may run; None: no limit", unit="seconds", low=0.001
    )

    advisor_min_rows: int = setting(500, "tables smaller than this get no advice", unit="rows", low=0)
    advisor_min_calls: int = setting(50, "statements run less often get no advice", unit="calls", low=1)
    advisor_min_seconds: float = setting(
        0.02, "statements quicker than this get no advice", unit="seconds", low=0
    )

    backup_enabled: bool = setting(True, "whether backups are taken on schedule", env="DB_BACKUP_ENABLED")
    backup_dir: str = setting("backups", "folder of the backups", env="DB_BACKUP_DIR")
    backup_interval_hours: float = setting(
        24.0,
        "time between scheduled backups",
        unit="hours",
        low=0.001,
        high=8760,
        env="DB_BACKUP_INTERVAL_HOURS",
    )
    backup_retention_days: float = setting(
        30.0, "age at which a backup is removed", unit="days", low=0.01, env="DB_BACKUP_RETENTION_DAYS"
    )
    backup_keep_weekly: int = setting(0, "weekly backups kept beyond that", unit="weeks", low=0)
    backup_keep_monthly: int = setting(0, "monthly backups kept beyond that", unit="months", low=0)
    backup_compression: bool = setting(True, "whether backups are compressed", env="DB_COMPRESSION_ENABLED")
    backup_recipients: tuple[str, ...] = setting((), "age public keys that backups are encrypted for")
    backup_verify: bool = setting(
        True, "whether each backup is restored to scratch and checked before it counts"
    )
    backup_copy_to: str | None = setting(None, "a second folder that each backup is copied to")

    alert_slow_query_seconds: float = setting(2.0, "alert when a query is slower", unit="seconds", low=0)
    alert_cache_hit_ratio: float = setting(0.5, "alert when the cache answers a smaller part", low=0, high=1)
    alert_pool_hit_ratio: float = setting(
        0.8, "alert when a smaller part of loans is served at once", low=0, high=1
    )
    alert_connection_errors_per_hour: int = setting(
        10, "alert when there are more", unit="errors an hour", low=0
    )
    alert_rules: Mapping[str, Any] = setting({}, "further rules by name: a threshold, or False", check=_rules)
    alert_webhook: str | None = setting(
        None, "address that alerts are posted to", secret=True, check=_web_address
    )

    admin_enabled: bool = setting(True, "whether the admin page exists at all")
    admin_url: str = setting("/_dbopt", "path of the admin page", check=_path_of_a_page)
    admin_token: str | None = setting(
        None, "what opens the admin page; None: closed, except to a local debug session", secret=True
    )
    admin_readonly: bool = setting(False, "whether the admin page refuses every change")

    log_dir: str | None = setting(None, "folder for log files; None: the app's own logging only")

    def shown(self, name: str) -> Any:
        """The value as it may be shown to people: secrets and passwords inside URLs hidden, JSON values only."""
        return _shown(SETTINGS[name], getattr(self, name))


@dataclass(frozen=True, slots=True)
class Resolved:
    """The effective settings, and for each where it came from, such as "app.config DBOPT_POOL_MAX" or "default"."""

    settings: Settings
    sources: Mapping[str, str]


SETTINGS: Mapping[str, Setting] = {
    each.name: Setting(
        each.name,
        str(each.type),
        each.default if each.default is not MISSING else each.default_factory(),  # type: ignore[misc]
        **{word: value for word, value in each.metadata.items() if word != "check"},
    )
    for each in fields(Settings)
}
"""Every declaration by field name, in the order of the rooms."""

_CHECKS: Mapping[str, Check] = {
    each.name: each.metadata["check"] for each in fields(Settings) if each.metadata["check"]
}
_BY_KEY = {one.key: one for one in SETTINGS.values()}


def resolve(
    config: Mapping[str, Any], environ: Mapping[str, str], keywords: Mapping[str, Any] | None = None
) -> Resolved:
    """The effective settings: ``config`` before ``environ`` before ``keywords`` before the defaults.

    Strings are read as their setting's type wherever they come from; an empty environment variable counts as not set.
    Raises ConfigurationError with every fault at once, unknown names with the nearest valid one.
    """
    faults = [*_unknown("app.config", config), *_unknown("environment", environ)]
    faults += [
        f"keyword {name}: no such setting; the nearest is {_nearest(name, SETTINGS)}"
        for name in keywords or {}
        if name not in SETTINGS
    ]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for one in SETTINGS.values():
        sources[one.name] = "default"
        for source, given in _given(one, config, environ, keywords or {}):
            sources[one.name] = source
            try:
                values[one.name] = _read(one, given)
            except ValueError as fault:
                faults.append(f"{source} = {_quoted(one, given)}: {fault}")
            break
    faults += _disagreements(values, sources)
    if faults:
        count = "1 setting cannot be used" if len(faults) == 1 else f"{len(faults)} settings cannot be used"
        raise ConfigurationError(
            "\n  - ".join([f"{count}:", *faults]),
            hint="`flask db-opt config` lists every setting with its meaning",
        )
    return Resolved(Settings(**values), sources)


def _given(
    one: Setting, config: Mapping[str, Any], environ: Mapping[str, str], keywords: Mapping[str, Any]
) -> Iterable[tuple[str, Any]]:
    """Where the setting is given, the place that counts first."""
    if one.key in config:
        yield f"app.config {one.key}", config[one.key]
    for name in (one.key, one.env):
        if name and environ.get(name, "").strip():
            yield f"environment {name}", environ[name]
    if one.name in keywords:
        yield f"keyword {one.name}", keywords[one.name]


def _unknown(place: str, names: Iterable[Any]) -> list[str]:
    return [
        f"{place} {name}: no such setting; the nearest is {_nearest(name, _BY_KEY)}"
        for name in names
        if isinstance(name, str) and name.startswith(PREFIX) and name not in _BY_KEY
    ]


def _nearest(name: str, names: Iterable[str]) -> str:
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def _disagreements(values: dict[str, Any], sources: dict[str, str]) -> list[str]:
    """Pairs that cannot both hold. A default gives way to what was asked for; two wishes that clash are a fault."""
    faults = []
    for small, large in (("pool_min", "pool_max"), ("cache_max_result", "cache_max_bytes")):
        low, high = (values.get(name, SETTINGS[name].default) for name in (small, large))
        if low <= high or any(name not in values and sources[name] != "default" for name in (small, large)):
            continue
        if small not in values:
            values[small], sources[small] = high, f"default, lowered to {SETTINGS[large].key}"
        elif large not in values:
            faults.append(
                f"{sources[small]} = {low}: more than {SETTINGS[large].key} allows, which is {high} by default"
            )
        else:
            faults.append(f"{sources[small]} = {low}: more than {sources[large]} = {high}")
    return faults


# --- one value ------------------------------------------------------------------------------------------------------


def _read(one: Setting, given: Any) -> Any:
    """The value in its declared type, within its range; raises ValueError that says what is wrong."""
    kind = one.kind.removesuffix(" | None")
    if kind != one.kind and (
        given is None or isinstance(given, str) and given.strip().lower() in ("", "none", "null")
    ):
        return None
    if isinstance(given, timedelta) and one.unit in _SECONDS:
        given = given.total_seconds() / _SECONDS[one.unit]
    value = _size(given) if one.unit == "bytes" else _READERS[kind](given)
    if one.choices and value not in one.choices:
        raise _Fault(f"is none of {', '.join(one.choices)}")
    if (one.low is not None and value < one.low) or (one.high is not None and value > one.high):
        raise _Fault(f"is out of range; {_range(one)}")
    check = _CHECKS.get(one.name)
    return check(value) if check else value


def _range(one: Setting) -> str:
    low, high = (None if bound is None else f"{bound:,}" for bound in (one.low, one.high))
    span = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    return f"{span} {one.unit}".rstrip()


def _bool(given: Any) -> bool:
    word = given.strip().lower() if isinstance(given, str) else given
    if isinstance(word, (bool, int)) and word in (0, 1):
        return bool(word)
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise _Fault("is neither true nor false (true, yes, on, 1; false, no, off, 0)")


def _int(given: Any) -> int:
    if isinstance(given, str) and re.fullmatch(r"\s*[+-]?\d+(_\d+)*\s*", given):
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise _Fault("is not a whole number")


def _float(given: Any) -> float:
    try:
        number = (
            math.nan if isinstance(given, bool) or not isinstance(given, (int, float, str)) else float(given)
        )
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _Fault("is not a number")
    return number


def _size(given: Any) -> int:
    if not isinstance(given, str):
        return _int(given)
    match = _SIZE.fullmatch(given.strip())
    if match is None:
        raise _Fault('is not a size (a number of bytes, or such as "64 MiB")')
    number, letter, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" kmgt".index(letter.lower()) if letter else 0))


def _text(given: Any) -> str:
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if not isinstance(given, str) or not given.strip():
        raise _Fault("is not a text")
    return given


def _texts(given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        text = given.strip()
        given = (
            _json(text)
            if text.startswith("[")
            else [part.strip() for part in text.split(",") if part.strip()]
        )
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise _Fault("is not a list (with commas, or as JSON)")
    return tuple(_text(part) for part in given)


def _mapping(given: Any) -> dict[str, Any]:
    value = _json(given) if isinstance(given, str) else given
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _Fault('is not a mapping (from text: a JSON object such as {"name": "value"})')
    return dict(value)


def _text_or_mapping(given: Any) -> Any:
    return (
        _mapping(given) if isinstance(given, Mapping) or str(given).lstrip().startswith("{") else _text(given)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _Fault(f"is not JSON: {error}") from None


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _text,
    "tuple[str, ...]": _texts,
    "Mapping[str, str]": _mapping,
    "Mapping[str, Any]": _mapping,
    "str | Mapping[str, Any]": _text_or_mapping,
}


def _shown(one: Setting, value: Any) -> Any:
    if one.secret and value is not None:
        return HIDDEN
    if isinstance(value, str):
        return _PASSWORD.sub(rf"\1:{HIDDEN}@", value)
    if isinstance(value, Mapping):
        return {name: _shown(one, part) for name, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _quoted(one: Setting, given: Any) -> str:
    text = repr(_shown(one, given))
    return text if len(text) <= 80 else text[:77] + "..."
