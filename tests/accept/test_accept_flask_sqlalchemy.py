"""Flask-SQLAlchemy's own suite, on the SQLAlchemy that it was released for."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.accept, pytest.mark.timeout(900)]

RELEASE = "3.1.1"
PASSED = 450
"""Two of its tests fail on newer SQLAlchemy 2.0: dataclasses with a ``__table__`` of their own."""


@pytest.mark.parametrize("ours", ["sqlalchemy_first", "sqlalchemy_last"])
def test_flask_sqlalchemy_says_the_same_with_our_line(ours, suites):
    python = suites.environment("flask-sqlalchemy", f"flask-sqlalchemy=={RELEASE}", "sqlalchemy>=2.0,<2.1", "pytest")
    theirs = suites.source("flask-sqlalchemy", RELEASE)
    comparison = suites.compare(
        f"Flask-SQLAlchemy ({ours})", python, [], suites.side(theirs), suites.side(theirs, (ours,))
    )
    assert comparison.without[0].count("passed") >= PASSED, comparison.without[0].output
    comparison.check(hits=False)
