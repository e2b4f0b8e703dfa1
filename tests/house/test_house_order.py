"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, metadata
from pathlib import Path

import pytest

import flask_dbopt

ROOT = Path(__file__).parents[2]
OURS = sorted((ROOT / "flask_dbopt").rglob("*.py"))
ALL = sorted(
    file for room in ("flask_dbopt", "example_app", "tests", "benchmarks") for file in (ROOT / room).rglob("*.py")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def kept() -> list[Path]:
    """Every text file that git keeps, or would keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git work tree")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_is_too_long_to_be_read_at_a_sitting():
    """Tests may be a little longer: they are looked up by name, not read from the top."""
    long = {
        str(file.relative_to(ROOT)): count
        for file in ALL
        if (count := len(file.read_text().splitlines())) > (500 if file.is_relative_to(ROOT / "tests") else 400)
    }
    assert long == {}


def test_every_file_opens_with_what_it_is_for():
    silent = [str(file.relative_to(ROOT)) for file in OURS if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []


def test_nothing_that_is_kept_speaks_of_one_machine():
    home = re.compile(rb"/(?:root|home|Users|work)/[A-Za-z.]")
    told = []
    for file in kept():
        content = file.read_bytes()
        if file != Path(__file__) and b"\0" not in content[:8000] and home.search(content):
            told.append(str(file.relative_to(ROOT)))
    assert told == []


def test_the_version_is_said_once_and_known_everywhere():
    assert PROJECT["version"] == flask_dbopt.__version__ == metadata("Flask-DBOpt")["Version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert newest is not None
    assert newest[1] == PROJECT["version"]


def test_the_licence_is_the_one_that_is_named():
    assert PROJECT["license"] == metadata("Flask-DBOpt")["License-Expression"] == "BSD-3-Clause"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Redistribution and use in source and binary forms" in text
    assert "Neither the name" in text


def test_flask_finds_the_commands():
    (entry,) = [entry for entry in entry_points(group="flask.commands") if entry.name == "db-opt"]
    assert entry.load().name == "db-opt"


def test_every_target_of_the_makefile_is_explained():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "lint", "bench", "docs", "accept", "slow"):
        assert re.search(rf"^{target}:.*\$\(READY\)|^{target}: lint", text, flags=re.M), target
        assert f"make {target} " in text
        assert f"make {target}" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "module", ["flask_dbopt", "flask_dbopt.cli", "flask_dbopt.settings", "flask_dbopt.backup.errand"]
)
def test_the_front_door_does_not_pay_for_flask(module):
    asked = f"import sys, {module}; print({{'flask', 'sqlglot', 'rich', 'sqlalchemy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
