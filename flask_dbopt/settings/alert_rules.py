"""Every alert rule, declared once: what it means, where its line is drawn, and what to do when it is crossed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

#: In place of a watch: the monitor's own figures.
FIGURES = ""
#: Beyond this no threshold means anything: False switches a rule off.
MOST = 1e15


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One rule. Its threshold is the default until DBOPT_ALERT_RULES, or its own setting, says otherwise."""

    name: str
    about: str
    """What a subject of it is: a statement, a database …"""
    when: str
    """"Raised when …", with ``{}`` for the threshold."""
    default: float | None
    """None: off until somebody gives it a threshold."""
    unit: str
    """"s", "ms", "h", "min", "%" (of a part, 0…1), "×", or what is counted."""
    looks: str
    """At what, over how long."""
    needs: str
    """The least it must have seen."""
    hint: str
    """What to do; ``{subject}`` stands for the subject."""
    setting: str = ""
    """The setting of its own that it has beside DBOPT_ALERT_RULES."""
    below: bool = False
    """Raised when the figure falls below the threshold, not when it rises above."""
    most: float | None = None
    """The largest threshold that makes sense."""
    calm: float = 0.0
    """Seconds that it must stay well before the alert is resolved, where its window does not see to that."""
    quiet: bool = False
    """Whether it finds nothing where all is well; the others find nothing where there is too little to judge by."""
    probe: str = FIGURES
    """The watch whose facts it judges; while that fails, nothing is resolved."""

    def shown(self, value: float) -> str:
        """A figure of this rule as people read it."""
        if self.unit == "%":
            return f"{value * 100:,.3g} %" if value < 10 else f"{value * 100:,.0f} %"
        value = round(value, 2) if self.unit == "×" else value
        number = f"{value:,.0f}" if value >= 100 or value < 0.001 or value == int(value) else f"{value:,.3g}"
        return f"{number} {self.unit}" if self.unit in ("s", "ms", "h", "min", "×") else number

    def sentence(self, threshold: float | None) -> str:
        """When it is raised, with this threshold."""
        told = self.when.format("a limit of your own" if threshold is None else self.shown(threshold))
        return told.replace("more than 0 ", "any ")


