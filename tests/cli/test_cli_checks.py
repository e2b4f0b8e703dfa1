"""What the doctor thinks of facts that this machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_dbopt.cli import checks
from flask_dbopt.cli.checks import NOTE, OK, PROBLEM

HOUR = 3600.0


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 40, 1), NOTE), ((3, 51, 2), NOTE), ((3, 50, 6), NOTE), ((3, 51, 0), NOTE), ((3, 44, 5), NOTE),
        ((3, 51, 3), OK), ((3, 52, 0), OK), ((3, 50, 7), OK), ((3, 44, 6), OK), ((3, 6, 23), OK),
    ],
)  # fmt: skip
def test_the_wal_reset_bug_is_known_by_version(version, level):
    assert checks.sqlite_library(version).level == level


@pytest.mark.parametrize(
    ("found", "level"),
    [
        ({"journal_mode": "wal", "synchronous": 1}, OK),
        ({"journal_mode": "wal", "synchronous": 2}, OK),
        ({"journal_mode": "delete", "synchronous": 2}, OK),
        ({"journal_mode": "delete", "synchronous": 1}, PROBLEM),
        ({"journal_mode": "wal", "synchronous": 0}, PROBLEM),
    ],
)
def test_what_a_power_cut_can_do_depends_on_mode_and_level_together(found, level):
    assert checks.durability("app", found).level == level


def test_a_pragma_that_is_not_as_wanted_is_a_problem_and_none_is_the_app_s():
    wanted = {"journal_mode": "WAL", "synchronous": "NORMAL", "cache_size": -10000, "mmap_size": None}
    found = {"journal_mode": "wal", "synchronous": 1, "cache_size": -10000, "mmap_size": 0}
    assert checks.tuning("app", found, wanted).level == OK
    off = checks.tuning("app", {**found, "cache_size": -2000}, wanted)
    assert off.level == PROBLEM
    assert off.message == "cache_size is -2000, not -10000"


def test_a_wal_beyond_its_limit_is_a_problem():
    assert checks.wal("app", 65 << 20, 64 << 20).level == PROBLEM
    assert checks.wal("app", 64 << 20, 64 << 20).level == OK


@pytest.mark.parametrize(
    ("kind", "level"), [("ext4", OK), ("nfs4", PROBLEM), ("fuse.sshfs", PROBLEM), ("overlay", NOTE), (None, NOTE)]
)
def test_locks_do_not_hold_on_every_file_system(kind, level):
    assert checks.file_system("app", kind).level == level


def test_the_file_system_is_that_of_the_deepest_mount():
    mounts = (
        "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "21 20 0:40 / /srv rw shared:1 - nfs4 host:/x rw\n"
        "22 21 0:41 / /srv/my\\040data rw - xfs /dev/sdb rw\n"
        "nonsense\n"
    )
    assert checks.file_system_of(Path("/etc/app.db"), mounts) == "ext4"
    assert checks.file_system_of(Path("/srv/app.db"), mounts) == "nfs4"
    assert checks.file_system_of(Path("/srv/my data/app.db"), mounts) == "xfs"
    assert checks.file_system_of(Path("/srv/app.db"), "") is None


def test_a_full_disk_is_a_problem():
    assert checks.disk("app", Path("backups"), 10, 20).level == PROBLEM
    assert checks.disk("app", Path("backups"), 20, 10).level == OK


@pytest.mark.parametrize(
    ("newest", "proved", "level"),
    [
        (None, None, PROBLEM),
        (100 * HOUR - 2 * HOUR, 99 * HOUR, OK),
        (100 * HOUR - 2 * HOUR, None, PROBLEM),
        (100 * HOUR - 37 * HOUR, 99 * HOUR, PROBLEM),
        (100 * HOUR - 35 * HOUR, 99 * HOUR, OK),
    ],
)
def test_a_backup_must_be_young_and_proved(newest, proved, level):
    finding = checks.backup_age("app", newest, proved, 24, 100 * HOUR)
    assert finding.level == level
    assert bool(finding.hint) == (level == PROBLEM)


def test_somebody_must_keep_the_schedule():
    assert checks.schedule(True, {"pid": 7}, "", 24).message == "process 7 holds the lease; a backup every 24 h"
    assert checks.schedule(False, {"pid": 7}, "", 24).level == NOTE
    assert checks.schedule(True, None, "", 24).level == NOTE
    assert checks.schedule(True, None, "/locks: Permission denied", 24).level == PROBLEM


def test_the_page_says_who_may_open_it():
    assert checks.admin(False, False, False, "/_dbopt").level == OK
    assert checks.admin(True, True, False, "/_dbopt").level == OK
    assert "debug" in checks.admin(True, False, True, "/_dbopt").message
    assert "closed" in checks.admin(True, False, False, "/_dbopt").message


def test_a_worker_may_not_need_more_files_than_it_is_allowed():
    assert checks.limits(4, 20, 1024).level == OK
    assert checks.limits(4, 400, 1024).level == PROBLEM


def test_figures_need_a_folder_that_can_be_written(tmp_path, monkeypatch):
    assert checks.state(None).level == NOTE
    assert checks.state(tmp_path / "new").level == OK
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert checks.state(tmp_path).level == PROBLEM


def test_a_planner_without_statistics_is_noted():
    assert checks.statistics("app", False).level == NOTE
    assert checks.statistics("app", True).level == OK
