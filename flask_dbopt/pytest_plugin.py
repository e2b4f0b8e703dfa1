"""A pytest fixture, ``assert_max_queries``. Loaded whenever pytest starts, so it imports nothing of ours by itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from flask_dbopt.testing import Queries


@pytest.fixture
def assert_max_queries(request: pytest.FixtureRequest) -> Callable[..., Queries]:
    """``with assert_max_queries(5): client.get("/")`` fails with a list of the queries when there are more.

    The app is the one of the fixture ``app``, unless one is given: ``assert_max_queries(5, app=other)``.
    """

    def begin(most: int, *, app: Flask | None = None) -> Queries:
        __tracebackhide__ = True
        from flask_dbopt.testing import Queries

        if app is None:
            with suppress(pytest.FixtureLookupError):
                app = request.getfixturevalue("app")
        if app is None:
            pytest.fail("assert_max_queries needs an app: from a fixture `app`, or as assert_max_queries(5, app=…)")
        optimizer = app.extensions.get("dbopt")
        if optimizer is None:
            pytest.fail(f"the app {app.name!r} has no optimizer; give it one: DBOptimizer(app)")
        return Queries(optimizer, most)

    return begin
