"""One log file under many hands: nothing torn, nothing lost, bounded, and never in the app's way."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flask_dbopt.logs import Bounds, LogFile, stamp
from tests.clock import Clock

LINE = re.compile(r"(\d+) (\d+) x{60}")

WRITER = """
import sys, threading
from pathlib import Path
from flask_dbopt.logs import Bounds, LogFile

path, number, threads, lines, size = Path(sys.argv[1]), *map(int, sys.argv[2:6])
file = LogFile(path, Bounds(max_bytes=size, keep=500))

def write(thread):
    for line in range(lines):
        file.append(f"{number * 100 + thread} {line} " + "x" * 60)

workers = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
assert not file.lost, file.problem
"""


def start(path: Path, number: int, *, threads: int = 4, lines: int = 150, size: int = 1 << 20) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(number), str(threads), str(lines), str(size)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(writer: subprocess.Popen[str]) -> None:
    _, told = writer.communicate(timeout=60)
    assert writer.returncode == 0, told


def all_lines(path: Path) -> list[str]:
    files = sorted(
        path.parent.glob(f"{path.name}*"), key=lambda each: -int(each.suffix[1:] or 0) if each != path else 1
    )
    return [line for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize("size", [1 << 20, 6000], ids=["one file", "rotated under load"])
def test_four_processes_of_four_threads_lose_and_tear_no_line(tmp_path, size):
    path = tmp_path / "many.log"
    writers = [start(path, number, size=size) for number in range(4)]
    for writer in writers:
        finish(writer)
    found = [LINE.fullmatch(line) for line in all_lines(path)]
    assert all(found), "a line is torn"
    assert len(found) == 4 * 4 * 150
    assert len({match.groups() for match in found}) == len(found)
    rotated = list(tmp_path.glob("many.log.*"))
    assert (len(rotated) > 10) == (size == 6000)
    assert all(each.stat().st_size < size + 2000 for each in rotated), (
        "somebody who waited too long adds his line all the same"
    )


def test_a_writer_that_is_killed_leaves_whole_lines_to_the_others(tmp_path):
    path = tmp_path / "many.log"
    victim, other = start(path, 1, lines=1_000_000, size=50_000), start(path, 2, lines=100, size=50_000)
    try:
        time.sleep(0.4)
    finally:
        victim.kill()
        victim.communicate()
    finish(other)
    assert all(LINE.fullmatch(line) for line in all_lines(path))
    assert sum(line.startswith("2") for line in all_lines(path)) == 400


def test_what_cannot_be_encoded_is_escaped(tmp_path):
    LogFile(tmp_path / "one.log", Bounds()).append("caf\xe9 \udcff")
    assert (tmp_path / "one.log").read_bytes() == "caf\xe9 \\udcff\n".encode()


def test_a_torn_line_spoils_no_other(tmp_path):
    path = tmp_path / "one.log"
    path.write_text("whole\nhalf a li")
    LogFile(path, Bounds()).append("next")
    assert path.read_text() == "whole\nhalf a li\nnext\n"


def test_old_files_are_numbered_from_the_youngest_and_bounded(tmp_path):
    file = LogFile(tmp_path / "one.log", Bounds(max_bytes=10, keep=2))
    for number in range(5):
        file.append(f"line {number}")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "one.log": "line 4\n",
        "one.log.1": "line 3\n",
        "one.log.2": "line 2\n",
    }


def test_a_file_is_rotated_for_its_age_too(tmp_path):
    clock, path = Clock(), tmp_path / "one.log"
    path.write_text(f"{stamp(clock.now - 59)} 1 INFO flask_dbopt: long ago\n")
    file = LogFile(path, Bounds(max_seconds=60), clock)
    file.append("young enough")
    clock.now += 2
    file.append("new")
    assert path.read_text() == "new\n"
    assert (tmp_path / "one.log.1").read_text().endswith("long ago\nyoung enough\n")


def test_a_file_that_another_process_renamed_is_left_to_it(tmp_path):
    file = LogFile(tmp_path / "one.log", Bounds())
    file.append("before")
    (tmp_path / "one.log").rename(tmp_path / "taken-away.log")
    file.append("after")
    assert (tmp_path / "taken-away.log").read_text() == "before\n"
    assert (tmp_path / "one.log").read_text() == "after\n"


def test_a_folder_that_vanished_is_made_again_and_keeps_out_of_repositories(tmp_path):
    folder = tmp_path / "logs"
    file = LogFile(folder / "one.log", Bounds())
    file.append("before")
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    file.append("after")
    assert (folder / "one.log").read_text() == "after\n"
    assert (folder / ".gitignore").read_text() == "*\n"


def test_a_full_disk_costs_lines_and_the_next_one_says_how_many(tmp_path):
    clock = Clock()
    path = tmp_path / "one.log"
    path.symlink_to("/dev/full")
    file = LogFile(path, Bounds(), clock)
    for _ in range(3):
        file.append("gone")
    assert file.lost == 3
    assert "No space left" in file.problem
    path.unlink()
    clock.now += 0.5
    file.append("gone too")
    assert not path.exists(), "a full disk is not asked again at each line"
    clock.now += 1
    file.append("here")
    first, second = path.read_text().splitlines()
    assert "lines lost: 4, No space left" in first
    assert second == "here"
    assert not file.lost


def test_a_disk_that_fills_in_the_midst_of_a_line_leaves_the_next_one_whole(tmp_path):
    script = """
