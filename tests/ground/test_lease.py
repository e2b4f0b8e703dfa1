"""The lease: one process at a time, over forks, kills, replaced databases and hostile folders."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_dbopt.lease import Lease, default_directory

PRELUDE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from flask_dbopt.lease import Lease

def lease(key="database"):
    return Lease(lambda: key, Path(sys.argv[1]))

def elsewhere():  # whether another process could take it
    code = "import sys; from pathlib import Path; from flask_dbopt.lease import Lease;"
    code += "sys.exit(not Lease(lambda: 'database', Path(sys.argv[1])).acquire())"
    return subprocess.run([sys.executable, "-c", code, sys.argv[1]]).returncode == 0

def in_child(task):
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if task() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture
def run(folder: Path) -> Callable[[str], None]:
    def run(script: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + script, str(folder)], timeout=60, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def stranger(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease of "database" until its input ends."""
    script = PRELUDE + "mine = lease(); print(mine.acquire(), flush=True); sys.stdin.read(); mine.release()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_one_of_two_has_it_and_the_other_after_release(folder: Path) -> None:
    first, second = Lease(lambda: "database", folder), Lease(lambda: "database", folder)
    assert first.acquire()
    assert not second.acquire()
    assert (first.held, second.held) == (True, False)
    first.release()
    first.release()
    assert second.acquire()
    assert not first.acquire()
    second.release()


def test_to_acquire_again_keeps_it(folder: Path) -> None:
    lease = Lease(lambda: "database", folder)
    assert lease.acquire()
    assert lease.acquire()
    assert lease.held
    lease.release()
    assert not lease.held


def test_two_databases_have_a_lease_each(folder: Path) -> None:
    first, second = Lease(lambda: "one", folder), Lease(lambda: "two", folder)
    assert first.acquire()
    assert second.acquire()


def test_when_the_database_is_replaced_the_lease_moves_to_the_new_key(folder: Path) -> None:
    key = "old"
    lease = Lease(lambda: key, folder)
    old, new = Lease(lambda: "old", folder), Lease(lambda: "new", folder)
    assert lease.acquire()
    key = "new"
    assert lease.acquire()
    assert old.acquire()
    assert not new.acquire()
    old.release()
    key = "old"
    assert old.acquire()
    assert not lease.acquire()
    assert not lease.held
    assert new.acquire()


def test_it_tells_who_has_it_and_since_when(folder: Path) -> None:
    mine, other = (
        Lease(lambda: "database", folder, clock=lambda: 1234.5),
        Lease(lambda: "database", folder),
    )
    assert other.holder() is None
    assert mine.acquire()
    assert other.holder() == mine.holder() == {"pid": os.getpid(), "since": 1234.5}
    assert mine.acquire()
    mine.release()
    assert mine.holder() is None


def test_a_lease_that_is_locked_but_not_signed_yet_has_no_known_holder(folder: Path) -> None:
    lease = Lease(lambda: "database", folder)
    assert lease.acquire()
    (file,) = folder.iterdir()
    file.write_text("")
    assert Lease(lambda: "database", folder).holder() is None


def test_another_process_holds_it_until_it_lets_go(folder: Path, stranger: subprocess.Popen[str]) -> None:
    lease = Lease(lambda: "database", folder)
    assert not lease.acquire()
    holder = lease.holder()
    assert holder is not None
    assert holder["pid"] == stranger.pid
    assert abs(holder["since"] - time.time()) < 60
    stranger.communicate("")
    assert lease.acquire()


def test_a_killed_process_frees_it_at_once(folder: Path, stranger: subprocess.Popen[str]) -> None:
    lease = Lease(lambda: "database", folder)
    assert not lease.acquire()
    stranger.send_signal(signal.SIGKILL)
    stranger.wait()
    assert lease.holder() is None
    assert lease.acquire()


@pytest.mark.parametrize("deed", ["abandon", "release", "acquire", "__del__"])
def test_a_forked_child_never_frees_its_parents_lease(deed: str, run: Callable[[str], None]) -> None:
    run(f"""
mine = lease()
assert mine.acquire()
def child():
    assert not mine.held
    assert not mine.{deed}()
    return not mine.held
assert in_child(child) == 0
assert mine.held and mine.acquire()
assert not elsewhere()
mine.release()
assert elsewhere()
""")


def test_an_abandoned_child_does_not_hold_it_after_its_parent_was_killed(run: Callable[[str], None]) -> None:
    run("""
ready, told = os.pipe()
parent = os.fork()
if parent == 0:
    mine = lease()
    assert mine.acquire()
    if os.fork() == 0:
        mine.abandon()
        os.write(told, f"{os.getpid()} ".encode())
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
    os._exit(0)
grandchild = int(os.read(ready, 20))
assert not elsewhere()
os.kill(parent, signal.SIGKILL)
os.waitpid(parent, 0)
os.kill(grandchild, 0)  # still alive
assert elsewhere()
os.kill(grandchild, signal.SIGKILL)
""")


