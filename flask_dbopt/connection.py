"""The road of one query: where cache, recorder and pool meet the driver's classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_dbopt.optimizer import Database, Optimizer


class Road:
    """What one database's statements pass: the cache before they run, the recorder after."""

    __slots__ = ("learn", "look", "record")

    def __init__(
        self,
        look: Callable[..., Any] | None,
        learn: Callable[[str, float], Any],
        record: Callable[[str, float, int, str | None, bool], list[Any]],
    ) -> None:
        self.look = look
        self.learn = learn
        self.record = record


def build_road(optimizer: Optimizer, database: Database) -> Road:
    """The road of ``database``; a room that is switched off is not on it."""
    shelf = database.shelf
    record = optimizer.monitor.recorder.record if optimizer.settings.monitor_enabled else _unrecorded
    if shelf is None or not optimizer.settings.cache_enabled:
        return Road(None, _unlearned, record)
    return Road(shelf.look, shelf.learn, record)


def _unrecorded(sql: str, seconds: float, rows: int, error: str | None, cached: bool) -> list[Any]:
    return [sql, seconds, rows, error, cached]


def _unlearned(sql: str, seconds: float) -> None: ...
