"""The pytest fixture, in a pytest of its own, as a suite of a user has it: it is found, with pytest-flask or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import pytest
from flask import Flask
from flask_dbopt import DBOptimizer

def make(folder):
    app = Flask("shop", instance_path=str(folder / "instance"))
    app.config.update(TESTING=True, DBOPT_DATABASE=str(folder / "shop.db"))
    dbopt = DBOptimizer(app)

    @app.get("/")
    def home():
        return {"found": [dbopt.connection.execute("SELECT ?", (n,)).fetchone() for n in range(4)]}

    return app
"""
WITH_FIXTURE = (
    APP
    + """
@pytest.fixture
def app(tmp_path):
    return make(tmp_path)

def test_few_enough(client, assert_max_queries):
    with assert_max_queries(4) as ran:
        client.get("/")
    assert len(ran) == 4

def test_too_many(client, assert_max_queries):
    with assert_max_queries(3):
        client.get("/")
"""
)
WITHOUT_FIXTURE = (
    APP
    + """
def test_given(tmp_path, assert_max_queries):
    app = make(tmp_path)
    with assert_max_queries(4, app=app):
        app.test_client().get("/")

def test_no_app(assert_max_queries):
    with assert_max_queries(4):
        pass

def test_no_optimizer(assert_max_queries):
    with assert_max_queries(4, app=Flask("bare")):
        pass
"""
)


def pytest_on(folder: Path, text: str, *options: str) -> str:
    """What a pytest says about a file of tests."""
    (folder / "test_shop.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_shop.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False).stdout


def test_a_suite_with_an_app_fixture_needs_no_more(tmp_path):
    told = pytest_on(tmp_path, WITH_FIXTURE)
    assert "1 failed, 1 passed" in told
    assert "AssertionError: 4 queries ran, and at most 3 may:" in told
    assert "1.    4 ×" in told
    assert "SELECT ?" in told
    assert "in home" in told
    # the failure stands at the test's own line, not in ours
    assert "flask_dbopt/testing.py" not in told


def test_an_app_may_be_handed_in_and_a_missing_one_is_told(tmp_path):
    told = pytest_on(tmp_path, WITHOUT_FIXTURE, "-p", "no:flask")
    assert "2 failed, 1 passed" in told
    assert "assert_max_queries needs an app: from a fixture `app`, or as assert_max_queries(5, app=…)" in told
    assert "the app 'bare' has no optimizer; give it one: DBOptimizer(app)" in told


def test_the_fixture_explains_itself(tmp_path):
    assert "assert_max_queries" in pytest_on(tmp_path, "", "--fixtures")


@pytest.mark.parametrize("heavy", ["flask", "sqlglot", "rich", "flask_dbopt.extension"])
def test_starting_pytest_loads_nothing_heavy(heavy):
    code = f"import sys, flask_dbopt.pytest_plugin; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