import resource, sys
from pathlib import Path
from flask_dbopt.logs import Bounds, LogFile
path, now = Path(sys.argv[1]), [0.0]
file = LogFile(path, Bounds(), lambda: now[0])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
file.append("a" * 60)
file.append("b" * 60)
assert file.lost == 1, file.lost
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
now[0] = 5.0
file.append("c" * 60)
"""
    path = tmp_path / "one.log"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30)
    lines = path.read_text().splitlines()
    assert lines[0] == "a" * 60
    assert lines[1] == "b" * 39
    assert "lines lost: 1, File too large" in lines[2]
    assert lines[3] == "c" * 60


def test_a_holder_who_is_stopped_holds_nobody_up_for_long(tmp_path):
    path = tmp_path / "one.log"
    path.write_text("first\n")
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        file = LogFile(path, Bounds(max_bytes=1))
        began = time.monotonic()
        file.append("second")
        assert time.monotonic() - began < 2
    assert path.read_text() == "first\nsecond\n"
    assert not file.lost


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for somebody else")
def test_what_root_makes_belongs_to_whom_the_folder_belongs(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    folder = tmp_path / "instance" / "logs"
    LogFile(folder / "backup.log", Bounds()).append("by sudo")
    assert [each.stat().st_uid for each in (folder.parent, folder, folder / "backup.log")] == [65534] * 3
    foreign = tmp_path / "foreign"
    foreign.touch()
    folder.joinpath("monitoring.log").symlink_to(foreign)
    LogFile(folder / "monitoring.log", Bounds()).append("by sudo")
    assert foreign.stat().st_uid == 0


def test_a_folder_that_takes_no_new_names_lets_the_file_grow(tmp_path, monkeypatch):
    file = LogFile(tmp_path / "one.log", Bounds(max_bytes=10))
    file.append("first line")

    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    file.append("second line")
    assert (tmp_path / "one.log").read_text() == "first line\nsecond line\n"


def test_a_file_that_is_still_open_when_the_interpreter_ends_makes_no_noise(tmp_path):
    script = "import sys; from pathlib import Path; from flask_dbopt.logs import *; "
    script += "file = LogFile(Path(sys.argv[1]), Bounds()); file.append('last'); sys.modules['keep'] = file"
    command = [sys.executable, "-c", script, str(tmp_path / "one.log")]
    assert subprocess.run(command, check=True, capture_output=True, timeout=30).stderr == b""
    assert (tmp_path / "one.log").read_text() == "last\n"


def test_a_forked_child_writes_by_itself_and_leaves_the_parent_its_lock(tmp_path):
    path = tmp_path / "one.log"
    file = LogFile(path, Bounds())
    file.append("parent")
    with file._file.held():  # the worst moment: the child must not inherit, nor end, what its parent holds
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            file.append("child")
            os._exit(0)
        with path.open() as other:
            time.sleep(0.1)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.waitpid(child, 0)[1] == 0
    file.append("parent again")
    assert sorted(path.read_text().splitlines()) == ["child", "parent", "parent again"]
