"""What one statement touches, as SQLite's compiler says it: EXPLAIN prepares it, the authorizer hears of it.

Nothing runs. Names are lower-case. What is not known to be safe counts as unsafe: a function that is not on
the list below, a virtual table of an unknown kind, a table outside the main schema.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Final

from flask_dbopt.engines.protocol import Footprint

#: Built-in functions whose result depends on their arguments (and the rows) alone. Left out on purpose: what
#: reads the clock ("now" may come from a column), chance, or the connection; and floor, which SQLAlchemy
#: replaces on each of its connections.
_FUNCTIONS = """
    abs char coalesce concat concat_ws format glob hex ifnull iif if instr length like likelihood likely
    lower ltrim max min nullif octet_length printf quote replace round rtrim sign soundex substr substring
    trim typeof unhex unicode unlikely upper zeroblob avg count group_concat string_agg sum total median
    percentile percentile_cont percentile_disc row_number rank dense_rank percent_rank cume_dist ntile lag
    lead first_value last_value nth_value json json_array json_array_length json_error_position
    json_extract json_group_array json_group_object json_insert json_object json_patch json_pretty
    json_quote json_remove json_replace json_set json_type json_valid -> ->> acos acosh asin asinh atan
    atan2 atanh ceil ceiling cos cosh degrees exp ln log log10 log2 mod pi pow power radians sin
    sinh sqrt tan tanh trunc bm25 highlight match matchinfo offsets snippet
