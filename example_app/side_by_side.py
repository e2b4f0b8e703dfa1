"""The app with and without the extension, each on its own data, taking turns on the same visits."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from example_app import DATABASE_NAME, figures, instance_folder
from example_app.build import build
from example_app.server import running
from example_app.traffic import Run, Step, drive, explore, plan

TURNS = 10


def copy(source: Path, target: Path) -> None:
    """A copy as a fresh build would be: no WAL mode, nobody's pages half written."""
    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")


def added(runs: list[Run]) -> Run:
    """Several turns as one run."""
    return Run(tuple(s for run in runs for s in run.samples), sum(run.seconds for run in runs))


def turns(steps: list[Step]) -> list[list[Step]]:
    """The steps in about ten equal parts."""
    size = max(1, -(-len(steps) // TURNS))
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def compare(*, requests: int, seconds: float, threads: int, seed: int = 1, source: Path | None = None) -> str:
    """Run both and return the table. ``requests`` and ``seconds`` bound each side."""
    source = source or instance_folder() / DATABASE_NAME
    build(source)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="omni-keywords-")))
        urls = []
        for name, optimize in (("without", False), ("with", True)):
            (folder / name).mkdir()
            copy(source, folder / name / DATABASE_NAME)
            urls.append(stack.enter_context(running(folder / name, optimize=optimize)).url)
        known = explore(urls[0])
        explore(urls[1])  # both have answered the same before the clock runs
        runs: tuple[list[Run], list[Run]] = ([], [])
        parts = turns(plan(known, requests, seed))
        for number, part in enumerate(parts):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for side in order:
                runs[side].append(drive(urls[side], part, threads=threads, seconds=seconds / len(parts)))
    return figures.both(added(runs[0]), added(runs[1]))
