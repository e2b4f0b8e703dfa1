"""The example app's data is real, complete, built once and never half there."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from example_app.build import BuildError, build, is_word, main

ROOT = Path(__file__).resolve().parents[2]


def ask(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def start_build(path: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "example_app.build", "--path", str(path), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_each_language_has_its_most_frequent_words_in_order(small_data: Path) -> None:
    assert ask(small_data, "SELECT code, COUNT(*) FROM keyword JOIN language l ON l.id = language_id GROUP BY 1") == [
        ("de", 600),
        ("en", 600),
        ("fr", 600),
    ]
    english = "language_id = (SELECT id FROM language WHERE code = 'en')"
    words = ask(small_data, f"SELECT word, rank, zipf FROM keyword WHERE {english} ORDER BY rank")
    assert words[0][:2] == ("the", 1)
    assert [row[1] for row in words] == list(range(1, 601))
    frequencies = [row[2] for row in words]
    assert frequencies == sorted(frequencies, reverse=True)


def test_keywords_are_words_and_nothing_else() -> None:
    assert [text for text in ("house", "l'été", "well-known", "ёлка") if is_word(text)] == [
        "house",
        "l'été",
        "well-known",
        "ёлка",
    ]
    assert not any(is_word(text) for text in ("00", "a1", "💰", "-x", "x'", "two words"))


def test_starter_lists_hold_keywords_of_their_language(small_data: Path) -> None:
    strangers = (
        "SELECT s.name, l.name FROM saved_list s JOIN saved_item i ON i.list_id = s.id"
        " JOIN keyword k ON k.id = i.keyword_id JOIN language l ON l.id = k.language_id"
        " WHERE s.name NOT LIKE l.name || ': %'"
    )
    assert ask(small_data, strangers) == []
    assert ask(small_data, "SELECT COUNT(*) FROM saved_list WHERE starter")[0][0] >= 9


def test_a_second_build_leaves_what_is_there(instance: Path) -> None:
    path = instance / "omni.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO saved_list (name, created_at) VALUES ('mine', '2026-01-01')")
        db.commit()
    built = build(path, codes=("en",), words=10)
    assert (built.keywords, built.seconds) == (1800, 0.0)
    assert ask(path, "SELECT COUNT(*) FROM saved_list WHERE name = 'mine'") == [(1,)]


def test_force_builds_it_anew(instance: Path) -> None:
    path = instance / "omni.sqlite"
    (instance / "omni.sqlite-wal").write_bytes(b"of the old file")
    assert build(path, codes=("en",), words=10, force=True).keywords == 10
    assert ask(path, "SELECT COUNT(*) FROM keyword") == [(10,)]
    assert sorted(left.name for left in instance.iterdir()) == [".build.lock", "omni.sqlite"]


@pytest.mark.parametrize("before", ["nothing", "an older build"])
def test_a_build_that_is_killed_changes_nothing_and_the_next_one_tidies_up(
    tmp_path: Path, small_data: Path, before: str
) -> None:
    path = tmp_path / "omni.sqlite"
    if before != "nothing":
        path.write_bytes(small_data.read_bytes())
    process = start_build(path, "--force")
    deadline = time.monotonic() + 30
    while not (drafts := list(tmp_path.glob("*.draft"))) or drafts[0].stat().st_size < 100_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob(".*.draft"))
    assert path.exists() == (before != "nothing")
    if path.exists():
        assert path.read_bytes() == small_data.read_bytes()
    build(path, codes=("en",), words=10)
    assert not list(tmp_path.glob(".*.draft*"))


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("example_app.build.SCHEMA", tmp_path / "no such file")
    with pytest.raises(FileNotFoundError):
        build(tmp_path / "omni.sqlite", codes=("en",), words=10)
    assert [left.name for left in tmp_path.iterdir()] == [".build.lock"]


def test_of_two_builds_at_once_one_builds_and_the_other_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "omni.sqlite"
    small = ("--languages", "en", "--words", "3000")
    both = [start_build(path, *small), start_build(path, *small)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("there already" in out.decode() for out, _ in said) == [False, True]


def test_a_terminal_sees_a_progress_bar_and_a_log_does_not(tmp_path: Path) -> None:
    quiet = start_build(tmp_path / "quiet.sqlite", "--languages", "en", "--words", "500")
    assert quiet.communicate(timeout=60)[1] == b""
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "example_app.build", "--path", str(tmp_path / "loud.sqlite")]
    loud = subprocess.Popen(
        [*command, "--languages", "en", "--words", "500"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    assert loud.wait(60) == 0
    os.close(terminal)
    seen = b""
    try:
        while piece := os.read(master, 65536):
            seen += piece
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert "500/500" in seen.decode()
    assert "starter lists" in seen.decode()


def test_what_cannot_be_built_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--path", str(tmp_path / "x"), "--languages", "en,tlh"]) == 2
    assert "no such language: tlh" in capsys.readouterr().err
    with pytest.raises(BuildError, match="at least one"):
        build(tmp_path / "x", words=0)
    with pytest.raises(BuildError):
        build(tmp_path / "x", codes=())


def test_a_foreign_or_older_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "omni.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(BuildError, match="--force"):
        build(path, codes=("en",), words=10)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(BuildError, match="--force"):
        build(path, codes=("en",), words=10)
    assert path.read_bytes().startswith(b"no database")


def test_the_command_says_what_it_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--path", str(tmp_path / "omni.sqlite"), "--languages", "en", "--words", "50"]
    assert main(arguments) == 0
    assert "50 keywords" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "there already" in capsys.readouterr().out
