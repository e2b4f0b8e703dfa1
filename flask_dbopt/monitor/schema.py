"""The ledger's tables and the statements that fill, read and thin them: SQL text and nothing else.

Every figure lies in one slot of one resolution. New figures go into the finest; old slots are added up into
the next coarser one. So a sum over all resolutions counts everything once, whenever it is taken.
"""

# ruff: noqa: S608 - every part that is put together here is a constant of this file

from __future__ import annotations

from flask_dbopt.monitor.remarkable import MOST_KEPT, NEWEST, PLANS, SLOWEST

#: "DBop": tells our ledger from somebody else's database that has its name.
APPLICATION = 0x44426F70
VERSION = 2

#: Seconds a slot covers, and how long such slots stay before they are added up into coarser ones: those that
#: charts are drawn from, and those of statements, which are many more and are read for tables.
RESOLUTIONS: tuple[tuple[int, float, float], ...] = (
    (10, 15 * 60, 10 * 60),
    (60, 3 * 3600, 90 * 60),
    (600, 36 * 3600, 25 * 3600),
    (3600, 8 * 86400, 3 * 86400),
    (86400, float("inf"), float("inf")),
)

TABLES = """
CREATE TABLE IF NOT EXISTS statement (
    id TEXT PRIMARY KEY, query TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL,
    place TEXT, endpoints TEXT NOT NULL, database TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS query_slot (
    resolution INTEGER, start INTEGER, statement TEXT,
    calls INTEGER NOT NULL, rows INTEGER NOT NULL, errors INTEGER NOT NULL, cache_hits INTEGER NOT NULL,
    seconds REAL NOT NULL, squares REAL NOT NULL, least REAL NOT NULL, most REAL NOT NULL,
    histogram BLOB NOT NULL, PRIMARY KEY (resolution, start, statement)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS endpoint_slot (
    resolution INTEGER, start INTEGER, endpoint TEXT,
    calls INTEGER NOT NULL, errors INTEGER NOT NULL, queries INTEGER NOT NULL,
    cache_hits INTEGER NOT NULL, seconds REAL NOT NULL, database REAL NOT NULL,
    transactions INTEGER NOT NULL, repeated INTEGER NOT NULL, n_plus_one INTEGER NOT NULL,
    histogram BLOB NOT NULL, PRIMARY KEY (resolution, start, endpoint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter_slot (
    resolution INTEGER, start INTEGER, name TEXT, amount REAL NOT NULL,
    PRIMARY KEY (resolution, start, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS worker (
    id TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, started REAL NOT NULL,
    heartbeat REAL NOT NULL, gauges TEXT NOT NULL, interval REAL NOT NULL, ended REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slow_run (
    statement TEXT, at REAL, seconds REAL NOT NULL, rows INTEGER NOT NULL, error TEXT, endpoint TEXT NOT NULL,
    place TEXT, stack TEXT NOT NULL, parameters TEXT, PRIMARY KEY (statement, at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS request (
    endpoint TEXT, at REAL, method TEXT NOT NULL, status INTEGER, seconds REAL NOT NULL, queries INTEGER NOT NULL,
    database REAL NOT NULL, transactions INTEGER NOT NULL, repeated INTEGER NOT NULL, groups TEXT NOT NULL,
    PRIMARY KEY (endpoint, at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plan (
    statement TEXT, since REAL, seen REAL NOT NULL, lines TEXT NOT NULL, PRIMARY KEY (statement, since)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alert (
    rule TEXT, subject TEXT, message TEXT NOT NULL, value REAL NOT NULL, threshold REAL NOT NULL,
    raised_at REAL, resolved_at REAL, PRIMARY KEY (rule, subject, raised_at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (
    kind TEXT, name TEXT, at REAL NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS measure (
    kind TEXT, name TEXT, at REAL, value REAL NOT NULL, PRIMARY KEY (kind, name, at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total_endpoint (
    endpoint TEXT PRIMARY KEY, calls INTEGER NOT NULL, errors INTEGER NOT NULL, queries INTEGER NOT NULL,
    cache_hits INTEGER NOT NULL, seconds REAL NOT NULL, database REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total_statement (
    statement TEXT PRIMARY KEY, calls INTEGER NOT NULL, rows INTEGER NOT NULL, errors INTEGER NOT NULL,
    cache_hits INTEGER NOT NULL, seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total_time (
    what TEXT, name TEXT, bound REAL, count INTEGER NOT NULL, PRIMARY KEY (what, name, bound)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total_counter (name TEXT PRIMARY KEY, amount REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""

#: What makes the tables of an earlier version ours: before ``TABLES`` runs, and after. Counts stay, workers come back.
UPGRADES: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {
    1: (
        (
            "ALTER TABLE statement ADD COLUMN database TEXT NOT NULL DEFAULT 'default'",
            "ALTER TABLE endpoint_slot RENAME TO former_endpoint_slot",
            "DROP TABLE worker",
        ),
        (
            "INSERT INTO endpoint_slot SELECT resolution, start, endpoint, calls, errors, queries, cache_hits,"
            " seconds, database, 0, 0, 0, histogram FROM former_endpoint_slot",
            "DROP TABLE former_endpoint_slot",
        ),
    ),
}

ADD_STATEMENT = """
INSERT INTO statement VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen),
    place = coalesce(excluded.place, place), endpoints = merged_names(endpoints, excluded.endpoints)
