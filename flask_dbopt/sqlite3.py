"""A drop-in for the stdlib module: ``from flask_dbopt import sqlite3`` instead of ``import sqlite3``, nothing else.

``connect()`` finds the optimizer of this process that looks after the file and lends one of its connections; for any
other file it is the stdlib's own.
"""

from __future__ import annotations

import os
import sqlite3 as _stdlib
from contextlib import suppress
from inspect import signature
from sqlite3 import *  # noqa: F403  # every name an app may use
from typing import Any

from flask.globals import _cv_app

from flask_dbopt.connection import key_of, lend
from flask_dbopt.databases import owner_of

_POSITIONAL = (
    "timeout",
    "detect_types",
    "isolation_level",
    "check_same_thread",
    "factory",
    "cached_statements",
    "uri",
)


def __getattr__(name: str) -> Any:
    """What the star leaves out, such as ``dbapi2`` and ``dump``."""
    return getattr(_stdlib, name)


def connect(database: Any, *arguments: Any, **keywords: Any) -> Any:  # type: ignore[no-redef]
    """As ``sqlite3.connect``; the connection comes from the pool where an optimizer looks after this file."""
    place = os.fspath(database) if isinstance(database, (str, bytes, os.PathLike)) else ""
    place = os.fsdecode(place)
    given = dict(zip(_POSITIONAL, arguments, strict=False)) | keywords
    is_uri = place.startswith("file:")
    owner = None if is_uri and not given.get("uri") else owner_of(place)
    if owner is None or owner.pool is None or owner.pool.is_closed or len(arguments) > len(_POSITIONAL):
        return _stdlib.connect(database, *arguments, **keywords)
    given.pop("uri", None)
    if given.get("factory") is _stdlib.Connection:
        del given["factory"]
    context = _cv_app.get(None)
    if context is not None:
        context._dbopt_loans = True  # type: ignore[attr-defined]
    return lend(owner, key_of(given), context=context, place=place if is_uri and "?" in place else None)


with suppress(ValueError):  # CPython 3.11 cannot read the signature of its own connect
    connect.__signature__ = signature(_stdlib.connect)  # type: ignore[attr-defined]
