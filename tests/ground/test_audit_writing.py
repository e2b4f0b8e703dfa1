"""Many hands at one audit log, hands that are killed, disks that are full, and files that are rotated and removed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flask_dbopt.audit.audit import Audit
from flask_dbopt.audit.trail import Note, Trail
from tests.clock import Clock

DAY = 86_400.0

WRITER = """
import sys, threading
from pathlib import Path
from flask_dbopt.audit.audit import Audit
from flask_dbopt.audit.trail import Trail

path, number, threads, notes, size = Path(sys.argv[1]), *map(int, sys.argv[2:6])
audit = Audit(path)
audit._trail = Trail(path, retention=1e9, largest=size)

def write(thread):
    for note in range(notes):
        audit.note("backup.take", writer=number * 100 + thread, number=note)

workers = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
assert not audit.notices(), audit.notices()
"""


def start(path: Path, number: int, *, threads: int = 4, notes: int = 25, size: int = 1 << 24) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(number), str(threads), str(notes), str(size)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(writer: subprocess.Popen[str]) -> None:
    _, told = writer.communicate(timeout=90)
    assert writer.returncode == 0, told


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.log"


@pytest.mark.parametrize("size", [1 << 24, 8000], ids=["one file", "rotated under load"])
def test_four_processes_of_four_threads_make_one_whole_chain(path, size):
    writers = [start(path, number, size=size) for number in range(4)]
    for writer in writers:
        finish(writer)
    audit = Audit(path)
    verdict = audit.verdict()
    assert verdict.intact, verdict.faults
    assert verdict.entries == 4 * 4 * 25 + 1
    told = [(entry.what["writer"], entry.what["number"]) for entry in audit.entries(deed="backup")]
    assert len(set(told)) == 400
    for writer in range(4):
        for thread in range(4):
            ordered = [number for who, number in reversed(told) if who == writer * 100 + thread]
            assert ordered == list(range(25))
    assert (len(list(path.parent.glob("audit.0*.log"))) > 5) == (size == 8000)


@pytest.mark.slow
def test_writers_that_are_killed_at_any_moment_never_break_the_chain(path):
    for turn in range(25):
        victims = [start(path, number, notes=1_000_000, size=200_000) for number in range(3)]
        time.sleep(0.35 + 0.02 * turn)
        for victim in victims:
            victim.kill()
            victim.communicate()
        verdict = Audit(path).verdict()
        assert verdict.intact, (turn, verdict.faults)
    audit = Audit(path)
    audit.note("cache.clear")
    assert audit.verdict().intact


def test_a_writer_that_is_killed_leaves_a_chain_that_others_go_on_with(path):
    victim, other = start(path, 1, notes=1_000_000), start(path, 2, notes=10)
    time.sleep(0.5)
    victim.kill()
    victim.communicate()
    finish(other)
    assert Audit(path).verdict().intact
    assert len([entry for entry in Audit(path).entries() if entry.what.get("writer", 0) >= 200]) == 40


def test_a_line_that_was_left_half_written_is_left_there_and_vouched_for(path):
    audit = Audit(path)
    audit.note("cache.clear")
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[1][:70])
    assert Audit(path).verdict().intact, "nobody has gone on yet: the line is only unfinished"
    assert Audit(path).verdict().entries == 2
    audit.note("cache.clear")
    verdict = audit.verdict()
    assert verdict.intact
    assert str(verdict) == "chain intact, 5 entries, 1 of them torn and healed"
    newest, torn = list(audit.entries())[:2]
    assert (newest.deed, newest.seq) == ("cache.clear", 4)
    assert (torn.deed, torn.what) == ("audit.torn", {"bytes": 70})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"cache", b"CACHE"), *lines[3:]]))
    assert not audit.verdict().intact, "it vouches for these bytes and no others"


def test_a_log_that_begins_with_half_a_line_is_vouched_for_too(path):
    path.write_bytes(b'{"seq":0,"at":')
    audit = Audit(path)
    audit.note("cache.clear")
    assert audit.verdict().torn == 1
    assert audit.verdict().intact


def test_a_line_that_lacks_only_its_line_feed_counts(path):
    audit = Audit(path)
    audit.note("cache.clear")
    path.write_bytes(path.read_bytes()[:-1])
    assert Audit(path).verdict().entries == 2
    Audit(path).note("cache.clear")
    assert [entry.deed for entry in audit.entries()] == ["cache.clear", "cache.clear", "audit.begin"]
    assert audit.verdict().torn == 0
    assert audit.verdict().intact


def test_a_process_notices_that_its_last_entry_is_gone(path):
    audit = Audit(path)
    for number in range(4):
        audit.note("backup.take", number=number)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    audit.note("backup.take", number=9)
    verdict = audit.verdict()
    assert "entries behind this were removed; the last was 4:" in verdict.faults[0].message
    assert [entry.deed for entry in audit.entries()][:2] == ["backup.take", "audit.cut"]


def test_a_process_notices_that_the_whole_log_is_gone(path):
    audit = Audit(path)
    audit.note("cache.clear")
    path.unlink()
    audit.note("cache.clear")
    assert "the log before it was removed; its last entry was 1:" in audit.verdict().faults[0].message


def rotated(path: Path) -> Trail:
    """A log of three whole files and one with a single entry, and the process that wrote it."""
    trail = Trail(path, retention=1e9, largest=1)
    for number in range(3):
        trail.append([Note(1_795_000_000.0 + number, "backup.take", "done", {"by": "cli"}, {"number": number})])
    trail._largest = 1 << 20
    trail.append([Note(1_795_000_003.0, "cache.clear", "done", {"by": "cli"}, {})])
    return trail


@pytest.mark.parametrize("attack", ["delete", "empty", "put back an older one", "replace them all"])
def test_a_process_notices_whatever_became_of_its_last_entry(path, tmp_path, attack):
    trail = rotated(path)
    if attack == "delete":
        path.unlink()
    elif attack == "empty":
        path.write_bytes(b"")
    elif attack == "put back an older one":
        (tmp_path / "audit.0000000003.log").rename(path)
    else:
        for file in tmp_path.glob("audit*"):
            file.unlink()
        for number in range(20):
            Audit(path).note("cache.clear", number=number)
    trail.append([Note(1_795_000_009.0, "cache.clear", "done", {"by": "cli"}, {})])
    assert "entries behind this were removed; the last was 4:" in trail.verdict().faults[0].message


def test_a_log_that_was_copied_and_moved_back_is_whole(path, tmp_path):
    trail = rotated(path)
    for file in tmp_path.glob("audit*"):
        copy = file.with_suffix(".copy")
        copy.write_bytes(file.read_bytes())
        copy.replace(file)
    trail.append([Note(1_795_000_009.0, "cache.clear", "done", {"by": "cli"}, {})])
    assert trail.verdict().intact


def test_a_new_file_that_begins_with_half_a_line_goes_on_with_the_numbers(path, tmp_path):
    rotated(path)
    path.write_bytes(path.read_bytes()[:30])
    other = Trail(path, retention=1e9, largest=1)
    other.append([Note(1_795_000_009.0, "cache.clear", "done", {"by": "cli"}, {})])
    assert [entry.seq for entry in other.entries()] == [6, 5, 3, 2, 1, 0]
    assert (other.verdict().faults, other.verdict().torn) == ((), 1)
    assert (tmp_path / "audit.0000000004.log").exists()


def test_what_cannot_be_written_is_counted_said_and_told_later(path, caplog):
    path.symlink_to("/dev/full")
    audit = Audit(path, app="shop")
    with caplog.at_level(logging.ERROR):
        audit.note("backup.restore", backup="b7")
        audit.note("cache.clear")
    assert "lost: " in caplog.text
    assert '"deed":"backup.restore"' in caplog.text
    assert '"backup":"b7"' in caplog.text
    (notice,) = audit.notices()
    assert "(entries lost so far: 2): No space left on device" in notice
    path.unlink()
    audit.note("index.apply")
    assert audit.notices() == []
    newest, gap, begin = audit.entries()
    assert (newest.deed, gap.deed, begin.deed) == ("index.apply", "audit.gap", "audit.begin")
    assert gap.what["lost"] == 2
    assert audit.verdict().intact


def test_a_lock_that_never_comes_free_costs_the_entry_not_the_deed(path):
    Audit(path).note("cache.clear")
    audit = Audit(path)
    audit._trail._file._patience = 0.05
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        audit.note("cache.clear")
    assert "another process has held" in audit.notices()[0]
    audit.note("cache.clear")
    assert [entry.deed for entry in audit.entries()][:2] == ["cache.clear", "audit.gap"]


def test_a_forked_child_goes_on_with_the_same_chain(path):
    audit = Audit(path)
    audit.note("cache.clear")
    audit.note("admin.refuse", "refused", address="192.0.2.1")  # which waits to be written by the parent
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        audit.note("figures.reset")
        audit.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    audit.close()
    assert [entry.deed for entry in reversed(list(audit.entries()))] == [
        "audit.begin", "cache.clear", "figures.reset", "admin.refuse",
    ]  # fmt: skip
    assert audit.verdict().intact


def test_the_file_is_the_apps_users_alone(path):
    Audit(path).note("cache.clear")
    assert path.stat().st_mode & 0o077 == 0


def note(at: float, number: int = 0) -> Note:
    return Note(at, "backup.take", "done", {"by": "app"}, {"number": number})


def test_a_file_is_set_aside_after_a_month_and_the_chain_goes_on(path):
    trail, at = Trail(path, retention=365 * DAY), 1_795_000_000.0
    for day in (0, 20, 32, 33):
        trail.append([note(at + day * DAY)])
    assert sorted(each.name for each in path.parent.glob("*.log")) == ["audit.0000000000.log", "audit.log"]
    assert trail.verdict().intact
    assert [entry.seq for entry in trail.entries()] == [4, 3, 2, 1, 0]
    assert [entry.seq for entry in trail.entries(since=at + 25 * DAY)] == [4, 3]
    first = path.with_name("audit.0000000000.log")
    first.write_bytes(first.read_bytes().replace(b"backup.take", b"cache.clear", 1))
    assert trail.verdict().faults[0].file == "audit.0000000000.log"
    first.unlink()
    assert not trail.verdict().intact, "nobody has said that it was removed"


def test_old_files_go_by_retention_and_the_log_says_so(path):
    trail, at = Trail(path, retention=90 * DAY, largest=1500), 1_795_000_000.0
    for number in range(120):
        trail.append([note(at + number * DAY, number)])
    kept = [entry for entry in trail.entries() if entry.deed == "backup.take"]
    assert 90 <= len(kept) < 105
    assert not path.with_name("audit.0000000000.log").exists()
    verdict = trail.verdict()
    assert verdict.intact, verdict.faults
    assert verdict.chain == "", "its beginning is past retention"
    pruned = next(entry for entry in trail.entries() if entry.deed == "audit.prune")
    assert pruned.what["file"].startswith("audit.00000")
    oldest = min(path.parent.glob("audit.0*.log"))
    oldest.unlink()
    assert "no entry says that older ones were removed" in trail.verdict().faults[0].message


def test_old_files_that_cannot_be_removed_cost_no_entry(path, monkeypatch, caplog):
    clock = Clock()
    audit = Audit(path, clock=clock)
    audit._trail = Trail(path, retention=DAY, largest=500)

    def refuse(self, missing_ok=False):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    for number in range(20):
        clock.now += DAY
        audit.note("cache.clear", number=number)
    assert (audit.notices(), caplog.text) == ([], "")
    assert [entry.what["number"] for entry in audit.entries(deed="cache")] == [*range(19, -1, -1)]
    assert not list(audit.entries(deed="audit.gap"))
    assert audit.verdict().intact
    audit.close()


def test_a_folder_that_takes_no_new_names_lets_the_file_grow(path, monkeypatch):
    trail = Trail(path, retention=DAY, largest=100)

    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    for number in range(3):
        trail.append([note(1_795_000_000.0, number)])
    assert trail.verdict().entries == 4
    assert [each.name for each in path.parent.glob("*.log")] == ["audit.log"]


def test_without_a_place_for_a_file_the_last_entries_are_in_memory():
    clock = Clock()
    audit = Audit(None, clock=clock)
    for number in range(300):
        clock.now += 1
        audit.note("cache.clear", number=number)
    assert [entry.what["number"] for entry in audit.entries(2)] == [299, 298]
    assert len(list(audit.entries(since=clock.now - 9))) == 10
    assert audit.verdict().intact
    assert audit.glance().entries == 200
    entries = audit.entries()
    assert next(entries).what["number"] == 299
    audit.note("cache.clear", number=300)
    assert next(entries).what["number"] == 298, "what is being read stays as it was"
    audit.close()


def test_texts_are_cut_and_odd_values_become_text(path):
    audit = Audit(path)
    audit.note("backup.restore", to=Path("/x"), reason="y" * 2000, nothing=None, names=["a", 1, None], flag=True)
    (entry, _) = audit.entries()
    assert entry.what == {
        "to": "/x", "reason": "y" * 499 + "…", "names": ["a", 1, "None"], "flag": True,
    }  # fmt: skip
    assert json.loads(path.read_text().splitlines()[1])["what"] == entry.what


def test_a_glance_looks_again_only_when_a_file_has_changed(path, monkeypatch):
    audit = Audit(path)
    audit.note("cache.clear")
    first = audit.glance()
    assert audit.glance() is first
    Audit(path).note("cache.clear")
    assert audit.glance().entries == 3
    path.write_bytes(path.read_bytes().replace(b"cache.clear", b"cache.CLEAR", 1))
    assert not audit.glance().intact