"""
_ON_QUERY = """ ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls, rows = rows + excluded.rows, errors = errors + excluded.errors,
    cache_hits = cache_hits + excluded.cache_hits, seconds = seconds + excluded.seconds,
    squares = squares + excluded.squares, least = min(least, excluded.least), most = max(most, excluded.most),
    histogram = merged_histogram(histogram, excluded.histogram)
"""
_ON_ENDPOINT = """ ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls, errors = errors + excluded.errors, queries = queries + excluded.queries,
    cache_hits = cache_hits + excluded.cache_hits,
    seconds = seconds + excluded.seconds, database = database + excluded.database,
    transactions = transactions + excluded.transactions, repeated = repeated + excluded.repeated,
    n_plus_one = n_plus_one + excluded.n_plus_one,
    histogram = merged_histogram(histogram, excluded.histogram)
"""
_ON_COUNTER = " ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"

ADD_QUERY = f"INSERT INTO query_slot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {_ON_QUERY}"
ADD_ENDPOINT = f"INSERT INTO endpoint_slot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {_ON_ENDPOINT}"
ADD_COUNTER = f"INSERT INTO counter_slot VALUES (?, ?, ?, ?) {_ON_COUNTER}"
ADD_WORKER = "INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?, ?, NULL)"
END_WORKER = "UPDATE worker SET ended = ?, gauges = '{}' WHERE id = ?"
ADD_SLOW_RUN = "INSERT OR REPLACE INTO slow_run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
ADD_REQUEST = "INSERT OR REPLACE INTO request VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ADD_PLAN = "INSERT OR REPLACE INTO plan VALUES (?, ?, ?, ?)"
ADD_ALERT = "INSERT OR REPLACE INTO alert VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_NOTE = "INSERT OR REPLACE INTO note VALUES (?, ?, ?, ?)"
KEEP_ALERTS = """DELETE FROM alert WHERE resolved_at IS NOT NULL AND (rule, subject, raised_at) NOT IN
    (SELECT rule, subject, raised_at FROM alert WHERE resolved_at IS NOT NULL ORDER BY resolved_at DESC LIMIT ?)"""
DROP_NOTE = "DELETE FROM note WHERE kind = ? AND name = ?"
ADD_MEASURE = "INSERT OR REPLACE INTO measure VALUES (?, ?, ?, ?)"
ADD_TO_ENDPOINT = """
INSERT INTO total_endpoint VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls, errors = errors + excluded.errors, queries = queries + excluded.queries,
    cache_hits = cache_hits + excluded.cache_hits, seconds = seconds + excluded.seconds,
    database = database + excluded.database
