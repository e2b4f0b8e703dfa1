"""Runs other people's test suites, with our lines and without, side by side, and compares them test by test."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".accept"
"""Environments and source distributions, kept from one run to the next."""

LINES = Path(__file__).with_name("lines")
"""Plugins for their pytest: those that add our lines, and the witness."""

FOREIGN = ("DBOPT_", "COV", "FLASK_", "PYTEST_", "PYTHON")
"""What must not leak from our own environment into theirs."""


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run a suite: a folder that is copied for it, and what is added to the command line."""

    folder: Path
    plugins: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a suite."""

    outcomes: dict[str, str]
    """By test: "passed", "skipped", or "failure" and "error", with the exception's class."""
    seconds: float
    """What the tests themselves took, set-up and tear-down included, pytest's own start not."""
    processor: float
    """The processor's part of the session, in seconds."""
    statements: int
    hits: int
    loans: int
    opened: int
    apps: int
    complaints: tuple[str, ...]
    """What our package said in the log at level ERROR."""
    output: str

    def count(self, outcome: str) -> int:
        return sum(each.startswith(outcome) for each in self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same suite without us and with us, in runs that took place at the same time."""

    name: str
    without: tuple[Run, ...]
    within: tuple[Run, ...]
    eager: Run | None = None
    """With our rooms keeping all they can; see lines/eager.py."""

    @property
    def ours(self) -> list[Run]:
        """Every run with us, the one that keeps most last."""
        return [*self.within, *([self.eager] if self.eager else [])]

    def ratios(self) -> list[float]:
        """How many times as long each round took with us."""
        return [ours.seconds / theirs.seconds for theirs, ours in zip(self.without, self.within, strict=True)]

    def processor(self) -> float:
        """How many times as much of the processor we took: what hardly depends on what else the machine does."""
        theirs, ours = (sum(run.processor for run in runs) for runs in (self.without, self.within))
        return ours / theirs

    def differences(self) -> dict[str, tuple[str, str]]:
        """Each test that says something else with us, as (without, with)."""
        differing = {}
        for ours in self.ours:
            for theirs in self.without:
                for test in theirs.outcomes | ours.outcomes:
                    said = theirs.outcomes.get(test, "not run"), ours.outcomes.get(test, "not run")
                    if said[0] != said[1]:
                        differing[test] = said
        return differing

    def check(self, *, hits: bool = True) -> None:
        """What holds for every suite: nothing differs, and we were there. What it took is printed, not judged.

        ``hits``: whether it asks anything twice of a database that could be cached.
        """
        assert self.differences() == {}, "".join(run.output for run in self.ours)
        assert all(run.apps == 0 for run in self.without), "the baseline is none"
        for run in self.ours:
            assert run.complaints == ()
            assert run.apps > 0, "the optimizer was not there"
            assert run.statements > run.apps, "no statement was recorded"
            assert run.opened > 0, "the connections were not ours"
        assert self.ours[-1].loans > self.ours[-1].opened, "no connection was used twice"
        assert self.ours[-1].hits > 0 or not hits, "the cache answered nothing"

    def __str__(self) -> str:
        first, last = self.within[0], self.ours[-1]
        return (
            f"{self.name}: {first.count('passed')} of {len(first.outcomes)} pass, {len(self.differences())} differ; "
            f"{first.apps} apps, {first.statements} statements, {first.loans} loans of {first.opened} connections, "
            f"{first.hits} hits (eager: {last.loans} of {last.opened}, {last.hits}); "
            f"{median(self.ratios()):.2f}x of {median(run.seconds for run in self.without):.1f} s, "
            f"{self.processor():.2f}x of the processor (median of {len(self.within)})"
        )


def environment(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment with ``requirements`` and us, made once and kept in ``.accept``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*requirements, *project["dependencies"], sys.version]
    folder = KEPT / f"{name}-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]}"
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, symlinks=True)
        pip("--python", str(python), "install", *requirements, "--editable", str(ROOT))
        (folder / "ready").touch()
    return python


def package(python: Path, name: str) -> Path:
    """Where an environment has the package ``name``."""
    command = [str(python), "-c", f"import importlib.util as u; print(u.find_spec({name!r}).origin)"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return Path(found.stdout.strip()).parent


def source(name: str, release: str) -> Path:
    """The unpacked source distribution of a release."""
    folder = KEPT / f"{name}-{release}-source"
    if not folder.exists():
        pip("download", "--no-deps", "--no-binary", name, "--dest", str(KEPT), f"{name}=={release}")
        unpacked = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(unpacked, ignore_errors=True)
        with tarfile.open(next(KEPT.glob(f"{name.replace('-', '[-_]')}-{release}.tar.gz"))) as archive:
            archive.extractall(unpacked, filter="data")
        unpacked.rename(folder)
    return next(each for each in folder.iterdir() if each.is_dir())


def pip(*arguments: str) -> None:
    KEPT.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Suites:
    """Runs suites under a folder of this session's own, and keeps what there is to tell in the end."""

    def __init__(self, scratch: Path, told: list[str]) -> None:
        self._scratch = scratch
        self._told = told
        self._count = 0

    environment = staticmethod(environment)
    package = staticmethod(package)
    source = staticmethod(source)
    side = Side

    def compare(
        self,
        name: str,
        python: Path,
        arguments: Sequence[str],
        without: Side,
        within: Side,
        *,
        rounds: int = 3,
        eagerly: bool = True,
    ) -> Comparison:
        """Both sides at the same time, ``rounds`` times: what else the machine does then slows down both alike."""
        eager = [replace(within, plugins=(*within.plugins, "eager"))] if eagerly else []
        runs: list[list[Run]] = []
        for number in range(rounds):
            sides = [without, within, *(eager if number == rounds - 1 else [])]
            started = [self._start(python, arguments, side) for side in sides]
            try:
                runs.append([_result(*each) for each in started])
            finally:
                for process, _ in started:
                    process.kill()
        theirs, ours = (tuple(run[at] for run in runs) for at in (0, 1))
        comparison = Comparison(name, theirs, ours, *runs[-1][2:])
        self._told.append(str(comparison))
        return comparison

    def _start(self, python: Path, arguments: Sequence[str], side: Side) -> tuple[subprocess.Popen[str], Path]:
        self._count += 1
        folder = self._scratch / str(self._count)
        shutil.copytree(side.folder, folder / side.folder.name, ignore=shutil.ignore_patterns("__pycache__"))
        env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        env |= {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            # The copy comes before the installed package: two runs at a time must not write to the same files.
            "PYTHONPATH": f"{folder}{os.pathsep}{LINES}",
            "WITNESS": str(folder / "witness.json"),
            **{key: value.format(folder=folder) for key, value in side.environ.items()},
        }
        plugins = [word for plugin in ("witness", *side.plugins) for word in ("-p", plugin)]
        command = [str(python), "-m", "pytest", *plugins, f"--junitxml={folder}/junit.xml", *arguments]
        with (folder / "output").open("w") as output:
            process = subprocess.Popen(
                command, cwd=folder / side.folder.name, env=env, stdout=output, stderr=subprocess.STDOUT, text=True
            )
        return process, folder


def _result(process: subprocess.Popen[str], folder: Path) -> Run:
    process.wait(timeout=600)
    output = (folder / "output").read_text(errors="replace")
    assert (folder / "junit.xml").exists(), output
    outcomes, seconds = {}, 0.0
    for case in ElementTree.parse(folder / "junit.xml").getroot().iter("testcase"):
        said = [
            f"{child.tag} {child.get('message', '').partition(':')[0]}".strip()
            for child in case
            if child.tag in ("failure", "error", "skipped")
        ]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = ", ".join(said) or "passed"
        seconds += float(case.get("time", 0))
    told = json.loads((folder / "witness.json").read_text())
    told["complaints"] = tuple(told["complaints"])
    return Run(outcomes, seconds, output=output, **told)


_told = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def suites(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Suites:
    told = pytestconfig.stash.setdefault(_told, [])
    return Suites(tmp_path_factory.mktemp("suites"), told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_told, []):
        terminalreporter.write_line(line)
