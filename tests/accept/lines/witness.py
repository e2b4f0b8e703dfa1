"""A plugin for their pytest: notes what the optimizers did, so that "all green" cannot mean "not there"."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flask import Flask, appcontext_popped

from flask_dbopt.monitor.recorder import Recorder

counts: Counter[str] = Counter(statements=0, hits=0, loans=0, opened=0, apps=0)
pools: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()
complaints: list[str] = []
started: list[float] = []


def note_context(app: Flask, **_: Any) -> None:
    """Add what this app's pools did since its last context."""
    optimizer = app.extensions.get("dbopt")
    if optimizer is None:
        return
    before = pools.get(optimizer, (0, 0))
    stats = [database.pool_stats() for database in optimizer.databases.values()]
    now = sum(each.requests_num for each in stats), sum(each.connections_num for each in stats)
    counts.update(apps=optimizer not in pools, loans=max(0, now[0] - before[0]), opened=max(0, now[1] - before[1]))
    pools[optimizer] = now


def note_statements() -> None:
    recording = Recorder.recording

    def witnessed(self: Recorder, database: str) -> Callable[..., list[Any]]:
        record = recording(self, database)

        def recorded(*run: Any) -> list[Any]:
            counts["statements"] += 1
            counts["hits"] += run[4]
            return record(*run)

        return recorded

    Recorder.recording = witnessed  # type: ignore[method-assign]


class Complaints(logging.Handler):
    """Keeps what went wrong in a room of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        complaints.append(self.format(record))


note_statements()
appcontext_popped.connect(note_context)
logging.getLogger("flask_dbopt").addHandler(Complaints(logging.ERROR))


def pytest_sessionstart() -> None:
    started.append(time.process_time())


def pytest_sessionfinish() -> None:
    processor = time.process_time() - started[0]
    Path(os.environ["WITNESS"]).write_text(json.dumps({**counts, "processor": processor, "complaints": complaints}))
