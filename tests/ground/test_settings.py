"""Settings: where each comes from, how text is read, and that all faults come at once."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import flask_dbopt
from flask_dbopt.errors import ConfigurationError
from flask_dbopt.settings import SETTINGS, SQLITE_PRAGMAS, Settings, resolve
from flask_dbopt.settings.alert_rules import ALERT_RULES

MISSION_NAMES = {
    "DB_MAX_CONNECTIONS": ("pool_max", "7", 7),
    "DB_MIN_CONNECTIONS": ("pool_min", "2", 2),
    "DB_CONNECTION_TIMEOUT": ("pool_timeout", "1.5", 1.5),
    "DB_HEALTH_CHECK_INTERVAL": ("pool_health_interval", "60", 60.0),
    "DB_MAX_LIFETIME": ("pool_max_lifetime", "120", 120.0),
    "DB_IDLE_TIMEOUT": ("pool_idle_timeout", "30", 30.0),
    "DB_CACHE_MAX_SIZE": ("cache_max_entries", "50", 50),
    "DB_CACHE_TTL": ("cache_ttl", "10", 10.0),
    "DB_ENABLE_SELECT_CACHE": ("cache_enabled", "false", False),
    "DB_BACKUP_ENABLED": ("backup_enabled", "no", False),
    "DB_BACKUP_DIR": ("backup_dir", "/srv/backups", "/srv/backups"),
    "DB_BACKUP_RETENTION_DAYS": ("backup_retention_days", "7", 7.0),
    "DB_BACKUP_INTERVAL_HOURS": ("backup_interval_hours", "6", 6.0),
    "DB_COMPRESSION_ENABLED": ("backup_compression", "0", False),
}

PROMISED = """
    ENABLED DATABASE DATABASES STATE_DIR POOL_MAX POOL_MIN POOL_TIMEOUT POOL_MAX_WAITING POOL_HEALTH_INTERVAL
    POOL_MAX_LIFETIME POOL_IDLE_TIMEOUT POOL_CHECK_AFTER POOL_RECONNECT_TIMEOUT POOL_LEAK_AFTER SQLITE_PRAGMAS
    SQLITE_BUSY_TIMEOUT SQLITE_TRANSACTIONS SQLITE_POLICY SQLITE_WAL_LIMIT CACHE_ENABLED CACHE_MAX_ENTRIES
    CACHE_TTL CACHE_MAX_BYTES CACHE_MAX_RESULT CACHE_STORE MONITOR_ENABLED MONITOR_SLOW_SECONDS
    MONITOR_RECORD_PARAMS MONITOR_N_PLUS_ONE MONITOR_RETENTION_DAYS MONITOR_GUARD MONITOR_STATEMENT_TIMEOUT
    ADVISOR_MIN_ROWS ADVISOR_MIN_CALLS ADVISOR_MIN_SECONDS BACKUP_ENABLED BACKUP_DIR BACKUP_INTERVAL_HOURS
    BACKUP_RETENTION_DAYS BACKUP_KEEP_WEEKLY BACKUP_KEEP_MONTHLY BACKUP_COMPRESSION BACKUP_RECIPIENTS
    BACKUP_VERIFY BACKUP_COPY_TO ALERT_SLOW_QUERY_SECONDS ALERT_CACHE_HIT_RATIO ALERT_POOL_HIT_RATIO
    ALERT_CONNECTION_ERRORS_PER_HOUR ALERT_RULES ALERT_WEBHOOK ALERT_WEBHOOK_SECRET ADMIN_ENABLED ADMIN_URL
    ADMIN_TOKEN ADMIN_READONLY LOG_DIR LOG_MAX_BYTES LOG_MAX_DAYS LOG_KEEP LOG_AUDIT_DAYS
