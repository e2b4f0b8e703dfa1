"""Tells whether a SQLite file has changed, whoever changed it, through a connection that never writes."""

from __future__ import annotations

import os
from collections.abc import Hashable

from flask_dbopt.engines.protocol import Footprint, Identity


class SQLiteWatcher:
    """The cache's window to one SQLite file."""

    row_types: frozenset[type]
    """Row classes, beside tuple, that are immutable and may be shared."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def token(self, identity: Identity | None = None) -> Hashable | None:
        """Equal tokens mean no commit in between. None: it cannot tell now, or the file is not ``identity``'s."""
        return None

    def footprint(self, sql: str) -> Footprint | None:
        return None

    def close(self) -> None:
        """Let go of the handle. A later token opens a new one and equals no earlier token."""

    def abandon(self) -> None: ...
