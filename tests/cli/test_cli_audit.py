"""`flask db-opt audit`, the doctor's look at it, and a restore that no app stands behind."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from flask_dbopt.audit.actor import Actor, acting
from flask_dbopt.audit.audit import Audit
from flask_dbopt.cli import checks, group


@pytest.fixture
def log(site, ask):
    """The app's audit log after a backup, a check of it and a cleared cache."""
    ask("backup", "--label", "first")
    ask("backups", "--verify", "all")
    ask("cache", "clear")
    return site.extensions["dbopt"].audit.path


def test_the_newest_entries_come_first_with_who_and_what(say, ask, log):
    shown = say("audit")
    assert shown.exit_code == 0
    lines = [line for line in shown.output.splitlines() if " cli, user " in line]
    assert [line.split()[3] for line in lines] == ["cache.clear", "backup.verify", "backup.take"]
    assert "label first" in lines[-1]
    assert "Chain intact, 4 entries." in shown.output
    _, told = ask("audit", "--limit", "1")
    assert told["file"] == str(log)
    assert [entry["deed"] for entry in told["entries"]] == ["cache.clear"]
    assert told["entries"][0]["who"]["command"] == "cache clear"
    assert (told["intact"], told["entries_checked"], told["faults"]) == (True, 4, [])


def test_entries_are_chosen_by_deed_and_time(ask, log):
    assert [entry["deed"] for entry in ask("audit", "--deed", "backup")[1]["entries"]] == [
        "backup.verify",
        "backup.take",
    ]
    assert len(ask("audit", "--since", "1h")[1]["entries"]) == 4
    assert ask("audit", "--since", "0s")[1]["entries"] == []


def test_what_somebody_put_there_does_not_command_the_terminal(say, log):
    audit = Audit(log)
    with acting(Actor("page", name="anna\x1b[2J")):
        audit.note("audit.cut", last="9:\x1b[1A\x1b[2Kchain intact")
    for arguments in (("audit",), ("audit", "--verify")):
        shown = say(*arguments)
        assert shown.exit_code == 1
        assert "\x1b" not in shown.output
        assert "the last was 9:·[1A·[2Kchain intact" in shown.output


def test_a_broken_chain_is_a_finding_and_its_lines_are_named(say, ask, log):
    log.write_bytes(log.read_bytes().replace(b'"first"', b'"other"').replace(b"cache.clear", b"cache.clean"))
    shown = say("audit", "--verify")
    assert shown.exit_code == 1
    assert "The chain is broken at audit.log, line 2: entry 1 was changed, or is no entry (4 entries)." in shown.output
    assert "audit.log, line 4: entry 3 was changed" in shown.output
    code, told = ask("audit")
    assert (code, told["intact"]) == (1, False)
    assert [fault["line"] for fault in told["faults"]] == [2, 4]
    code, told = ask("doctor")
    (finding,) = [each for each in told["findings"] if each["check"] == "audit log"]
    assert code == 1
    assert finding["level"] == "problem"
    assert "audit.log, line 2: entry 1 was changed" in finding["message"]


def test_a_kept_head_proves_that_nothing_was_cut_off(say, log):
    head = say("audit", "--head").output.strip()
    assert say("audit", "--verify", "--anchor", head).exit_code == 0
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert say("audit", "--verify").exit_code == 0
    shown = say("audit", "--verify", "--anchor", head)
    assert shown.exit_code == 1
    assert "that you kept is not in it" in shown.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--anchor", "12"), "'12' is no head"),
        (("--verify", "--head"), "say one at a time"),
    ],
)
def test_misuse_is_said(say, log, words, told):
    shown = say("audit", *words)
    assert shown.exit_code == 2
    assert told in shown.output


def test_the_doctor_is_content_with_a_whole_log_and_with_none(ask, log):
    def found():
        return [one for one in ask("doctor")[1]["findings"] if one["check"] == "audit log"]

    (finding,) = found()
    assert finding["level"] == "ok"
    assert finding["message"].endswith("chain intact, 4 entries")
    log.unlink()
    assert found()[0]["message"].endswith("no entry yet")


def test_no_entry_yet_is_no_fault(say, site):
    shown = say("audit")
    assert shown.exit_code == 0
    assert "No entry yet." in shown.output
    assert say("audit", "--head").output.strip() == "There is no entry yet."


def test_a_log_that_may_not_be_read_is_said(say, ask, log):
    log.unlink()
    log.mkdir()
    shown = say("audit")
    assert shown.exit_code == 2
    assert "cannot be read" in shown.output
    (finding,) = [one for one in ask("doctor")[1]["findings"] if one["check"] == "audit log"]
    assert finding["level"] == "problem"


def test_the_doctor_says_that_the_log_cannot_be_written(ask, log, monkeypatch):
    access = os.access  # root, who may run this, may write everything
    monkeypatch.setattr(os, "access", lambda path, mode: path != log and access(path, mode))
    (finding,) = [one for one in ask("doctor")[1]["findings"] if one["check"] == "audit log"]
    assert "cannot be written" in finding["message"]


def test_the_check_of_an_audit_log_has_three_outcomes(tmp_path):
    audit = Audit(tmp_path / "audit.log")
    audit.note("cache.clear")
    whole = audit.verdict()
    assert checks.audit(audit.path, whole, "").level == checks.OK
    assert checks.audit(audit.path, whole, "No space left on device").level == checks.PROBLEM
    assert checks.audit(audit.path, None, "Permission denied").level == checks.PROBLEM


def test_an_app_without_a_place_for_it_says_so(say, make_app):
    shown = say("audit", creates=lambda: make_app(TESTING=True))
    assert shown.exit_code == 2
    assert "has no place for an audit log" in shown.output


def test_a_restore_without_the_app_is_written_down_in_the_backup_folder(ask, say, log, database):
    folder = log.parents[1] / "backups"
    done = CliRunner().invoke(
        group, ["restore", "latest", "--database", str(database), "--backup-dir", str(folder), "--yes"]
    )
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(group, ["audit", "--file", str(folder / "audit.log")])
    assert shown.exit_code == 0
    assert "backup.restore" in shown.output
    assert "command restore" in shown.output
    paths = [one["message"] for one in ask("doctor")[1]["findings"] if one["check"] == "audit log"]
    assert len(paths) == 2
    assert any(str(folder) in path for path in paths)
