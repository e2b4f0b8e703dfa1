"""What every test starts from."""

from __future__ import annotations

import pytest

from flask_dbopt.monitor.request import CURRENT

pytest_plugins = ["tests.postgres", "tests.receiver"]


@pytest.fixture(autouse=True)
def no_request() -> None:
    """No request is being served: one whose end an earlier test kept from us would still be this thread's."""
    CURRENT.set(None)
