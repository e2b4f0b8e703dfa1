"""Which statements an app's policy refuses, in the words of SQLite's authorizer. Decides only."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

#: The authorizer's actions for each word of a policy.
_CODES: Mapping[str, tuple[int, ...]] = {
    "DETACH": (sqlite3.SQLITE_DETACH,),
    "PRAGMA": (sqlite3.SQLITE_PRAGMA,),
    "INSERT": (sqlite3.SQLITE_INSERT,),
    "UPDATE": (sqlite3.SQLITE_UPDATE,),
    "DELETE": (sqlite3.SQLITE_DELETE,),
    "CREATE_TABLE": (
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_VTABLE,
    ),
    "CREATE_INDEX": (sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_CREATE_TEMP_INDEX),
    "CREATE_VIEW": (sqlite3.SQLITE_CREATE_VIEW, sqlite3.SQLITE_CREATE_TEMP_VIEW),
    "CREATE_TRIGGER": (sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_CREATE_TEMP_TRIGGER),
    "DROP_TABLE": (sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_TEMP_TABLE, sqlite3.SQLITE_DROP_VTABLE),
    "DROP_INDEX": (sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_DROP_TEMP_INDEX),
    "DROP_VIEW": (sqlite3.SQLITE_DROP_VIEW, sqlite3.SQLITE_DROP_TEMP_VIEW),
    "DROP_TRIGGER": (sqlite3.SQLITE_DROP_TRIGGER, sqlite3.SQLITE_DROP_TEMP_TRIGGER),
    "ALTER": (sqlite3.SQLITE_ALTER_TABLE,),
    "ANALYZE": (sqlite3.SQLITE_ANALYZE,),
    "REINDEX": (sqlite3.SQLITE_REINDEX,),
    "RECURSIVE": (sqlite3.SQLITE_RECURSIVE,),
    "FUNCTION": (sqlite3.SQLITE_FUNCTION,),
}
_WORDS = {code: word for word, codes in _CODES.items() for code in codes} | {
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_READ: "reading",
}
_CHANGES = frozenset((sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE))
_ALTERING = frozenset((*_CODES["DROP_TABLE"], *_CODES["ALTER"]))
#: Written by SQLite itself when it looks at a virtual table for the first time; the app needs more than a statement.
_SCHEMA = frozenset(("sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"))
#: PRAGMAs that only tell, and that SQLite and we run beneath the app's statements.
_TELLING = frozenset(("data_version", "busy_timeout"))


class Policy:
    """One app's rules, as ``settings.policy.read`` gives them."""

    hint = "DBOPT_SQLITE_POLICY has this rule"

    def __init__(self, given: Mapping[str, Sequence[str]]) -> None:
        self._denied: dict[int, list[tuple[str, str]]] = {}
        self._refuses_files = self._refuses_vacuum = self._refuses_extensions = False
        for entry in given.get("deny", ()):
            self._deny(entry)
        self._readonly = _names(given.get("readonly_tables", ()))
        self._hidden = _names(given.get("hidden_tables", ()))
        self._columns = frozenset(
            (table.strip().lower(), column.strip().lower())
            for table, _, column in (each.partition(".") for each in given.get("hidden_columns", ()))
        )

    def _deny(self, entry: str) -> None:
        word, _, name = entry.partition(" ")
        self._refuses_files |= word == "ATTACH"
        self._refuses_vacuum |= word == "VACUUM"
        self._refuses_extensions |= word == "LOAD_EXTENSION"
        for known, codes in _CODES.items():
            if known == word or known.startswith(f"{word}_"):
                for code in codes:
                    self._denied.setdefault(code, []).append((name.lower(), entry))

    @property
    def refuses_extensions(self) -> bool:
        """Whether machine code may not be loaded, in whatever way."""
        return self._refuses_extensions

    def refusal(self, action: int, first: str | None, second: str | None, inner: str | None) -> str | None:
        """Which rule refuses this, in words; None: none does. The arguments are those of SQLite's authorizer."""
        if action == sqlite3.SQLITE_ATTACH:
            if first == "":  # VACUUM does its work in a temporary file beside
                return "VACUUM is denied" if self._refuses_vacuum else None
            return "ATTACH is denied" if self._refuses_files else None
        one, two = (first or "").lower(), (second or "").lower()
        if action == sqlite3.SQLITE_FUNCTION and two == "load_extension" and self._refuses_extensions:
            return "LOAD_EXTENSION is denied"
        if (rules := self._denied.get(action)) and not self._is_beneath(action, one, two):
            for name, entry in rules:
                if not name or name in (one, two):
                    return f"{entry} is denied"
        return self._of_tables(action, one, two, inner)

    @staticmethod
    def _is_beneath(action: int, one: str, two: str) -> bool:
        """What SQLite does by itself while it prepares something else."""
        if action in _CHANGES:
            return one in _SCHEMA
        return action == sqlite3.SQLITE_PRAGMA and one in _TELLING and not two

    def _of_tables(self, action: int, one: str, two: str, inner: str | None) -> str | None:
        if action == sqlite3.SQLITE_READ:
            if one in self._hidden:
                return f"the table {one} is hidden"
            return f"the column {one}.{two} is hidden" if (one, two) in self._columns else None
        table = two if action in _CODES["ALTER"] else one
        if action in _CHANGES or action in _ALTERING:
            if table in self._hidden:
                return f"the table {table} is hidden"
            # Within a trigger there is a name of its own; the triggers are the app's, since new ones are refused.
            if table in self._readonly and (inner is None or action in _ALTERING):
                return f"the table {table} is read-only"
        elif action in _CODES["CREATE_TRIGGER"] and (self._readonly or self._hidden or self._columns):
            return "CREATE TRIGGER is denied, since a trigger could touch what is read-only or hidden"
        return None


class ReadOnly(Policy):
    """What ``connect(readonly=True)`` refuses beyond what SQLite does: the ways around it."""

    hint = "connect() without readonly=True may, unless DBOPT_SQLITE_POLICY has such a rule"

    def refusal(self, action: int, first: str | None, second: str | None, inner: str | None) -> str | None:
        if action == sqlite3.SQLITE_ATTACH and "mode=ro" not in (first or ""):
            return "this connection is read-only: ATTACH takes 'file:…?mode=ro'"
        if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() == "query_only" and second:
            return "this connection is read-only and stays so"
        return super().refusal(action, first, second, inner)


def deed(action: int, first: str | None, second: str | None) -> str:
    """What was asked for, as it is told: ``DROP_TABLE keyword``."""
    told = (first,) if action == sqlite3.SQLITE_PRAGMA else (first, second)  # its value may be a key
    names = " ".join(name for name in told if name and name not in ("main", "temp"))
    word = _WORDS.get(action, str(action))
    return f"{word} {names}".strip() if action != sqlite3.SQLITE_ATTACH else word


def _names(given: Sequence[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in given)
