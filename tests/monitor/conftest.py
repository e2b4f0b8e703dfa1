"""A monitor with a clock of the test's own, closed when the test is over."""

import dataclasses
from contextlib import ExitStack, closing

import pytest

from flask_dbopt.monitor.monitor import Monitor
from flask_dbopt.settings import Settings
from tests.clock import Clock


class Heard(list):
    """An ``Emit`` that keeps what it is told."""

    def __call__(self, name, **details):
        self.append((name, details))

    def named(self, name):
        return [details for each, details in self if each == name]


@pytest.fixture
def clock():
    return Clock(1_800_000_000.0)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "instance" / "dbopt" / "ledger.db"


@pytest.fixture
def build(clock, heard, path):
    """Monitors as the workers of one app have them; pass settings by name, ``path=None`` for memory only."""
    with ExitStack() as stack:

        def build(*, path=path, **settings):
            chosen = dataclasses.replace(Settings(), **settings)
            return stack.enter_context(closing(Monitor(chosen, path, heard, clock=clock)))

        yield build


@pytest.fixture
def monitor(build):
    return build()


@pytest.fixture
def serve(clock):
    """Serve one request that runs these statements: (sql, seconds) or (sql, seconds, rows, error, cached)."""

    def serve(monitor, endpoint, *statements, status=200):
        cost = monitor.recorder.begin(endpoint, "GET")
        for sql, seconds, *rest in statements:
            monitor.recorder.record(sql, seconds, *(rest or (-1, None, False)))
        monitor.recorder.end(cost, status)

    return serve
