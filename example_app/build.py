"""Builds the data once: `python -m example_app.build`. What is half built never gets the real name."""

from __future__ import annotations

import argparse
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from example_app import DATABASE_NAME, instance_folder

LANGUAGES = {
    "nl": ("Dutch", "Nederlands"),
    "en": ("English", "English"),
    "fr": ("French", "français"),
    "de": ("German", "Deutsch"),
    "it": ("Italian", "italiano"),
    "pl": ("Polish", "polski"),
    "pt": ("Portuguese", "português"),
    "ru": ("Russian", "русский"),
    "es": ("Spanish", "español"),
    "sv": ("Swedish", "svenska"),
}
WORDS = 50_000
"""Keywords a language, the most frequent ones."""

VERSION = 1
"""Of the schema; kept in ``PRAGMA user_version`` so that an older file is recognised."""

SCHEMA = Path(__file__).with_name("schema.sql")
BATCH = 2_500
STARTER_SIZE = 100

STARTERS = {
    "the first hundred": "TRUE",
    "short words": "length(word) <= 3",
    "long words": "length(word) >= 14",
    "shared with other languages": "length(word) >= 5 AND languages >= 4",
    "found nowhere else": "length(word) >= 5 AND languages = 1",
}
"""The lists that each language starts with: a name and which keywords belong, most frequent first."""


class BuildError(RuntimeError):
    """The data could not be built; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Built:
    """What is in a finished file."""

    path: Path
    keywords: int
    lists: int
    bytes: int
    seconds: float


def is_word(text: str) -> bool:
    """A keyword has letters, and between them at most hyphens and apostrophes: no numbers, no emoji."""
    return text[0].isalpha() and text[-1].isalpha() and all(c.isalpha() or c in "-'’" for c in text)


def keywords(code: str, limit: int) -> Iterator[tuple[str, float, float, int]]:
    """A language's keywords as (word, per million, Zipf value, rank), most frequent first."""
    import wordfreq

    rank = 0
    for centibels, words in enumerate(wordfreq.get_frequency_list(code)):
        frequency = wordfreq.cB_to_freq(-centibels)
        for word in words:
            if is_word(word):
                rank += 1
                if rank > limit:
                    return
                yield word, round(frequency * 1e6, 4), wordfreq.freq_to_zipf(frequency), rank


def fill(db: sqlite3.Connection, codes: Sequence[str], words: int, progress: Progress) -> tuple[int, int]:
    """Put everything into an empty database; returns how many keywords and lists there are."""
    db.executescript(SCHEMA.read_text())
    total = 0
    bar = progress.add_task("keywords", total=len(codes) * words)
    for language_id, code in enumerate(codes, 1):
        name, native = LANGUAGES[code]
        progress.update(bar, description=name)
        db.execute("INSERT INTO language VALUES (?, ?, ?, ?)", (language_id, code, name, native))
        source = keywords(code, words)
        done = 0
        while batch := list(islice(source, BATCH)):
            db.executemany(
                "INSERT INTO keyword (language_id, word, per_million, zipf, rank) VALUES (?, ?, ?, ?, ?)",
                [(language_id, *row) for row in batch],
            )
            done += len(batch)
            progress.advance(bar, len(batch))
        progress.advance(bar, words - done)  # a language may have fewer than were asked for
        total += done
    progress.update(bar, description="keywords")

    db.execute("CREATE TEMP TABLE spread (word TEXT PRIMARY KEY, languages INTEGER) WITHOUT ROWID")
    db.execute("INSERT INTO spread SELECT word, COUNT(*) FROM keyword GROUP BY word")
    lists = 0
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.000000")
    bar = progress.add_task("starter lists", total=len(codes) * len(STARTERS))
    for language_id, code in enumerate(codes, 1):
        for title, belongs in STARTERS.items():
            members = db.execute(
                "SELECT id FROM keyword JOIN temp.spread USING (word)"
                f" WHERE language_id = ? AND {belongs} ORDER BY rank LIMIT ?",
                (language_id, STARTER_SIZE),
            ).fetchall()
            if members:
                saved = db.execute(
                    "INSERT INTO saved_list (name, starter, created_at) VALUES (?, 1, ?)",
                    (f"{LANGUAGES[code][0]}: {title}", created),
                ).lastrowid
                db.executemany(
                    "INSERT INTO saved_item (list_id, keyword_id, added_at) VALUES (?, ?, ?)",
                    [(saved, keyword_id, created) for (keyword_id,) in members],
                )
                lists += 1
            progress.advance(bar)
    return total, lists


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one build at a time in a folder; a second one waits for the first."""
    with (folder / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def version_of(path: Path) -> int:
    """The schema version of a file, or an error that says what is the matter with it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError as error:
        raise BuildError(f"{path} can't be read ({error}); build it anew with --force") from error


def count(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as db:
        one = "SELECT (SELECT COUNT(*) FROM keyword), (SELECT COUNT(*) FROM saved_list)"
        found: tuple[int, int] = db.execute(one).fetchone()
        return found


def build(
    path: Path,
    *,
    codes: Sequence[str] = tuple(LANGUAGES),
    words: int = WORDS,
    force: bool = False,
    to: TextIO | None = None,
) -> Built:
    """Make the database at ``path`` unless it is there already. Crash-safe: a draft, then one rename."""
    unknown = [code for code in codes if code not in LANGUAGES]
    if unknown or not codes:
        raise BuildError(f"no such language: {', '.join(unknown)}; there are {', '.join(sorted(LANGUAGES))}")
    if words < 1:
        raise BuildError("a language needs at least one keyword")
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with alone(path.parent):
        for left in path.parent.glob(f".{path.name}.*.draft*"):
            left.unlink()  # a build that was killed
        if path.exists() and not force:
            if version_of(path) != VERSION:
                raise BuildError(f"{path} was built by another version; build it anew with --force")
            return Built(path, *count(path), path.stat().st_size, 0.0)
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        console = Console(file=to or sys.stderr)
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        try:
            with (
                closing(sqlite3.connect(draft)) as db,
                Progress(*columns, console=console, disable=not console.is_terminal) as progress,
            ):
                db.execute("PRAGMA journal_mode = OFF")
                db.execute("PRAGMA synchronous = OFF")
                total, lists = fill(db, codes, words, progress)
                db.execute(f"PRAGMA user_version = {VERSION}")
                db.commit()
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            for suffix in ("-wal", "-shm", "-journal"):  # of the file that is being replaced
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return Built(path, total, lists, path.stat().st_size, time.perf_counter() - began)


def told(built: Built) -> str:
    """The result in one sentence."""
    size = f"{built.keywords:,} keywords and {built.lists} lists, {built.bytes / 1e6:.1f} MB"
    if built.seconds:
        return f"{built.path}: {size}, built in {built.seconds:.1f} s"
    return f"{built.path} is there already: {size} (--force builds it anew, saved lists are lost)"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m example_app.build", description=__doc__)
    parser.add_argument("--path", type=Path, help="the database file (default: instance/omni.sqlite)")
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="codes, e.g. en,de (default: all)")
    parser.add_argument("--words", type=int, default=WORDS, help="keywords a language (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="build it anew; saved lists are lost")
    chosen = parser.parse_args(arguments)
    try:
        built = build(
            chosen.path or instance_folder() / DATABASE_NAME,
            codes=[code for code in chosen.languages.split(",") if code],
            words=chosen.words,
            force=chosen.force,
        )
    except (BuildError, OSError, sqlite3.Error) as error:
        print(f"The data was not built: {error}", file=sys.stderr)
        return 2
    print(told(built))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
