"""backup, backups, restore: what is taken can be listed, checked, restored and undone, with and without an app."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask


def count(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM word").fetchone()[0]


def delete_all(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM word")
        connection.commit()


@pytest.fixture
def taken(ask):
    """A backup's record."""
    code, told = ask("backup", "--label", "first")
    assert code == 0
    (record,) = told["backups"]
    return record


def test_a_backup_is_taken_proved_and_listed(say, ask, taken):
    assert taken["label"] == "first"
    assert taken["verified_at"] is not None
    code, told = ask("backups")
    assert code == 0
    assert [one["id"] for one in told["backups"]] == [taken["id"]]
    assert taken["id"] in say("backups").output
    assert "Proved" in say("backup").output


def test_no_backup_yet_is_said(say):
    told = say("backups")
    assert told.exit_code == 0
    assert "flask db-opt backup" in told.output


@pytest.mark.usefixtures("taken")
def test_a_backup_that_is_not_due_is_not_taken(say, ask):
    assert ask("backup", "--if-due") == (0, {"backups": []})
    assert "not due yet" in say("backup", "--if-due").output


def test_a_backup_may_go_unproved(say, ask):
    assert ask("backup", "--no-verify")[1]["backups"][0]["verified_at"] is None
    assert "Not proved" in say("backup", "--no-verify").output
    assert "not proved" in say("stats").output


def test_backups_are_checked_again(say, ask, taken):
    code, told = ask("backups", "--verify", "all")
    assert code == 0
    assert [(one["id"], one["whole"]) for one in told["verified"]] == [(taken["id"], True)]
    assert "whole" in say("backups", "--verify", taken["id"]).output


def test_a_damaged_backup_is_a_finding(say, ask, taken):
    with Path(taken["path"]).open("r+b") as file:
        file.seek(taken["bytes"] // 2)
        file.write(b"\xff" * 64)
    code, told = ask("backups", "--verify", "all")
    assert code == 1
    assert not told["verified"][0]["whole"]
    assert "NOT WHOLE" in say("backups", "--verify", "all").output


def test_checking_what_is_not_there_is_a_failure(ask):
    assert ask("backups", "--verify", "all")[0] == 2
    assert ask("backups", "--verify", "nothing")[0] == 2


@pytest.mark.usefixtures("taken")
def test_pruning_gives_reasons(say, ask):
    code, told = ask("backups", "--prune", "--dry-run")
    assert code == 0
    assert [(one["keep"], "30 days" in one["reason"]) for one in told["decisions"]] == [(True, True)]
    assert "kept" in say("backups", "--prune").output


@pytest.mark.parametrize("wrong", [["--dry-run"], ["--verify", "all", "--prune"]])
def test_what_makes_no_sense_together_is_misuse(say, wrong):
    assert say("backups", *wrong).exit_code == 2


def test_a_restore_replaces_the_live_content_and_can_be_undone(say, ask, taken, database):
    delete_all(database)
    code, told = ask("restore", taken["id"], "--yes")
    assert code == 0
    assert told["safety"]["kind"] == "safety"
    assert count(database) == 3000
    assert say("restore", "--undo", "--yes").exit_code == 0
    assert count(database) == 0
    assert "Way back" in say("restore", "latest", "--yes").output
    assert count(database) == 3000


def test_a_restore_without_a_terminal_needs_yes(say, taken, database):
    delete_all(database)
    told = say("restore", taken["id"])
    assert told.exit_code == 2
    assert "--yes" in told.stderr
    assert count(database) == 0


def test_a_rehearsal_changes_nothing(say, ask, taken, database):
    delete_all(database)
    assert "Nothing was changed" in say("restore", "latest", "--dry-run").output
    assert ask("restore", taken["id"], "--dry-run")[1]["safety"] is None
    assert count(database) == 0


def test_a_restore_into_a_file_leaves_the_live_database_alone(say, taken, database, tmp_path):
    delete_all(database)
    told = say("restore", taken["id"], "--to", str(tmp_path / "old.db"))
    assert told.exit_code == 0
    assert (count(tmp_path / "old.db"), count(database)) == (3000, 0)
    assert say("restore", taken["id"], "--to", str(tmp_path / "old.db")).exit_code == 2


@pytest.mark.usefixtures("taken")
def test_a_restore_by_time_takes_the_newest_one_of_then(say, ask, tmp_path):
    today = datetime.now().astimezone().date()
    assert ask("restore", "--at", f"{today}", "--to", str(tmp_path / "a.db"))[0] == 0
    told = say("restore", "--at", f"{today - timedelta(days=2)} 12:00", "--to", str(tmp_path / "b.db"))
    assert told.exit_code == 2
    assert "no backup is as old" in told.stderr


@pytest.mark.parametrize(
    "wrong",
    [[], ["latest", "--undo"], ["--at", "yesterday"], ["latest", "--backup-dir", "BACKUPS"]],
)
@pytest.mark.usefixtures("taken")
def test_a_restore_that_is_not_clear_is_misuse(say, wrong, tmp_path):
    told = say("restore", *[word.replace("BACKUPS", str(tmp_path / "instance/backups")) for word in wrong])
    assert told.exit_code == 2
    assert "Traceback" not in told.output


def test_there_is_no_way_back_before_the_first_restore(say):
    told = say("restore", "--undo", "--yes")
    assert told.exit_code == 2
    assert "no safety backup" in told.stderr


def broken() -> Flask:
    raise RuntimeError("the app is broken")


def test_a_restore_needs_no_app(ask, taken, database, tmp_path):
    delete_all(database)
    folder = str(tmp_path / "instance/backups")
    where = ("--backup-dir", folder, "--database", str(database))
    code, told = ask("restore", "latest", *where, "--yes", creates=broken)
    assert code == 0
    assert told["record"]["id"] == taken["id"]
    assert count(database) == 3000
    into = ("--backup-dir", folder, "--to", str(tmp_path / "copy.db"))
    assert ask("restore", "latest", *into, creates=broken)[0] == 0
    assert count(tmp_path / "copy.db") == 3000


def test_flask_restores_when_the_app_does_not_start(taken, database, tmp_path):
    (tmp_path / "sick.py").write_text("def create_app():\n    raise RuntimeError('the app is broken')\n")
    delete_all(database)
    command = [sys.executable, "-m", "flask", "--app", "sick", "db-opt", "restore", taken["id"], "--yes"]
    told = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "--backup-dir" in told.stderr
    assert "Traceback" not in told.stderr
    command += ["--database", str(database), "--backup-dir", str(tmp_path / "instance/backups")]
    told = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert count(database) == 3000


def test_a_folder_without_backups_is_said(ask, tmp_path):
    code, told = ask("restore", "latest", "--backup-dir", str(tmp_path), "--to", str(tmp_path / "x.db"))
    assert code == 2
    assert told["hint"]