"""


def faults_of(
    config: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **keywords: Any
) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        resolve(config or {}, environ or {}, keywords)
    return str(caught.value).split("\n  - ")[1:]


def test_with_nothing_given_every_value_is_the_default_and_says_so() -> None:
    resolved = resolve({}, {})
    assert resolved.settings == Settings()
    assert set(resolved.sources.values()) == {"default"}
    assert list(resolved.sources) == list(SETTINGS)


def test_every_promised_setting_is_declared_with_a_meaning() -> None:
    assert [one.key for one in SETTINGS.values()] == [f"DBOPT_{name}" for name in PROMISED.split()]
    assert all(one.meaning for one in SETTINGS.values())


def test_every_default_is_itself_a_value_within_its_range() -> None:
    for one in SETTINGS.values():
        assert one.read(one.default) == one.default, one.name


def test_the_promised_defaults() -> None:
    settings = Settings()
    assert (settings.pool_max, settings.pool_min, settings.pool_timeout) == (20, 5, 30)
    assert (settings.cache_max_entries, settings.cache_ttl, settings.cache_max_bytes) == (
        1000,
        3600,
        64 << 20,
    )
    assert (settings.backup_interval_hours, settings.backup_retention_days, settings.backup_dir) == (
        24,
        30,
        "backups",
    )
    assert settings.sqlite_pragmas == {
        "journal_mode": "WAL",
        "synchronous": "NORMAL",
        "cache_size": -10000,
        "temp_store": "MEMORY",
        "mmap_size": 268435456,
    }


def test_the_apps_config_comes_before_the_environment_and_that_before_keywords() -> None:
    config, environ, keywords = {"DBOPT_POOL_MAX": 11}, {"DBOPT_POOL_MAX": "12"}, {"pool_max": 13}
    for resolved, value, source in (
        (resolve(config, environ, keywords), 11, "app.config DBOPT_POOL_MAX"),
        (resolve({}, environ, keywords), 12, "environment DBOPT_POOL_MAX"),
        (resolve({}, {}, keywords), 13, "keyword pool_max"),
    ):
        assert (resolved.settings.pool_max, resolved.sources["pool_max"]) == (value, source)


@pytest.mark.parametrize("alias", MISSION_NAMES)
def test_the_missions_own_environment_names_work(alias: str) -> None:
    name, text, value = MISSION_NAMES[alias]
    resolved = resolve({}, {alias: text})
    assert getattr(resolved.settings, name) == value
    assert resolved.sources[name] == f"environment {alias}"


def test_our_own_environment_name_comes_before_the_missions() -> None:
    resolved = resolve({}, {"DB_MAX_CONNECTIONS": "7", "DBOPT_POOL_MAX": "9"})
    assert resolved.settings.pool_max == 9


def test_an_empty_environment_variable_is_not_set() -> None:
    resolved = resolve({}, {"DBOPT_POOL_MAX": "", "DBOPT_ADMIN_TOKEN": "  ", "DB_CACHE_TTL": ""})
    assert resolved.settings == Settings()


def test_other_names_in_config_and_environment_are_nobodys_business() -> None:
    environ = {"DBOPT": "off", "DB_HOST": "x", "PATH": "/bin"}
    assert resolve({"DATABASE": "x.db", "SECRET_KEY": "s"}, environ).settings == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cache_enabled", "Yes", True),
        ("cache_enabled", " off ", False),
        ("pool_max", " 8 ", 8),
        ("cache_ttl", "1e3", 1000.0),
        ("cache_max_bytes", "64 MiB", 64 << 20),
        ("cache_max_bytes", "1.5k", 1500),
        ("cache_max_bytes", "2GB", 2_000_000_000),
        ("cache_max_bytes", "4096", 4096),
        ("cache_max_bytes", "4096B", 4096),
        ("cache_max_result", "1kib", 1024),
        ("alert_rules", '{"wal_size": false}', {"wal_size": False}),
        ("databases", '{"stats": "/srv/stats.db"}', {"stats": "/srv/stats.db"}),
        ("cache_store", '{"CACHE_TYPE": "RedisCache"}', {"CACHE_TYPE": "RedisCache"}),
        ("cache_store", "memory", "memory"),
        ("monitor_statement_timeout", "none", None),
        ("monitor_guard", "off", "off"),
        ("admin_url", "/ops/db/", "/ops/db"),
        ("database", "app.db", "app.db"),
    ],
)
def test_text_is_read_as_its_settings_type(name: str, text: str, value: object) -> None:
    read = getattr(resolve({}, {SETTINGS[name].key: text}).settings, name)
    assert read == value
    assert type(read) is type(value)
    assert getattr(resolve({SETTINGS[name].key: text}, {}).settings, name) == value


def test_values_of_code_are_taken_as_they_are(tmp_path: Path) -> None:
    settings = resolve(
        {
            "DBOPT_DATABASE": tmp_path / "app.db",
            "DBOPT_BACKUP_RECIPIENTS": [],
            "DBOPT_ADMIN_TOKEN": "",
        },
        {},
        {"pool_timeout": timedelta(minutes=1), "backup_retention_days": timedelta(weeks=2), "cache_ttl": 5},
    ).settings
    assert settings.database == str(tmp_path / "app.db")
    assert settings.backup_recipients == ()
    assert settings.admin_token is None
    assert (settings.pool_timeout, settings.backup_retention_days, settings.cache_ttl) == (60.0, 14.0, 5.0)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("cache_enabled", "perhaps", "is neither true nor false"),
        ("cache_enabled", 2, "is neither true nor false"),
        ("pool_max", "many", "is not a whole number"),
        ("pool_max", 2.5, "is not a whole number"),
        ("pool_max", True, "is not a whole number"),
        ("pool_max", None, "is not a whole number"),
        ("pool_max", 0, "is out of range; 1 to 10,000 connections"),
        ("pool_timeout", "-1", "is out of range; at least 0 seconds"),
        ("pool_timeout", "nan", "is not a number"),
        ("pool_timeout", "soon", "is not a number"),
        ("pool_timeout", True, "is not a number"),
        ("pool_timeout", [], "is not a number"),
        ("alert_cache_hit_ratio", 80, "is out of range; 0 to 1"),
        ("cache_max_bytes", "64 apples", "is not a size"),
        ("cache_max_bytes", 1.5, "is not a whole number"),
        ("backup_dir", 7, "is not a text"),
        ("backup_recipients", 7, "is not a list"),
        ("backup_recipients", "[age1", "is not JSON"),
        ("alert_rules", "wal", "is not JSON"),
        ("alert_rules", "[]", "is not a mapping"),
        ("alert_rules", {1: 2}, "is not a mapping"),
        ("alert_rules", {"wal_size": "big"}, "wal_size = 'big' is neither a threshold"),
        ("alert_rules", {"wal_sise": 3}, "names no rule with 'wal_sise'; the nearest is wal_size"),
        ("alert_rules", {"cache_hit_ratio": 50}, "cache_hit_ratio = 50 is out of range; 0 to 1"),
        ("alert_rules", {"wal_size": float("inf")}, "wal_size = inf is out of range; 0 to 1e+15"),
        ("alert_rules", {"wal_size": 10**400}, "is out of range; 0 to 1e+15"),
        ("alert_rules", {"wal_size": -1}, "wal_size = -1 is out of range; at least 0"),
        ("databases", {"default": "x.db"}, "'default' cannot name a database"),
        ("databases", {"a/b": "x.db"}, "'a/b' cannot name a database"),
        ("databases", {"stats": 7}, "is not a text"),
        ("sqlite_pragmas", {"cache_size; DROP": 1}, "is not the name of a PRAGMA"),
        ("sqlite_pragmas", {"cache_size": "1; DROP TABLE t"}, "is not a PRAGMA value"),
        ("sqlite_transactions", "exclusive", "is none of app, immediate"),
        ("monitor_guard", "warn", "is none of log, block, off"),
        ("admin_url", "_dbopt", "is not a path below the site's root"),
        ("admin_url", "/", "is not a path below the site's root"),
        ("alert_webhook", "mailto:me", "is not an http:// or https:// address"),
    ],
)
def test_a_bad_value_is_named_with_its_place_and_its_fault(name: str, value: object, wrong: str) -> None:
    (fault,) = faults_of({SETTINGS[name].key: value})
    assert fault.startswith(f"app.config {SETTINGS[name].key} = ")
    assert wrong in fault


def test_all_faults_come_in_one_error_with_the_nearest_names() -> None:
    faults = faults_of(
        {"DBOPT_POOL_MX": 3, "DBOPT_POOL_TIMEOUT": "soon"},
        {"DBOPT_CACHE_TLL": "3", "DBOPT_CACHE_MAX_ENTRIES": "0"},
        poolmax=3,
        cache_enabled="perhaps",
    )
    assert faults[:3] == [
        "app.config DBOPT_POOL_MX: no such setting; the nearest is DBOPT_POOL_MAX",
        "environment DBOPT_CACHE_TLL: no such setting; the nearest is DBOPT_CACHE_TTL",
        "keyword poolmax: no such setting; the nearest is pool_max",
    ]
    assert len(faults) == 6


def test_the_error_is_a_value_error_with_a_hint() -> None:
    with pytest.raises(ValueError, match="1 setting cannot be used") as caught:
        resolve({}, {}, {"nonsense": 1})
    assert isinstance(caught.value, ConfigurationError)
    assert "flask db-opt config" in caught.value.hint


def test_two_wishes_that_clash_are_a_fault() -> None:
    (fault,) = faults_of({"DBOPT_POOL_MAX": 3}, {"DB_MIN_CONNECTIONS": "4"})
    assert fault.startswith("environment DB_MIN_CONNECTIONS = 4: more than app.config DBOPT_POOL_MAX = 3")
    (fault,) = faults_of(pool_min=30)
    assert fault.startswith("keyword pool_min = 30: more than DBOPT_POOL_MAX, by default 20")
    (fault,) = faults_of(cache_max_result="2 MiB", cache_max_bytes="1 MiB")
    assert fault.startswith("keyword cache_max_result = 2097152: more than keyword cache_max_bytes = 1048576")


def test_a_smaller_default_gives_way_to_what_was_asked_for() -> None:
    resolved = resolve({}, {}, {"pool_max": 3})
    assert resolved.settings.pool_min == 3
    assert resolved.sources["pool_min"] == "default, lowered to DBOPT_POOL_MAX"


def test_a_value_that_is_a_fault_already_is_not_compared_too() -> None:
    assert len(faults_of({"DBOPT_POOL_MAX": "many", "DBOPT_POOL_MIN": 50})) == 1


def test_given_pragmas_are_laid_over_the_built_in_ones() -> None:
    settings = resolve({"DBOPT_SQLITE_PRAGMAS": {"Synchronous": "FULL", "mmap_size": None}}, {}).settings
    assert settings.sqlite_pragmas == {**SQLITE_PRAGMAS, "synchronous": "FULL", "mmap_size": None}
    assert Settings().sqlite_pragmas == SQLITE_PRAGMAS


def test_a_mapping_cannot_be_altered_from_outside() -> None:
    given = {"stats": "stats.db"}
    settings = resolve({"DBOPT_DATABASES": given}, {}).settings
    given["more"] = "more.db"
    assert settings.databases == {"stats": "stats.db"}


@pytest.mark.parametrize("text", ["age1a, age1b", "age1a age1b", '["age1a", "age1b"]'])
def test_a_list_is_read_with_commas_with_spaces_or_as_json(text: str) -> None:
    assert replace(SETTINGS["backup_recipients"], check=None).read(text) == ("age1a", "age1b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backup_recipients", ["age1a"]),
        ("backup_copy_to", "/mnt/second"),
    ],
)
def test_protection_that_is_not_there_yet_is_refused_rather_than_pretended(name: str, value: object) -> None:
    (fault,) = faults_of({SETTINGS[name].key: value})
    assert "is not available in this version yet" in fault


def test_what_was_given_without_effect_is_told() -> None:
    given = {"DBOPT_CACHE_STORE": {"CACHE_TYPE": "RedisCache"}, "DBOPT_POOL_MAX": 9}
    resolved = resolve(given, {"DBOPT_MONITOR_N_PLUS_ONE": "10"})
    assert resolved.unheeded == ("cache_store",)
    assert resolve({}, {}).unheeded == ()


def test_every_setting_is_read_by_some_room_or_said_to_come_later() -> None:
    package = Path(flask_dbopt.__file__).parent
    sources = [file.read_text() for file in package.rglob("*.py") if file.parent.name != "settings"]
    read = set(re.findall(r"settings\.(\w+)", "\n".join(sources))) | {rule.setting for rule in ALERT_RULES.values()}
    assert {one.name for one in SETTINGS.values() if not one.later} <= read
    assert {one.name for one in SETTINGS.values() if one.later} & read == set()


def test_secrets_are_shown_nowhere() -> None:
    settings = resolve(
        {"DBOPT_ADMIN_TOKEN": "open-sesame", "DBOPT_DATABASE": "postgresql://app:pass-word@db/app"},
        {},
        {
            "databases": {"stats": "postgresql://app:pass-word@db/stats"},
            "alert_webhook": "https://hook/secret-part",
        },
    ).settings
    told = repr(settings) + json.dumps({name: settings.shown(name) for name in SETTINGS})
    for secret in ("open-sesame", "pass-word", "secret-part"):
        assert secret not in told
    assert settings.shown("admin_token") == "(hidden)"
    assert settings.shown("database") == "postgresql://app:(hidden)@db/app"
    assert settings.shown("pool_max") == 20
    assert settings.shown("backup_recipients") == []
    assert Settings().shown("admin_token") is None


def test_a_fault_tells_no_secret() -> None:
    faults = faults_of({"DBOPT_ALERT_WEBHOOK": "ftp://hook/secret-part"}, database={"u": "pg://a:pass-word@h"})
    assert "secret-part" not in "".join(faults)
    assert "pass-word" not in "".join(faults)


def test_a_long_bad_value_is_cut() -> None:
    (fault,) = faults_of({"DBOPT_POOL_MAX": "9" * 30 + "x" * 5000})
    assert len(fault) < 300


def test_a_declaration_tells_its_room_and_range_in_words() -> None:
    assert SETTINGS["pool_max"].room == "pool"
    assert SETTINGS["pool_max"].range == "1 to 10,000 connections"
    assert SETTINGS["monitor_guard"].range == "log, block, off"
    assert SETTINGS["cache_enabled"].range == ""
    assert SETTINGS["pool_max"].env == "DB_MAX_CONNECTIONS"
