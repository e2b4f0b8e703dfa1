"""Flask's own tutorial app: its tests say the same with our two lines as without them."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = [pytest.mark.accept, pytest.mark.timeout(600)]

TESTS = 24
"""So many has the tutorial of Flask 3.1."""

BEFORE_CONNECT = """sqlite3.connect(
            current_app.config["DATABASE"], detect_types=sqlite3.PARSE_DECLTYPES
        )"""
BEFORE_INIT = "    app.cli.add_command(init_db_command)\n"

CHANGES = {
    "connect": [
        ("import sqlite3\n", "import sqlite3\n\nfrom flask_dbopt import DBOptimizer\n"),
        (BEFORE_INIT, f'{BEFORE_INIT}    app.dbopt = DBOptimizer(app, database=app.config["DATABASE"])\n'),
        (BEFORE_CONNECT, "current_app.dbopt.connect(detect_types=sqlite3.PARSE_DECLTYPES)"),
    ],
    "drop-in": [
        ("import sqlite3\n", "from flask_dbopt import DBOptimizer, sqlite3\n"),
        (BEFORE_INIT, f"{BEFORE_INIT}    DBOptimizer(app)\n"),
    ],
}
"""Both ways that the product offers an app like this one."""


def changed(tutorial: Path, folder: Path, changes: list[tuple[str, str]]) -> Path:
    """A copy with our lines in flaskr/db.py."""
    shutil.copytree(tutorial, folder)
    file = folder / "flaskr/db.py"
    text = file.read_text()
    for before, after in changes:
        assert text.count(before) == 1, f"the tutorial has changed: {before!r}"
        text = text.replace(before, after)
    file.write_text(text)
    return folder


@pytest.mark.parametrize("way", CHANGES)
def test_the_tutorial_says_the_same_with_our_lines(way, suites, tmp_path):
    tutorial = suites.source("flask", version("flask")) / "examples/tutorial"
    comparison = suites.compare(
        f"flaskr ({way})",
        Path(sys.executable),
        ["tests"],
        suites.side(tutorial),
        suites.side(changed(tutorial, tmp_path / "tutorial", CHANGES[way])),
    )
    assert comparison.without[0].count("passed") == TESTS, comparison.without[0].output
    assert comparison.within[0].loans >= TESTS
    comparison.check(hits=False)
