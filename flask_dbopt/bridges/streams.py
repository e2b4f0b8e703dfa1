"""Responses that are made while they are sent: their request lasts until the last of it is out.

Flask tears a request down before the server asks for the first piece, and a generator under ``stream_with_context``
runs in the same contexts pushed anew. So what it asks of the database would be nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from flask import Response
from werkzeug.wsgi import ClosingIterator

from flask_dbopt.monitor.recorder import Recorder
from flask_dbopt.monitor.request import RequestCost

#: Responses without a body: no server asks for its pieces, nor closes it.
_BODILESS = frozenset((204, 304))


def follow(response: Response, cost: RequestCost, recorder: Recorder) -> None:
    """Let the request end with its stream, if there is one: neither a file nor another application's answer is."""
    pieces = response.response
    if isinstance(pieces, ClosingIterator) or not hasattr(pieces, "__next__"):
        return
    if not response.direct_passthrough and cost.method != "HEAD" and response.status_code not in _BODILESS:
        response.response = Stream(pieces, cost, recorder)
        cost.streams = True


class Stream:
    """What the app yields, and a word to the recorder when that is over."""

    def __init__(self, pieces: Iterable[Any], cost: RequestCost, recorder: Recorder) -> None:
        self._pieces = pieces
        self._next = iter(pieces).__next__
        self._cost = cost
        self._recorder = recorder

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._next()
        except StopIteration:
            self._recorder.end(self._cost, self._cost.status)
            raise
        except BaseException:
            self._recorder.end(self._cost, None)
            raise

    def close(self) -> None:
        """The server is done, or the client has hung up."""
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        finally:
            self._recorder.end(self._cost, self._cost.status)

    def __del__(self) -> None:
        self._recorder.end(self._cost, self._cost.status)
