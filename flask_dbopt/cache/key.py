"""When are two queries the same? By text, parameters with their types, and all that shapes their rows."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Any, Final

# Exact types: a subclass may compare, hash or be adapted as it likes. The driver binds these as they are.
_TYPES: Final = frozenset((type(None), bool, int, float, str, bytes))


def key_of(database: str, sql: str, parameters: Any, factories: Hashable) -> tuple[Any, ...] | None:
    """The key of one query; None when its parameters cannot be told apart for certain.

    1, 1.0, True, "1" and b"1" are five values, 0.0 and -0.0 are two. The order of names does not matter.
    """
    names: tuple[str, ...] | None = None
    kind = type(parameters)
    if kind is tuple:
        values = parameters
    elif kind is list:
        values = tuple(parameters)
    elif kind is dict:
        if not all(type(name) is str for name in parameters):
            return None
        names = tuple(sorted(parameters))
        values = tuple(parameters[name] for name in names)
    else:
        return None
    if not values:
        return (database, sql, factories, names)
    types = tuple(map(type, values))
    if not _TYPES.issuperset(types):
        return None
    if float in types:
        values = tuple(value.hex() if type(value) is float else value for value in values)
    return (database, sql, factories, names, types, values)


def weight_of(key: tuple[Any, ...]) -> int:
    """About how many bytes it takes to hold a key and its entry."""
    values = key[-1] if len(key) > 4 else ()
    return 512 + len(key[1]) + sum(map(sys.getsizeof, values))
