"""Where a statement's text comes from: the constants in the app's code, or what SQLAlchemy compiled.

Asked only when a value of the request happens to stand in a statement, so it may look far: at the functions that are
running for this request, at their modules, and at SQLAlchemy's own account of the statement.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import CodeType, FrameType, FunctionType
from typing import Any

#: Frames and constants that are looked at.
_DEEPEST, _MOST = 100, 20_000
#: Where Flask hands over to the app: whoever called Flask (a test, a server) wrote no statement of this request.
_FLASK = ("full_dispatch_request", "wsgi_app")
#: Where values come into a constant: %s, {name}, :name, ?.
_HOLDERS = re.compile(r"%(?:\(\w+\))?[sdr]|\{[^{}]*\}|:\w+|\?")
#: SQLAlchemy's functions that hand a statement to the driver; each has its ``context``.
_RUNNING = ("do_execute", "do_executemany", "do_execute_no_params", "_exec_single_context", "_exec_insertmany_context")
_OTHERS = frozenset(
    ("flask", "werkzeug", "flask_dbopt", "flask_sqlalchemy", "flask_sqlalchemy_lite", "sqlite3", "jinja2")
)


def is_own(sql: str, start: int, end: int, breaks: bool) -> bool:
    """Whether the app's own code wrote ``sql[start:end]``, as far as can be told.

    ``breaks``: it ends a literal there, or begins a comment; so better be sure.
    """
    piece = sql[start:end]
    running: set[str] = set()
    known: set[str] = set()
    listed: set[str] = set()
    for frame in _frames():
        root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if root == "sqlalchemy":
            if _is_compiled(frame, piece.lower()):
                return True
        elif root not in _OTHERS:
            running |= _constants(frame.f_code)
            running |= _named(frame.f_globals, (str,))
            known |= _of_module(frame.f_globals)
            listed |= _named(frame.f_globals, (tuple, list, set, frozenset, dict))
    if len(piece) < len(sql) and (sql in running or sql in known or sql in listed):
        return True
    # What stands in a list, or in a function that is not running, may be anything, such as a collection of attacks.
    if _covers(running if breaks else running | known, sql, start, end):
        return True
    # Chosen from a list of constants, in the function itself.
    return not breaks and not set(piece) & set("=<>|") and piece in running


def _covers(constants: set[str], sql: str, start: int, end: int) -> bool:
    """Whether the piece is a part of a constant that stands there, or of what stands between its place-holders."""
    piece = sql[start:end]
    for constant in constants:
        if piece not in constant or len(constant) == len(piece):
            continue
        for part in {constant, *_HOLDERS.split(constant)}:
            if len(part) <= len(piece) or piece not in part:
                continue
            at = sql.find(part, max(0, end - len(part)))
            while 0 <= at <= start:
                if at + len(part) >= end:
                    return True
                at = sql.find(part, at + 1)
    return False


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_DEEPEST):
        if frame is None or (frame.f_code.co_name in _FLASK and frame.f_globals.get("__name__") == "flask.app"):
            return
        yield frame
        frame = frame.f_back


@lru_cache(1000)
def _constants(code: CodeType) -> frozenset[str]:
    """Every text in a function, those within it included."""
    found: set[str] = set()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _constants(constant)
        else:
            found.update(_texts(constant))
    return frozenset(found)


def _named(names: Mapping[str, Any], kinds: tuple[type, ...]) -> set[str]:
    """The texts that a module or class has as constants, by their capitals.

    Other names may hold what was put together at run time: the last statement, a list of them.
    """
    return {
        text
        for name, value in list(names.items())
        if name.isupper() and (isinstance(value, kinds) or type(value).__name__ == "TextClause")
        for text in _texts(value)
    }


def _of_module(names: Mapping[str, Any]) -> set[str]:
    """The texts in a module's functions and classes."""
    found: set[str] = set()
    for value in list(names.values()):
        if len(found) > _MOST:
            break
        if isinstance(value, FunctionType):
            found |= _constants(value.__code__)
        elif isinstance(value, type) and value.__module__ == names.get("__name__"):
            found |= _named(vars(value), (str,))
            for member in list(vars(value).values()):
                inner = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(inner, FunctionType):
                    found |= _constants(inner.__code__)
    return found


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, list, set, frozenset, dict)) and depth < 2:
        parts: Iterable[Any] = (*value, *value.values()) if isinstance(value, dict) else value
        for part, _ in zip(list(parts), range(_MOST), strict=False):
            yield from _texts(part, depth + 1)
    elif type(value).__name__ == "TextClause":
        yield str(value.text)


def _is_compiled(frame: FrameType, piece: str) -> bool:
    """Whether SQLAlchemy wrote the piece itself: in this frame it runs what it compiled, and nobody gave it as text.

    It quotes names and escapes literals; only ``text()``, ``literal_column()`` and the like are taken as they are.
    """
    if frame.f_code.co_name not in _RUNNING:
        return False
    compiled = getattr(frame.f_locals.get("context"), "compiled", None)
    statement = getattr(compiled, "statement", None)
    return statement is not None and not any(piece in text.lower() for text in _as_given(statement))


def _as_given(statement: Any) -> Iterator[str]:
    """The texts that stand in the statement as somebody gave them."""
    from sqlalchemy.sql import visitors
    from sqlalchemy.sql.elements import ColumnClause, TextClause
    from sqlalchemy.sql.operators import custom_op

    roots = [statement, *(part for part in (getattr(statement, "element", None),) if part is not None)]
    for root in roots:
        for element in visitors.iterate(root):
            if isinstance(element, TextClause):
                yield element.text
            elif isinstance(element, ColumnClause) and element.is_literal:
                yield str(element.name)
            operator = getattr(element, "operator", None)
            if isinstance(operator, custom_op):
                yield operator.opstring
            for name in ("_prefixes", "_suffixes", "_statement_hints"):
                for each in getattr(element, name, ()):
                    yield str(each[0] if name != "_statement_hints" else each[1])
