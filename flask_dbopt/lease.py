"""Which of many processes does what must be done once: a lock on a file, which the system frees by itself."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict


class Holder(TypedDict):
    """Who has a lease, and since when (unix seconds)."""

    pid: int
    since: float


def default_directory() -> Path:
    """This user's own folder for lock files, under the system's folder for temporary files."""
    return Path(tempfile.gettempdir()) / f"flask-dbopt-{os.geteuid()}"


class Lease:
    """A ``flock`` on a file named after ``key()``, usually the database's device and inode.

    The lock lies on the open file, which a forked child shares: unlocking there would free the parent's,
    and a kept descriptor would outlive the parent. So a child only closes it, by ``abandon`` or at first use.
    A killed process frees its lease at once. The file stays: its name must always mean the same lock.
    """

    def __init__(
        self, key: Callable[[], str], directory: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._directory = default_directory() if directory is None else directory
        self._clock = clock
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._name = ""
        self._pid = os.getpid()
        self.problem = ""
        """Why nobody can have the lease at all, such as an unusable folder; empty while all is well."""

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._fd is not None and self._pid == os.getpid()

    def acquire(self) -> bool:
        """Take or keep the lease, without waiting. Call it regularly: holders die, keys change."""
        self._recognise_fork()
        with self._lock:
            try:
                return self._take(file_name(self._key()))
            except OSError as error:
                self._let_go()
                self.problem = f"{self._directory}: {error.strerror or error}"
                return False

    def release(self) -> None:
        """Give it up, so that another process may have it; harmless when it is not held."""
        self._recognise_fork()
        with self._lock:
            self._let_go()

    def abandon(self) -> None:
        """After a fork, in the child: close the inherited descriptor, which leaves the parent its lease."""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def holder(self) -> Holder | None:
        """Who has the lease of the present key, this process or another; None when nobody has."""
        try:
            folder = open_folder(self._directory)
            try:
                fd = os.open(file_name(self._key()), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError:
            return None
        try:
            if try_lock(fd, fcntl.LOCK_SH):
                return None
            told = json.loads(os.read(fd, 1000))
            return Holder(pid=int(told["pid"]), since=float(told["since"]))
        except (OSError, ValueError, TypeError, LookupError):  # locked a moment ago, and not signed yet
            return None
        finally:
            os.close(fd)

    def __del__(self) -> None:
        """A dropped lease is free for others. Closing is right in a forked child too."""
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)

    def _recognise_fork(self) -> None:
        if self._pid != os.getpid():
            self.abandon()

    def _take(self, name: str) -> bool:
        folder = open_folder(self._directory)
        try:
            if self._fd is not None:
                if self._name == name and _same_file(self._fd, folder, name):
                    os.utime(self._fd)  # cleaners of temporary files take old ones away
                    return True
                self._let_go()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=folder)
            if not (try_lock(fd, fcntl.LOCK_EX) and _same_file(fd, folder, name)):
                os.close(fd)
                return False
            self._fd, self._name, self.problem = fd, name, ""
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "since": self._clock()}).encode(), 0)
            return True
        finally:
            os.close(folder)

    def _let_go(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            # Not only close: a child forked a moment ago may still share the open file.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


def open_folder(folder: Path) -> int:
    """A descriptor of the folder, made if missing; only one that is ours alone, since anybody may write beside it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    about = os.fstat(fd)
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o022:
        os.close(fd)
        raise PermissionError("the folder belongs to, or may be changed by, another user")
    return fd


def file_name(key: str, kind: str = "lease") -> str:
    """The lock file for what ``key`` stands for."""
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.{kind}"


def try_lock(fd: int, how: int) -> bool:
    """``flock`` without waiting; whether it was got."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(fd: int, folder: int, name: str) -> bool:
    """Whether ``name`` still leads to the open file; a cleaner may have taken it away."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False
