"""What ``DBOPT_SQLITE_POLICY`` may say, read and checked. Who keeps to it is the engine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

#: What "deny" may name. A second word narrows it to one table, PRAGMA or function: "PRAGMA writable_schema".
ACTIONS: Mapping[str, str] = {
    "ATTACH": "another file opened beside this one, by ATTACH or VACUUM INTO",
    "DETACH": "such a file let go",
    "VACUUM": "the file written anew",
    "LOAD_EXTENSION": "machine code loaded, by the SQL function or by Python's enable_load_extension()",
    "FUNCTION": "a function called; only with its name",
    "PRAGMA": "a setting read or changed",
    "INSERT": "rows added",
    "UPDATE": "rows changed",
    "DELETE": "rows removed",
    "CREATE": "anything created",
    "CREATE_TABLE": "a table, also a temporary or virtual one",
    "CREATE_INDEX": "an index",
    "CREATE_VIEW": "a view",
    "CREATE_TRIGGER": "a trigger",
    "DROP": "anything dropped",
    "DROP_TABLE": "a table, also a temporary or virtual one",
    "DROP_INDEX": "an index",
    "DROP_VIEW": "a view",
    "DROP_TRIGGER": "a trigger",
    "ALTER": "a table's definition changed",
    "ANALYZE": "statistics gathered",
    "REINDEX": "an index built anew",
    "RECURSIVE": "a recursive query",
}
KEYS: Mapping[str, str] = {
    "deny": "statements that are refused",
    "readonly_tables": "tables that statements may read and not change; triggers that are there may",
    "hidden_tables": "tables that statements may not touch",
    "hidden_columns": 'columns that statements may not read, as "table.column"',
}


def read(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The policy with every part; raises ValueError with all faults at once."""
    faults = [f"{key!r} is no part of a policy; {_nearest(key, KEYS)}" for key in given if key not in KEYS]
    policy: dict[str, tuple[str, ...]] = {}
    for key in KEYS:
        if not given.get(key):
            continue
        try:
            entries = _texts(given[key])
            policy[key] = tuple(_READERS.get(key, str)(entry) for entry in entries)
        except ValueError as fault:
            faults.append(f"{key}: {fault}")
    if faults:
        raise ValueError("; ".join(faults))
    return policy


def _texts(given: Any) -> tuple[str, ...]:
    entries: Iterable[Any] = (given,) if isinstance(given, str) else given
    if not isinstance(entries, (tuple, list, set, frozenset)):
        raise ValueError("is not a list of names")  # noqa: TRY004 - every bad value is a ValueError here
    for entry in entries:
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"{entry!r} is not a name")
    return tuple(entry.strip() for entry in entries)


def _denied(entry: str) -> str:
    """``DROP TABLE keyword`` and ``drop_table keyword`` are the same."""
    word, _, rest = entry.partition(" ")
    word = word.upper()
    following = re.match(r"(table|index|view|trigger)\b\s*", rest, re.IGNORECASE)
    if word in ("CREATE", "DROP", "ALTER") and following:
        rest = rest[following.end() :]
        word = word if word == "ALTER" else f"{word}_{following[1].upper()}"
    rest = rest.strip()
    if word not in ACTIONS:
        raise ValueError(f"{word} is nothing that can be denied; {_nearest(word, ACTIONS)}")
    if word == "FUNCTION" and not rest:
        raise ValueError('FUNCTION needs a name, as in "FUNCTION randomblob"')
    if rest and word in ("ATTACH", "VACUUM", "LOAD_EXTENSION", "RECURSIVE"):
        raise ValueError(f"{word} takes no name, and has {rest!r}")
    return f"{word} {rest}" if rest else word


def _column(entry: str) -> str:
    if not re.fullmatch(r"[^.]+\.[^.]+", entry):
        raise ValueError(f"{entry!r} is no column; write table.column")
    return entry


_READERS = {"deny": _denied, "hidden_columns": _column}


def _nearest(word: str, known: Mapping[str, str]) -> str:
    match = difflib.get_close_matches(word, known, 1, 0.0)[0]
    return f"the nearest is {match}, the others are {', '.join(each for each in known if each != match)}"