def test_a_release_counts_although_a_child_still_shares_the_open_file(run: Callable[[str], None]) -> None:
    run("""
mine = lease()
assert mine.acquire()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
mine.release()
free = elsewhere()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
assert free
""")


def test_a_child_may_take_the_lease_that_its_parent_gave_up(run: Callable[[str], None]) -> None:
    run("""
mine = lease()
assert mine.acquire()
mine.release()
assert in_child(lambda: mine.acquire() and mine.held and not elsewhere()) == 0
assert mine.acquire()
""")


def test_a_started_program_does_not_inherit_it(run: Callable[[str], None]) -> None:
    run("""
mine = lease()
assert mine.acquire()
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
mine.abandon()  # closes without unlocking: free only if nobody else has the open file
free = elsewhere()
other.kill(); other.wait()
assert free
""")


def test_a_dropped_lease_is_free(folder: Path) -> None:
    lease = Lease(lambda: "database", folder)
    assert lease.acquire()
    del lease
    gc.collect()
    assert Lease(lambda: "database", folder).acquire()


def test_a_lock_file_that_a_cleaner_took_away_is_made_anew(folder: Path) -> None:
    lease, other = Lease(lambda: "database", folder), Lease(lambda: "database", folder)
    assert lease.acquire()
    (file,) = folder.iterdir()
    file.unlink()
    assert lease.acquire()
    assert not other.acquire()
    file.unlink()
    assert other.acquire()
    assert not lease.acquire()
    assert not lease.held


def test_a_held_lock_file_does_not_grow_old(folder: Path) -> None:
    lease = Lease(lambda: "database", folder)
    assert lease.acquire()
    (file,) = folder.iterdir()
    os.utime(file, (0, 0))
    assert lease.acquire()
    assert file.stat().st_mtime > time.time() - 60


def test_folder_and_file_are_for_their_owner_only(folder: Path) -> None:
    old = os.umask(0)
    try:
        lease = Lease(lambda: "database", folder)
        assert lease.acquire()
    finally:
        os.umask(old)
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_usual_folder_is_this_users_own_under_the_systems_temporary_one() -> None:
    assert default_directory().parent == Path(tempfile.gettempdir())
    assert str(os.geteuid()) in default_directory().name
    assert Lease(lambda: "database")._directory == default_directory()


@pytest.mark.parametrize("trap", ["a file", "a link", "open to all", "another user's", "nowhere", "a linked lock"])
def test_a_folder_that_cannot_be_trusted_gives_no_lease_and_says_why(
    trap: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trap == "a file":
        folder.write_text("")
    elif trap == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    elif trap == "open to all":
        folder.mkdir()
        folder.chmod(0o777)
    elif trap == "another user's":
        folder.mkdir(mode=0o700)
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    elif trap == "nowhere":
        folder = folder / "deep"
    else:
        lease = Lease(lambda: "database", folder)
        assert lease.acquire()
        lease.release()
        (file,) = folder.iterdir()
        file.rename(tmp_path / "victim")
        file.symlink_to(tmp_path / "victim")
        before = (tmp_path / "victim").read_bytes()
    lease = Lease(lambda: "database", folder)
    assert not lease.acquire()
    assert not lease.held
    assert lease.problem.startswith(str(folder))
    assert lease.holder() is None
    if trap == "a linked lock":
        assert (tmp_path / "victim").read_bytes() == before


def test_a_problem_that_is_gone_is_forgotten(folder: Path) -> None:
    lease = Lease(lambda: "database", folder)
    folder.write_text("")
    assert not lease.acquire()
    folder.unlink()
    assert lease.acquire()
    assert lease.problem == ""


def test_a_key_that_cannot_be_told_gives_the_lease_up(folder: Path, tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    database.touch()
    lease = Lease(lambda: str(database.stat().st_ino), folder)
    assert lease.acquire()
    database.unlink()
    assert not lease.acquire()
    assert not lease.held
    assert lease.holder() is None
    assert "No such file" in lease.problem


def test_a_lock_on_a_file_that_vanished_meanwhile_counts_for_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(lambda: "database", folder)
    lock = fcntl.flock

    def clean_up_first(fd: int, how: int) -> None:
        for file in folder.iterdir():
            file.unlink()
        lock(fd, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", clean_up_first)
        assert not lease.acquire()
    assert lease.acquire()
