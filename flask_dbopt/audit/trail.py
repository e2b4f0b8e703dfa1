"""The audit log's files: one that is appended to, and those before it. Every line is on the disk before we go on."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flask_dbopt.audit import chain
from flask_dbopt.audit.chain import Entry, Fault, Head, Progress, Verdict
from flask_dbopt.deeds import DONE
from flask_dbopt.shared_file import Grip, SharedFile

LARGEST = 16 << 20
"""Bytes, or …"""
OLDEST = 31 * 86_400.0
"""… seconds since its first entry, after which a new file is begun."""
_PATIENCE = 2.0
_LONGEST = 256 << 10
"""Bytes of a file's end, or beginning, in which a whole line is found."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be written down, without its place in the chain."""

    at: float
    deed: str
    outcome: str
    who: Mapping[str, Any]
    what: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _First:
    """The first line of a file: its place in the chain, and when it was written."""

    seq: int
    at: float


@dataclass(frozen=True, slots=True)
class _Known:
    """What this process wrote last: where it is, and how the file was then."""

    inode: int
    size: int
    head: Head
    line: bytes
    first: _First


class Trail:
    """``path`` is the newest file; older ones lie beside it, named after their first entry."""

    def __init__(self, path: Path, *, retention: float, largest: int = LARGEST) -> None:
        """``retention``: seconds that an entry is kept at least."""
        self.path = path
        self._retention = retention
        self._largest = largest
        self._file = SharedFile(path, mode=0o600, patience=_PATIENCE)
        self._known: _Known | None = None

    # --- writing ---

    def append(self, notes: Sequence[Note]) -> None:
        """Add entries, in this order, and wait for the disk. OSError when that cannot be: then none counts."""
        if self._write(notes):
            with suppress(OSError):  # the entries are written; what is too old goes when the next file is full
                self._prune(notes[-1].at)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, notes: Sequence[Note]) -> bool:
        """Whether the file is full, or old, and the next line goes into a new one."""
        with self._file.held() as grip:
            before, told, mend = self._found(grip, notes[0].at)
            lines, head = _chained((*told, *notes), before)
            data = mend + b"".join(lines)
            grip.append(data, sync=True)
            if grip.size == 0:
                _sync_folder(self.path.parent)
            known, size = self._known, grip.size + len(data)
            has_first = known is not None and known.inode == grip.inode
            first = known.first if known and has_first else _first_of(grip.read(_LONGEST, 0), head, notes[0].at)
            self._known = _Known(grip.inode, size, head, lines[-1], first)
            is_old = notes[-1].at - first.at > OLDEST
            return (size >= self._largest or is_old) and self._set_aside(first)

    def _found(self, grip: Grip, at: float) -> tuple[Head | None, Sequence[Note], bytes]:
        """The line that the next one follows, what has to be told first, and what mends the file's end."""
        known = self._known
        if known is not None and (known.inode, known.size) == (grip.inode, grip.size):
            return known.head, (), b""
        if grip.size == 0:
            head = self._former_head()
            if head is not None:
                return head, self._missed(grip, at, head), b""
            was = {} if known is None else {"after": str(known.head)}
            return None, (_about("audit.begin", at, chain=secrets.token_hex(8), **was),), b""
        tail = grip.read(_LONGEST, max(0, grip.size - _LONGEST))
        head = _head_of(tail, self._former_head if grip.size <= _LONGEST else None)
        piece = tail.rpartition(b"\n")[2]
        told = self._missed(grip, at, head)
        if piece and chain.read(piece) is None:
            told.insert(0, _about("audit.torn", at, bytes=len(piece)))
        return head, told, b"\n" if piece else b""

    def _missed(self, grip: Grip, at: float, head: Head) -> list[Note]:
        """What is told where the last line of this process is no longer in the chain, which ends with ``head``."""
        known = self._known
        if known is None or self._has(known, grip):
            return []
        return [_about("audit.cut", at, last=str(known.head), found=str(head))]

    def _has(self, known: _Known, grip: Grip) -> bool:
        """Whether the files still hold it. Where they begin behind it, the check asks who removed what was before."""
        if known.inode == grip.inode:
            return grip.read(len(known.line), known.size - len(known.line)) == known.line
        oldest = b""
        parts: list[Callable[[], bytes]] = [path.read_bytes for path in self._formers()]
        parts.append(partial(grip.read, grip.size, 0))
        for part in reversed(parts):
            with suppress(FileNotFoundError):  # removed by retention since it was listed
                data = part()
                if known.line in data:
                    return True
                oldest = data.partition(b"\n")[0]
        first = chain.read(oldest)
        return first is not None and first.seq > known.head.seq

    def _former_head(self) -> Head | None:
        """The last line of the files before this one."""
        data = next((data for path in reversed(self._formers()) if (data := path.read_bytes())), b"")
        return _head_of(data) if data else None

    def _set_aside(self, first: _First) -> bool:
        """Name the file after its first entry; whoever comes next makes the new one."""
        goal = self.path.with_name(f"{self.path.stem}.{first.seq:010}{self.path.suffix}")
        try:
            if not goal.exists():
                self.path.rename(goal)
                _sync_folder(goal.parent)
                return True
        except OSError:  # a folder that takes no new names: the file grows on
            return False
        return False

    def _prune(self, now: float) -> None:
        """Remove files whose last entry is past retention; that is written down before it is done."""
        doomed: list[tuple[Path, Head]] = []
        for path in self._formers()[:-1]:  # the newest of them links to what comes next
            lines = _lines_of(path)
            entry = chain.read(lines[-1]) if lines else None
            if entry is None or now - entry.at <= self._retention:
                break
            doomed.append((path, Head(entry.seq, chain.hash_of(lines[-1]))))
        if doomed:
            self._write([_about("audit.prune", now, file=path.name, upto=str(head)) for path, head in doomed])
            for path, _ in doomed:
                path.unlink(missing_ok=True)

    def _formers(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.[0-9]*{self.path.suffix}"))

    # --- reading ---

    def entries(self, since: float | None = None) -> Iterator[Entry]:
        """The newest first; lines that are no entries are left out. OSError when it may not be read."""
        for _, lines in reversed(self._files()):
            for line in reversed(lines()):
                entry = chain.read(line)
                if entry is not None and since is not None and entry.at < since:
                    return
                if entry is not None:
                    yield entry

    def verdict(self, anchor: Head | None = None) -> Verdict:
        """Check every line. ``anchor``: a head of earlier, which must still be in it. OSError as ``entries``."""
        progress, is_there = Progress(), anchor is None
        for path, lines in self._files():
            told = lines()
            progress = chain.check(told, path.name, progress)
            is_there = is_there or (anchor is not None and anchor.hash in map(chain.hash_of, told))
        verdict = progress.verdict()
        if is_there:
            return verdict
        gone = Fault(self.path.name, 1, f"the entry {anchor} that you kept is not in it: it was cut or replaced")
        return replace(verdict, faults=(*verdict.faults, gone))

    def signature(self) -> tuple[object, ...]:
        """Changes whenever a file does."""
        known = []
        for path in (*self._formers(), self.path):
            with suppress(FileNotFoundError):
                about = path.stat()
                known.append((path.name, about.st_ino, about.st_size, about.st_ctime_ns))  # which cannot be set
        return tuple(known)

    def _files(self) -> list[tuple[Path, Callable[[], list[bytes]]]]:
        """Every file, the oldest first, and how to read the lines that it had when this was called."""
        while True:
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                return [(path, partial(_lines_of, path)) for path in self._formers()]
            with file:
                _wait_for_writer(file.fileno())
                formers = self._formers()
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                        newest = _finished(file.read())
                        return [*((each, partial(_lines_of, each)) for each in formers), (self.path, newest.copy)]


def _chained(notes: Sequence[Note], before: Head | None) -> tuple[list[bytes], Head]:
    """The notes as lines that follow ``before``, and the place of the last."""
    lines = []
    for note in notes:
        seq, prev = (0, "") if before is None else (before.seq + 1, before.hash)
        line = chain.written(Entry(seq, note.at, note.deed, note.outcome, note.who, note.what, prev))
        before = Head(seq, chain.hash_of(line[:-1]))
        lines.append(line)
    assert before is not None  # noqa: S101 - there is at least one note
    return lines, before


def _about(deed: str, at: float, **what: Any) -> Note:
    """What the log says about itself."""
    return Note(at, deed, DONE, {"by": "audit", "pid": os.getpid()}, what)


def _head_of(data: bytes, former: Callable[[], Head | None] | None = None) -> Head:
    """The place of the last line, a torn one too; lines that are no entries count from the last that is one.

    Where none is, they count from what ``former`` finds.
    """
    lines = _split(data)
    for behind, line in enumerate(reversed(lines)):
        entry = chain.read(line)
        if entry is not None:
            return Head(entry.seq + behind, chain.hash_of(lines[-1]))
    before = former() if former is not None else None
    return Head(len(lines) + (-1 if before is None else before.seq), chain.hash_of(lines[-1]))


def _first_of(data: bytes, head: Head, at: float) -> _First:
    """The first line in a file's beginning, by the first entry there; where none is, ``head`` just began the file."""
    for before, line in enumerate(_split(data)):
        entry = chain.read(line)
        if entry is not None:
            return _First(entry.seq - before, entry.at)
    return _First(head.seq, at)


def _split(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]  # what follows the last line feed is no line


def _finished(data: bytes) -> list[bytes]:
    """The lines, less a last one that a killed process left half written: the next entry will tell of it."""
    piece = data.rpartition(b"\n")[2]
    return _split(data if chain.read(piece) is not None else data.removesuffix(piece))


def _lines_of(path: Path) -> list[bytes]:
    try:
        return _split(path.read_bytes())
    except FileNotFoundError:  # removed by retention since it was listed
        return []


def _wait_for_writer(fd: int, patience: float = _PATIENCE) -> None:
    """Have the lock while we read, so that no half line is seen; one who is stopped holds us up for a bounded time."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.002)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
