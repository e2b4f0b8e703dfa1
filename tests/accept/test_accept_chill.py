"""chill: a content system on raw ``sqlite3``, with PRAGMAs and a Flask-Caching of its own."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.accept, pytest.mark.timeout(900)]

TESTS = 67


def test_chill_says_the_same_with_our_lines(suites):
    python = suites.environment("chill", "chill==0.11.2", "pytest")
    theirs = suites.package(python, "chill")
    comparison = suites.compare(
        "chill",
        python,
        ["--pyargs", "chill.tests"],
        suites.side(theirs),
        suites.side(theirs, ("chill_lines",)),
    )
    assert comparison.without[0].count("passed") == TESTS, comparison.without[0].output
    comparison.check()
