"""The child process: found wherever Python is, free of Flask, and its failures said plainly."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_dbopt.backup import errand
from flask_dbopt.backup.backups import Backups
from flask_dbopt.engines.sqlite.snapshotter import SQLiteSnapshotter
from flask_dbopt.errors import BackupError

Build = Callable[..., sqlite3.Connection]
Room = Callable[..., Backups]


def test_the_child_never_imports_flask() -> None:
    seen = "import sys, flask_dbopt.backup.errand as e; print({'flask', 'sqlalchemy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"


def test_python_is_found_where_the_executable_is_a_web_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert errand.python() == sys.executable
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    assert Path(errand.python()).parent == Path(sys.prefix, "bin")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert Path(errand.python()).parent == Path(sysconfig.get_config_var("BINDIR"))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: str(tmp_path))
    with pytest.raises(BackupError, match="no Python interpreter"):
        errand.python()


def test_a_backup_is_taken_from_a_folder_whose_modules_shadow_the_library(
    build: Build, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(10).close()
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    assert room().take().verified_at is not None


def job(tmp_path: Path, **more: object) -> dict[str, object]:
    recipe = SQLiteSnapshotter(tmp_path / "app.db", patience=1).recipe()
    return {
        "recipe": recipe,
        "capture": str(tmp_path / "x.ltx"),
        "txid": 1,
        "taken_at": 1.0,
        "compression": True,
        "scratch": str(tmp_path / "scratch" / "x.db"),
        "thorough": True,
        "sync": True,
        **more,
    }


def test_a_job_captures_and_proves(build: Build, tmp_path: Path) -> None:
    connection = build(300)
    answer = errand.do(job(tmp_path))
    assert answer["captured"]["content"] == answer["proof"]["content"]
    assert (tmp_path / "scratch" / "x.db").read_bytes() == connection.serialize()
    assert "integrity_check ok" in answer["proof"]["sentence"]


def test_a_restored_database_that_differs_is_refused(build: Build, tmp_path: Path) -> None:
    build(300).close()
    errand.do(job(tmp_path))
    again = {key: value for key, value in job(tmp_path).items() if key != "capture"}
    again["files"] = [str(tmp_path / "x.ltx")]
    with pytest.raises(BackupError, match="is not the file that was written"):
        errand.do({**again, "digest": "0" * 64})
    with pytest.raises(BackupError, match="restores to something else"):
        errand.do({**again, "content": "0" * 64})


def test_only_our_own_engines_are_rebuilt(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="os is no engine of this package"):
        errand.do({"recipe": {"engine": "os"}})


def spoken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], order: dict[str, object]) -> object:
    """What the child's main says to an order, here in this process."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(order)))
    monkeypatch.setattr(os, "nice", lambda _: 0)
    before = signal.getsignal(signal.SIGALRM)
    timer = signal.getitimer(signal.ITIMER_REAL)
    try:
        errand.main()
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
    return json.loads(capsys.readouterr().out)


def test_the_child_answers_or_says_what_failed(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(10).close()
    watch = {"parent": os.getppid(), "until": 1e12}
    answer = spoken(monkeypatch, capsys, job(tmp_path, **watch))
    assert isinstance(answer, dict)
    assert answer["captured"]["pages"] == answer["proof"]["pages"]
    told = spoken(monkeypatch, capsys, job(tmp_path, **watch))
    assert told == {
        "error": f"File exists: {tmp_path / 'x.ltx'}",
        "hint": "check that this user may read the database and write to the backup folder",
    }
    told = spoken(monkeypatch, capsys, {"recipe": {"engine": "os"}, **watch})
    assert told == {"error": "os is no engine of this package", "hint": "upgrade the package"}


@pytest.mark.parametrize("order", [{"parent": -1, "until": 1e12}, {"parent": os.getppid(), "until": 0}])
def test_the_child_ends_when_nobody_waits_for_it_any_more(
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    order: dict[str, object],
) -> None:
    monkeypatch.setattr(errand, "do", lambda _: signal.raise_signal(signal.SIGALRM))
    with pytest.raises(SystemExit):
        spoken(monkeypatch, capsys, order)


def test_a_child_that_breaks_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackupError, match="process failed: KeyError: 'recipe'") as caught:
        errand.run({}, limit=20)
    assert caught.value.hint