"""
ADD_TO_STATEMENT = """
INSERT INTO total_statement SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM statement WHERE id = ?1)
ON CONFLICT DO UPDATE SET
    calls = calls + excluded.calls, rows = rows + excluded.rows, errors = errors + excluded.errors,
    cache_hits = cache_hits + excluded.cache_hits, seconds = seconds + excluded.seconds
"""
ADD_TO_TIME = "INSERT INTO total_time VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"
ADD_TO_COUNTER = f"INSERT INTO total_counter VALUES (?, ?) {_ON_COUNTER}"
#: What is kept beside the slots, by table: what alerts remember, single runs and requests, and the totals.
REMEMBERED = {
    "alert": ADD_ALERT,
    "note": ADD_NOTE,
    "measure": ADD_MEASURE,
    "slow_run": ADD_SLOW_RUN,
    "request": ADD_REQUEST,
    "plan": ADD_PLAN,
    "total_endpoint": ADD_TO_ENDPOINT,
    "total_statement": ADD_TO_STATEMENT,
    "total_time": ADD_TO_TIME,
    "total_counter": ADD_TO_COUNTER,
}
DROP_MEASURES = "DELETE FROM measure WHERE kind = ? AND NOT at BETWEEN ? AND ?"

_QUERY_SUMS = """sum(calls), sum(rows), sum(errors), sum(cache_hits), sum(seconds), sum(squares),
    min(least), max(most), histograms(histogram)"""
_ENDPOINT_SUMS = """sum(calls), sum(errors), sum(queries), sum(cache_hits), sum(seconds),
    sum(database), sum(transactions), sum(repeated), sum(n_plus_one), histograms(histogram)"""

#: For each table two statements that turn slots of resolution ``:fine`` before ``:before`` into ``:coarse`` ones.
ROLL_UP = {
    table: (
        f"INSERT INTO {table} SELECT :coarse, start - start % :coarse, {name}, {sums} FROM {table}"
        f" WHERE resolution = :fine AND start < :before GROUP BY 2, 3 {conflict}",
        f"DELETE FROM {table} WHERE resolution = :fine AND start < :before",
    )
    for table, name, sums, conflict in (
        ("query_slot", "statement", _QUERY_SUMS, _ON_QUERY),
        ("endpoint_slot", "endpoint", _ENDPOINT_SUMS, _ON_ENDPOINT),
        ("counter_slot", "name", "sum(amount)", _ON_COUNTER),
    )
}
SLOTS = ("query_slot", "endpoint_slot", "counter_slot")
SINGLE = ("slow_run", "request", "plan")
DROP_BEFORE = tuple(f"DELETE FROM {table} WHERE start < :before" for table in SLOTS)
DROP_UNUSED = (
    "DELETE FROM statement WHERE id NOT IN (SELECT statement FROM query_slot)",
    *(
        f"DELETE FROM {table} WHERE statement NOT IN (SELECT id FROM statement)"
        for table in ("total_statement", "slow_run", "plan")
    ),
)
DROP_ALL = tuple(f"DELETE FROM {table}" for table in (*SLOTS, *SINGLE, "statement", "total_statement"))
"""The totals of all statements stay: they may never fall, and people begin their figures anew on other grounds."""

_NOT_AMONG = "AND at NOT IN (SELECT at FROM {table} WHERE {name} = :name {which} LIMIT {most})"


def _few(table: str, name: str, *kept: tuple[str, int]) -> str:
    """Forget the rows of one ``:name`` but so many in each order."""
    parts = (_NOT_AMONG.format(table=table, name=name, which=which, most=most) for which, most in kept)
    return f"DELETE FROM {table} WHERE {name} = :name {' '.join(parts)}"


KEEP_FEW_RUNS = _few("slow_run", "statement", ("ORDER BY seconds DESC", SLOWEST), ("ORDER BY at DESC", NEWEST))
KEEP_FEW_REQUESTS = _few(
    "request",
    "endpoint",
    ("ORDER BY seconds DESC", SLOWEST),
    ("ORDER BY at DESC", NEWEST),
    ("AND groups <> '[]' ORDER BY at DESC", NEWEST),
)
KEEP_FEW_PLANS = f"""DELETE FROM plan WHERE statement = :name AND since NOT IN
    (SELECT since FROM plan WHERE statement = :name ORDER BY since DESC LIMIT {PLANS})"""
#: Of all statements and endpoints together; and what is past its time.
KEEP_MOST = tuple(
    f"DELETE FROM {table} WHERE {at} < :before OR ({name}, {at}) NOT IN"
    f" (SELECT {name}, {at} FROM {table} ORDER BY {at} DESC LIMIT {MOST_KEPT})"
    for table, name, at in (
        ("slow_run", "statement", "at"),
        ("request", "endpoint", "at"),
        ("plan", "statement", "seen"),
    )
)
#: A worker that took its leave is cleared away after a while; one that did not is history, of which some is kept.
DROP_WORKERS = (
    "DELETE FROM worker WHERE abs(:now - heartbeat) > CASE WHEN ended IS NULL THEN :keep ELSE :forget END",
    "DELETE FROM worker WHERE id NOT IN (SELECT id FROM worker ORDER BY heartbeat DESC LIMIT 1000)",
)

# The slots that reach beyond :since, found by the primary key: one range for each resolution.
_RESOLUTION = f"(VALUES {', '.join(f'({width})' for width, *_ in RESOLUTIONS)}) AS resolutions CROSS JOIN"
_BEYOND = "resolution = resolutions.column1 AND start > :since - resolutions.column1"

READ_QUERIES = f"""
WITH sums AS (
    SELECT statement AS id, {_QUERY_SUMS} FROM {_RESOLUTION} query_slot
    WHERE {_BEYOND} AND (:id IS NULL OR statement = :id) GROUP BY statement
) SELECT id, query, first_seen, last_seen, endpoints, place, database, sums.* FROM sums JOIN statement USING (id)
"""
READ_WORKLOAD = f"""
WITH sums AS (
    SELECT statement AS id, sum(calls) AS calls, sum(seconds) AS seconds FROM {_RESOLUTION} query_slot
    WHERE {_BEYOND} GROUP BY statement
) SELECT id, query, calls, seconds, database FROM sums JOIN statement USING (id)
WHERE :database IS NULL OR database = :database
"""
READ_PEAKS = f"""
WITH peaks AS (
    SELECT statement AS id, max(most) AS peak FROM {_RESOLUTION} query_slot
    WHERE {_BEYOND} AND most >= :at_least GROUP BY statement
) SELECT id, peak, query FROM peaks JOIN statement USING (id)
"""
READ_ENDPOINTS = f"""
SELECT (start - :base) / :width, endpoint, {_ENDPOINT_SUMS} FROM {_RESOLUTION} endpoint_slot
WHERE {_BEYOND} GROUP BY 1, 2
"""
READ_COUNTERS = f"""
SELECT (start - :base) / :width, name, sum(amount) FROM {_RESOLUTION} counter_slot
WHERE {_BEYOND} GROUP BY 1, 2
"""
READ_SHAPES = """
SELECT id, query, first_seen, last_seen, endpoints, place, database FROM statement
WHERE id IN (SELECT value FROM json_each(?))
"""
READ_SLOW_RUNS = "SELECT * FROM slow_run WHERE statement = ? ORDER BY at DESC"
READ_REQUESTS = "SELECT * FROM request WHERE at > ? ORDER BY at DESC"
READ_PLANS = "SELECT * FROM plan WHERE statement = ? ORDER BY since DESC"
READ_WORKERS = "SELECT * FROM worker ORDER BY started, id"
READ_FIRST = "SELECT min(start) FROM endpoint_slot"
READ_ALERTS = "SELECT * FROM alert ORDER BY raised_at DESC"
READ_STANDING = "SELECT * FROM alert WHERE resolved_at IS NULL ORDER BY raised_at DESC"
READ_NOTES = "SELECT name, at, value FROM note WHERE kind = ?"
READ_MEASURES = "SELECT name, at, value FROM measure WHERE kind = ? AND at > ? ORDER BY at"
READ_COSTLIEST = """
SELECT id, query, calls, rows, errors, cache_hits, seconds FROM total_statement JOIN statement ON id = statement
ORDER BY seconds DESC, id LIMIT ?
"""
