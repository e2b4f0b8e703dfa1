"""Which file has a name at this moment: asked at each loan, and held on to while a connection is opened."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from flask_dbopt.engines.protocol import Identity

#: Eight-byte words that no system's ``struct stat`` has more of.
_WORDS = 64


def identity_of(path: str) -> Callable[[], Identity | None]:
    """A function that tells the device and inode of the file at ``path`` now; None where there is none.

    Where it can it asks the C library without letting go of the interpreter, as ``os.stat`` does. That takes as
    long, but with four busy threads each such pause costs some 70 µs more: another thread takes the interpreter
    and gives it back only when it pauses itself (``benchmarks/contention.py``, and decision 17).
    """
    name = os.fsencode(path)  # at each loan it would cost a tenth of the call
    layout = _layout()
    if layout is None or b"\0" in name:
        return lambda: _asked(name)
    stat, device, inode = layout
    words = (ctypes.c_uint64 * _WORDS)()  # threads share it: what another one writes here is newer, of the same name

    def identity() -> Identity | None:
        if stat(name, words):
            return None
        return words[device], words[inode]

    return identity


def _asked(path: str | bytes) -> Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # at each loan, where a Path would cost as much again
    except (OSError, ValueError):
        return None
    return found[2], found[1]  # device and inode; by number, as they come quicker so


@cache
def _layout() -> tuple[Callable[[bytes, Any], int], int, int] | None:
    """The C library's ``stat``, and the words where it puts device and inode; None where that can't be told.

    Nothing is assumed of the layout: it is the place where what ``os.stat`` says is found for several files.
    """
    try:
        stat = ctypes.PyDLL(None).stat
    except (AttributeError, OSError, TypeError):  # glibc before 2.33 has only macros for it
        return None
    stat.argtypes, stat.restype = (ctypes.c_char_p, ctypes.c_void_p), ctypes.c_int
    places: list[tuple[set[int], set[int]]] = []
    for known in ("/", os.devnull, sys.executable, os.__file__, __file__):
        words = (ctypes.c_uint64 * _WORDS)()
        wanted = _asked(known)
        if wanted is None or stat(os.fsencode(known), words) != 0:
            continue
        found = tuple({at for at, word in enumerate(words) if word == part} for part in wanted)
        places.append((found[0], found[1]))
    if len(places) < 3:
        return None
    devices, inodes = (set.intersection(*sets) for sets in zip(*places, strict=True))
    if len(devices) != 1 or len(inodes) != 1:
        return None
    return stat, devices.pop(), inodes.pop()


@contextmanager
def pinned(path: str | os.PathLike[str]) -> Iterator[Identity]:
    """Which file is at this path; inside it, no other file gets the same inode number.

    So a path that still names this file at the end named it all the time. Only such a descriptor (O_PATH) may
    be closed: closing any other one would drop the locks that SQLite holds on the file.
    """
    pin = os.open(path, os.O_PATH | os.O_CLOEXEC) if hasattr(os, "O_PATH") else None
    try:
        found = os.stat(path if pin is None else pin)  # noqa: PTH116
        yield found.st_dev, found.st_ino
    finally:
        if pin is not None:
            os.close(pin)


@contextmanager
def pinned_if_there(path: str) -> Iterator[Identity | None]:
    """``pinned``, or None where there is no file yet."""
    with ExitStack() as stack:
        try:
            identity = stack.enter_context(pinned(path))
        except OSError:
            identity = None
        yield identity
