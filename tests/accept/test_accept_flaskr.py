"""Flask's own tutorial app: its tests say the same with our two lines as without them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = [pytest.mark.accept, pytest.mark.timeout(600)]

TESTS = 24
"""So many has the tutorial of Flask 3.1."""

ROUNDS = 5
"""Looks at the time it takes; another machine's load must not decide."""

WITNESS = '''
"""Notes what the optimizers did, so that "all green" cannot mean "not there"."""

import json, os, pathlib
from flask import appcontext_popped

def note(app, **_):
    optimizer = app.extensions.get("dbopt")
    if optimizer is None:
        return
    key = id(optimizer)
    pool = optimizer.default.pool_stats()
    before = counts.get(key, (0, 0, 0))
    statements = sum(each.calls for each in optimizer.monitor.queries())
    counts[key] = tuple(map(max, before, (statements, pool.requests_num, pool.connections_num)))

counts = {}
appcontext_popped.connect(note)

def pytest_sessionfinish(session):
    sums = [sum(each) for each in zip(*counts.values())] or [0, 0, 0]
    told = dict(zip(("statements", "loans", "opened"), sums), apps=len(counts))
    pathlib.Path(os.environ["WITNESS"]).write_text(json.dumps(told))
'''

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


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suite."""

    outcomes: dict[str, str]
    seconds: float
    witness: dict[str, int]
    output: str


@pytest.fixture(scope="session")
def tutorial(pytestconfig, tmp_path_factory):
    """The tutorial as it lies in the source distribution of the installed Flask."""
    wanted = version("flask")
    assert pytestconfig.cache is not None
    kept = pytestconfig.cache.mkdir("sdists")
    if not list(kept.glob(f"flask-{wanted}*.tar.gz")):
        asked = [
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "flask",
            "--dest",
            str(kept),
            f"flask=={wanted}",
        ]
        subprocess.run([sys.executable, "-m", "pip", *asked], check=True, timeout=300)
    folder = tmp_path_factory.mktemp("flask")
    with tarfile.open(next(kept.glob(f"flask-{wanted}*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/examples/tutorial"))


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


def run(folder: Path, scratch: Path, *, witnessed: bool = True) -> Run:
    """The suite of the copy in ``folder``, with nothing but pytest itself and, unless it is timed, our witness."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    (scratch / "witness_plugin.py").write_text(WITNESS)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DBOPT_", "COV", "PYTEST_"))}
    env |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(scratch),
        "WITNESS": str(scratch / "witness.json"),
    }
    plugins = ["-p", "witness_plugin"] if witnessed else []
    command = [sys.executable, "-m", "pytest", *plugins, f"--junitxml={scratch / 'junit.xml'}", "tests"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert (scratch / "junit.xml").exists(), done.stdout + done.stderr
    cases = ElementTree.parse(scratch / "junit.xml").getroot().iter("testcase")
    outcomes, seconds = {}, 0.0
    for case in cases:
        verdict = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = verdict[0] if verdict else "passed"
        seconds += float(case.get("time", 0))
    witness = json.loads((scratch / "witness.json").read_text()) if witnessed else {}
    return Run(outcomes, seconds, witness, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def baseline(tutorial, tmp_path_factory):
    """Without us."""
    folder = tmp_path_factory.mktemp("baseline")
    return run(changed(tutorial, folder / "tutorial", []), folder / "scratch")


def test_the_tutorial_passes_without_us(baseline):
    assert len(baseline.outcomes) == TESTS, baseline.output
    assert set(baseline.outcomes.values()) == {"passed"}, baseline.output
    assert baseline.witness["apps"] == 0


@pytest.mark.parametrize("way", CHANGES)
def test_each_of_its_tests_says_the_same_with_our_lines(way, tutorial, baseline, tmp_path):
    ours = run(changed(tutorial, tmp_path / "tutorial", CHANGES[way]), tmp_path / "scratch")
    assert ours.outcomes == baseline.outcomes, ours.output
    assert ours.witness["apps"] >= TESTS / 2, "the optimizer was not there"
    assert ours.witness["statements"] > ours.witness["apps"], "no statement was recorded"
    assert ours.witness["loans"] >= TESTS, "the connections were not ours"


@pytest.mark.parametrize("way", CHANGES)
def test_its_tests_take_no_longer_with_our_lines(way, tutorial, tmp_path):
    before = changed(tutorial, tmp_path / "before", [])
    after = changed(tutorial, tmp_path / "after", CHANGES[way])
    without, within = [], []
    for _ in range(ROUNDS):
        without.append(run(before, tmp_path / "scratch", witnessed=False).seconds)
        within.append(run(after, tmp_path / "scratch", witnessed=False).seconds)
        if min(within) <= 1.15 * min(without):
            return
    pytest.fail(f"{min(within):.2f} s with us, {min(without):.2f} s without")
