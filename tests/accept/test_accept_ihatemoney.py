"""ihatemoney: Flask-SQLAlchemy with versioned models, and Alembic in ``create_app``; in memory and on a file."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.accept, pytest.mark.timeout(900)]

PASSED = 143
"""Three further tests look up the domain of an e-mail address: without a network they fail, with us or without."""

PLACES = {
    "in memory": ("sqlite://", "sqlalchemy_last"),
    "on a file": ("sqlite:///{folder}/ihatemoney.db", "sqlalchemy_first"),
}


@pytest.mark.parametrize("place", PLACES)
def test_ihatemoney_says_the_same_with_our_line(place, suites):
    url, ours = PLACES[place]
    python = suites.environment("ihatemoney", "ihatemoney==7.2.1", "pytest", "pytest-flask")
    theirs = suites.package(python, "ihatemoney")
    environ = {"TESTING_SQLALCHEMY_DATABASE_URI": url}
    comparison = suites.compare(
        f"ihatemoney {place}",
        python,
        ["--pyargs", "ihatemoney.tests"],
        suites.side(theirs, ("pytest_flask.plugin",), environ),
        suites.side(theirs, ("pytest_flask.plugin", ours), environ),
        rounds=1,
        eagerly=place == "on a file",  # in memory there is nothing to keep
    )
    assert comparison.without[0].count("passed") >= PASSED, comparison.without[0].output
    comparison.check(hits=place == "on a file")