"""
DETERMINISTIC: Final = frozenset(_FUNCTIONS.split())

# Virtual tables whose whole state lies in tables of the same database.
_STORED_MODULES = frozenset(("fts3", "fts4", "fts5", "fts5vocab", "fts4aux", "rtree", "rtree_i32", "geopoly"))
# Table-valued functions that compute from their arguments alone.
_COMPUTED_TABLES = frozenset(("json_each", "json_tree"))

# A PRAGMA may take effect while it is only explained, so statements of other kinds are not prepared at all.
_QUERIES = frozenset(("select", "with", "values"))
_CHANGES = frozenset(("insert", "replace", "update", "delete", "create", "drop", "alter", "analyze", "reindex"))

_LEADING = re.compile(r"(?:[\s\ufeff]+|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*", re.DOTALL)
_WORD = re.compile(r"[a-z]+", re.IGNORECASE)
_COUNT = re.compile(r"statement uses (\d+)")
_MODULE = re.compile(r"\busing\s+[\"\[`]?(\w+)", re.IGNORECASE)

_TABLE_WRITES = frozenset((sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE))
# Schema changes, and which argument of the authorizer names the table.
_SCHEMA_WRITES = {
    sqlite3.SQLITE_CREATE_TABLE: 0,
    sqlite3.SQLITE_DROP_TABLE: 0,
    sqlite3.SQLITE_CREATE_VIEW: 0,
    sqlite3.SQLITE_DROP_VIEW: 0,
    sqlite3.SQLITE_CREATE_VTABLE: 0,
    sqlite3.SQLITE_DROP_VTABLE: 0,
    sqlite3.SQLITE_ANALYZE: 0,
    sqlite3.SQLITE_CREATE_INDEX: 1,
    sqlite3.SQLITE_DROP_INDEX: 1,
    sqlite3.SQLITE_CREATE_TRIGGER: 1,
    sqlite3.SQLITE_DROP_TRIGGER: 1,
    sqlite3.SQLITE_ALTER_TABLE: 1,
}
_HARMLESS = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE))
_REFUSED = frozenset((sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH))

_NONE: Final[frozenset[str]] = frozenset()
#: Of a statement that is no query and no change of content: BEGIN, PRAGMA, ATTACH, EXPLAIN, VACUUM…
UNCACHEABLE: Final = Footprint(reads=_NONE, writes=_NONE, functions=_NONE, deterministic=False)


def leading_word(sql: str) -> str:
    """The first word of a statement, lower-case, past white space and comments; empty when there is none."""
    start = _LEADING.match(sql)
    word = _WORD.match(sql, start.end() if start else 0)
    return word.group().lower() if word else ""


def footprint_of(connection: sqlite3.Connection, sql: str) -> Footprint | None:
    """What ``sql`` touches, on a connection of ours: its authorizer is taken for a moment.

    None when it cannot be prepared there: no such table or function (a temp one, one of the app's own),
    several statements in one text, a syntax error, a locked file.
    """
    if leading_word(sql) not in _QUERIES | _CHANGES:
        return UNCACHEABLE
    heard = _Listener()
    connection.set_authorizer(heard)
    try:
        program = _explain(connection, sql)
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return None
    finally:
        connection.set_authorizer(None)
    transactions = [line for line in program if line[1] == "Transaction"]
    writing = any(line[3] for line in transactions)
    deterministic = (
        not writing
        and heard.harmless
        and all(line[2] == 0 for line in transactions)  # 0 is main, 1 temp, the rest attached
        and heard.functions <= DETERMINISTIC
        and not (any(line[1] == "VOpen" for line in program) and _foreign(connection, heard.reads))
    )
    return Footprint(
        reads=frozenset(heard.reads),
        # Only an actual write counts: to look at a virtual table for the first time declares it, as a change.
        writes=frozenset(heard.writes) if writing else _NONE,
        functions=frozenset(heard.functions),
        deterministic=deterministic,
    )


class _Listener:
    """The authorizer: writes down what it is asked about, and refuses what could act while it is prepared."""

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        self.functions: set[str] = set()
        self.harmless = True

    def __call__(
        self, action: int, first: str | None, second: str | None, schema: str | None, trigger: str | None
    ) -> int:
        if action == sqlite3.SQLITE_READ:
            self.reads.add((first or "").lower())
            self.harmless &= schema in (None, "main")
        elif action == sqlite3.SQLITE_FUNCTION:
            self.functions.add((second or "").lower())
        elif action in _TABLE_WRITES:
            self.writes.add((first or "").lower())
        elif action in _SCHEMA_WRITES:
            self.writes.add(((first, second)[_SCHEMA_WRITES[action]] or "").lower())
            self.harmless = False
        elif action not in _HARMLESS:
            self.harmless = False
        return sqlite3.SQLITE_DENY if action in _REFUSED else sqlite3.SQLITE_OK


class _Blanks(dict[str, None]):
    """A value for every name: an explained statement never looks at it."""

    def __missing__(self, name: str) -> None:
        return None


def _explain(connection: sqlite3.Connection, sql: str) -> list[Any]:
    """The program of a statement, whatever parameters it has."""
    try:
        return connection.execute(f"EXPLAIN {sql}", _Blanks()).fetchall()
    except sqlite3.ProgrammingError as error:
        if "has no name" not in str(error):
            raise
    try:
        return connection.execute(f"EXPLAIN {sql}").fetchall()
    except sqlite3.ProgrammingError as error:
        needed = _COUNT.search(str(error))
        return connection.execute(f"EXPLAIN {sql}", (None,) * int(needed[1] if needed else 0)).fetchall()


def _foreign(connection: sqlite3.Connection, reads: set[str]) -> bool:
    """Whether one of these tables may be a virtual one that reads something else than this database."""
    schema = {
        name.lower(): sql or ""
        for name, sql in connection.execute("SELECT name, sql FROM main.sqlite_schema WHERE type IN ('table', 'view')")
    }
    for name in reads - _COMPUTED_TABLES - {"sqlite_master", "sqlite_schema"}:
        sql = schema.get(name)
        if sql is None:
            return True
        if leading_word(sql) == "create" and re.match(r"\s*create\s+virtual\b", sql, re.IGNORECASE):
            module = _MODULE.search(sql)
            if module is None or module[1].lower() not in _STORED_MODULES:
                return True
    return False
