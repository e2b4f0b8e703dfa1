"""Where in the app a statement comes from: the frames that are the app's own, not a library's and not ours."""

from __future__ import annotations

import os
import sys
import sysconfig
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from types import FrameType

#: Frames that are looked at, from the innermost on.
_DEEPEST = 100
#: Lines of a stack that are kept.
_LONGEST = 25

_OURS = f"{Path(__file__).resolve().parent.parent}{os.sep}"
_STDLIB = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = frozenset(("site-packages", "dist-packages"))


class _Whose(IntEnum):
    """The larger, the more a frame tells about where in the app a statement comes from."""

    OURS = 0
    LIBRARY = 1
    """Something installed, the standard library included: perhaps the app itself, if nothing else is."""
    APP = 2


def place() -> str:
    """``file:line`` of the innermost frame that is the app's own; of an installed module where there is none."""
    found = ""
    best = _Whose.OURS
    for frame in _frames():
        whose, name = _file(frame.f_code.co_filename)
        if whose > best:
            found, best = f"{name}:{frame.f_lineno}", whose
            if best is _Whose.APP:
                break
    return found


def stack() -> tuple[str, ...]:
    """The way here, innermost first, as ``file:line in function``: without our frames, and the app's own if any."""
    lines: dict[_Whose, list[str]] = {_Whose.LIBRARY: [], _Whose.APP: []}
    for frame in _frames():
        whose, name = _file(frame.f_code.co_filename)
        if whose is not _Whose.OURS:
            lines[whose].append(f"{name}:{frame.f_lineno} in {frame.f_code.co_qualname}")
    return tuple((lines[_Whose.APP] or lines[_Whose.LIBRARY])[:_LONGEST])


def _frames() -> list[FrameType]:
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(frames) < _DEEPEST:
        frames.append(frame)
        frame = frame.f_back
    return frames


@lru_cache(1000)
def _file(filename: str) -> tuple[_Whose, str]:
    """Whose file it is, and how it is named: from the working directory on, or by its last two parts."""
    if filename.startswith(_OURS):
        return _Whose.OURS, ""
    if filename.startswith("<") and filename != "<stdin>":
        return _Whose.LIBRARY, filename
    path = Path(filename).absolute()
    if str(path).startswith(_STDLIB) or not _INSTALLED.isdisjoint(path.parts):
        whose = _Whose.LIBRARY
    else:
        whose = _Whose.APP
        if path.is_relative_to(Path.cwd()):
            return whose, str(path.relative_to(Path.cwd()))
    return whose, str(Path(*path.parts[-2:]))
