"""What one request cost: its own statements and how long it took."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

#: The endpoint of work outside any request.
OUTSIDE = ""

#: One run of a statement: ``[sql, seconds, rows, error, cached, started, database]``. A list, because the rows and the
#: time of a later ``fetchall`` are added. ``rows`` is -1 while unknown, ``error`` an exception's class name or None,
#: ``started`` by ``time.perf_counter`` (0.0: not told), which all processes of one machine share on Linux.
Record = list[Any]


class RequestCost:
    """A request that is being served, or was: the recorder fills it, the monitor folds it."""

    __slots__ = ("ended", "endpoint", "method", "outer", "recorder", "records", "started", "status", "streams")

    def __init__(self, endpoint: str, method: str, started: float, recorder: object | None) -> None:
        self.endpoint = endpoint
        self.method = method
        self.started = started
        self.recorder = recorder
        """Whoever counts it; None once it has ended, so that a straggler's statements are not lost in it."""
        self.records: list[Record] = []
        self.outer: RequestCost | None = None
        """The request that this one was made in the midst of, if any."""
        self.ended: float | None = None
        """None in ``Recorder.finished``: only a part of a request that is still running."""
        self.status: int | None = None
        self.streams = False
        """Its response is still being made while it is sent; it ends with that."""

    def __str__(self) -> str:
        """As it is named where it holds something: ``GET report.year``; a job has no method."""
        return f"{self.method} {self.endpoint}".lstrip()


@dataclass(frozen=True, slots=True)
class Sample:
    """A slow run, caught where it happened: who asked for it, and from which lines of the app."""

    record: Record
    endpoint: str
    stack: tuple[str, ...] = ()
    """The app's own frames, the innermost first."""
    parameters: object | None = None
    """Only with DBOPT_MONITOR_RECORD_PARAMS."""


#: The request being served in this context; a thread a request starts has none, unless it copies the context.
CURRENT: ContextVar[RequestCost | None] = ContextVar("flask_dbopt_request", default=None)