_RULES = (
    AlertRule(
        "query_too_slow", "statement", "a query takes longer than {}", 2.0, "s", "the last 5 minutes", "one run",
        "Its page, or flask db-opt explain, shows what it reads; flask db-opt advise knows whether an index helps.",
        setting="alert_slow_query_seconds", quiet=True,
    ),
    AlertRule(
        "slow_requests", "endpoint", "p95 of an endpoint's requests is over {}", None, "s", "the last 15 minutes",
        "100 requests of it", "The Queries page tells which of its statements take the time.", calm=60,
    ),
    AlertRule(
        "cache_hit_ratio", "cache", "the cache answers less than {} of its look-ups", 0.5, "%", "the last 15 minutes",
        "1,000 look-ups, 10 minutes of life",
        "If it evicts much, raise DBOPT_CACHE_MAX_ENTRIES; results from tables that change often are not kept long.",
        setting="alert_cache_hit_ratio", below=True, most=1.0, calm=60,
    ),
    AlertRule(
        "pool_hit_ratio", "database", "less than {} of a pool's loans are served at once", 0.8, "%",
        "the last 15 minutes",
        "1,000 loans, 10 minutes of life",
        "Raise DBOPT_POOL_MIN towards the number of threads, and DBOPT_POOL_MAX if people wait in line.",
        setting="alert_pool_hit_ratio", below=True, most=1.0, calm=60,
    ),
    AlertRule(
        "pool_wait", "database", "a loan waits longer than {} on average", 5.0, "ms", "the last 15 minutes",
        "100 loans",
        "Raise DBOPT_POOL_MAX, or give connections back sooner: the Pool page shows who holds them.", calm=60,
    ),
    AlertRule(
        "connection_errors", "database", "there are more than {} connection errors in an hour", 10, "errors",
        "the last hour", "–",
        "The log flask_dbopt.connection_pool says why: is the database there, and may this user open it?",
        setting="alert_connection_errors_per_hour", quiet=True,
    ),
    AlertRule(
        "connection_leaked", "database",
        "more than {} connections in an hour are held longer than DBOPT_POOL_LEAK_AFTER", 0,
        "connections", "the last hour", "–",
        "Give it back with close(), or borrow it in a with block; the log shows where its borrower borrows next.",
        quiet=True,
    ),
    AlertRule(
        "wal_size", "database", "the WAL is larger than {} DBOPT_SQLITE_WAL_LIMIT", 2.0, "×", "now", "–",
        "A reader holds an old state open, which keeps the WAL from being moved into the database: end it, then run "
        "flask db-opt optimize.", calm=60, probe="wal",
    ),
    AlertRule(
        "backup_overdue", "database", "the last backup is older than {} DBOPT_BACKUP_INTERVAL_HOURS", 1.5,
        "×", "now", "an hour of life where there is none yet",
        "Take one now and see what is wrong: flask db-opt backup --database {subject}. Without traffic, "
        "flask db-opt worker keeps them coming.", probe="backup",
    ),
    AlertRule(
        "backup_unproved", "database", "more than {} of the newest backups, in a row, are not proved", 0, "backups",
        "now",
        "one backup",
        "Check them with flask db-opt backups --database {subject} --verify all; if one fails, take a new one.",
        probe="backup",
    ),
    AlertRule(
        "disk_free", "file system", "less than {} is free on a disk that is used", 0.05, "%", "now",
        "less than 10 GiB free", "Make room, or move DBOPT_BACKUP_DIR to a larger disk: a full disk stops every write.",
        below=True, most=1.0, calm=60, probe="disk",
    ),
    AlertRule(
        "disk_filling", "file system", "a disk that is used will be full within {}, if it goes on so", 24, "h",
        "the last 6 hours",
        "an hour of steady growth", "Find what grows: the WAL, a table, the logs? flask db-opt doctor measures ours.",
        below=True, calm=300, probe="disk", quiet=True,
    ),
    AlertRule(
        "lost_update_risk", "table", "more than {} updates in an hour may have been lost", 0, "updates",
        "the last hour",
        "–", "Read and write in one transaction: with dbopt.transaction(), or DBOPT_SQLITE_TRANSACTIONS.",
        quiet=True,
    ),
    AlertRule(
        "n_plus_one", "endpoint", "more than {} requests of an endpoint in an hour repeat a statement", 100,
        "requests", "the last hour", "–", "Fetch what the loop needs in one statement: a JOIN, or IN (…).",
        quiet=True,
    ),
    AlertRule(
        "table_growth", "table", "a table grows by more than {} in a day", 1.0, "%",
        "its rows, hourly, since yesterday",
        "20 hours of measurements, 10,000 more rows",
        "Is something written that nobody removes? Old rows may be deleted or archived, in small steps.",
    ),
    AlertRule(
        "suspicious_query", "endpoint", "a request's value has reshaped more than {} statements in an hour", 0,
        "statements", "the last hour", "–",
        "Pass values as parameters there: execute(sql, (value,)). DBOPT_MONITOR_GUARD can refuse such statements.",
        quiet=True,
    ),
    AlertRule(
        "monitor_dropped", "monitor", "more than {} records in an hour were lost before they were counted", 0,
        "records", "the last hour", "–", "The machine is starved of CPU, or the ledger's disk hangs.",
        quiet=True,
    ),
    AlertRule(
        "ledger_memory_only", "monitor", "figures are kept in memory alone for more than {}", 1.0, "min", "now",
        "a state folder", "Ask flask db-opt doctor what is wrong with DBOPT_STATE_DIR.", probe="ledger",
        quiet=True,
    ),
)  # fmt: skip

ALERT_RULES: Mapping[str, AlertRule] = {rule.name: rule for rule in _RULES}
"""Every rule by name."""


def nearest(name: str) -> str:
    """The known name that is most like ``name``."""
    return difflib.get_close_matches(name, ALERT_RULES, 1, 0.0)[0]


def check_alert_rules(given: Mapping[str, object]) -> dict[str, float | bool]:
    """DBOPT_ALERT_RULES as it may be: ValueError, with the end of a sentence, for what is none."""
    read: dict[str, float | bool] = {}
    for name, threshold in given.items():
        rule = ALERT_RULES.get(name)
        if rule is None:
            raise ValueError(f"names no rule with {name!r}; the nearest is {nearest(name)}")
        if threshold is True or not isinstance(threshold, (bool, int, float)) or threshold != threshold:
            raise ValueError(f"{name} = {threshold!r} is neither a threshold (a number) nor False")
        most = MOST if rule.most is None else rule.most
        if not 0 <= threshold <= most:
            span = "at least 0" if threshold < 0 and most == MOST else f"0 to {most:g}"
            raise ValueError(f"{name} = {threshold!r} is out of range; {span}")
        read[name] = threshold
    return read
