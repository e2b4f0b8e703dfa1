"""The values of the current request, for the guard: those that the app can have put into a statement by now.

Nothing is read that the app may still want to read: form and JSON count once the app has parsed them itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from flask import has_request_context, request

from flask_dbopt.monitor.forms import LONGEST, Forms, forms
from flask_dbopt.monitor.guard import Value, Values

_KEPT = "flask_dbopt.values"
_MOST_VALUES = 10_000
#: Levels of JSON that are looked into.
_DEEPEST = 20
#: Headers without anything that an app would put into a statement, or told of by another name.
_NO_VALUES = frozenset(("Content-Length", "Content-Type", "Cookie", "Authorization", "Accept", "Connection"))


def request_values() -> Values | None:
    """What this request brought; None outside of one. Each part is gathered once a request."""
    if not has_request_context():
        return None
    current: Any = request._get_current_object()  # type: ignore[attr-defined]
    gathered = current.environ.get(_KEPT)
    if gathered is None:
        gathered = current.environ[_KEPT] = _Gathered()
        gathered.take(_of_request(current))
    if not gathered.has_form and "form" in vars(current):
        gathered.has_form = True
        gathered.take(_of_form(current))
    if not gathered.has_body:
        body = _body(current)
        if body is not None:
            gathered.has_body = True
            gathered.take(("json", text) for text in body)
    return Values(current.endpoint or "(no route)", gathered.values, len(gathered.values) < _MOST_VALUES)


class _Gathered:
    """The values of one request so far."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.has_form = self.has_body = False
        self._known: set[str] = set()

    def take(self, found: Iterator[tuple[str, str]]) -> None:
        for source, text in found:
            if len(self.values) >= _MOST_VALUES:
                return
            if not text or text in self._known:
                continue
            self._known.add(text)
            sought = _forms_of_header(text) if source == "header" and len(text) < 300 else forms(text)
            if sought is not None:
                self.values.append(Value(source, sought))


@lru_cache(500)
def _forms_of_header(text: str) -> Forms | None:
    """Browsers send the same ones again and again."""
    return forms(text)


def _of_request(current: Any) -> Iterator[tuple[str, str]]:
    yield from _pairs("query", current.args)
    for name, value in (current.view_args or {}).items():
        if name and isinstance(value, str):
            yield from _one("path", value)
    yield from _pairs("cookie", current.cookies)
    authorization = current.authorization
    if authorization is not None:
        for text in (authorization.token, *(authorization.parameters or {}).values()):
            if text:
                yield "header", str(text)
    for name, text in current.headers:
        if name not in _NO_VALUES:
            yield "header", text


def _of_form(current: Any) -> Iterator[tuple[str, str]]:
    yield from _pairs("form", current.form)
    for name, file in current.files.items(multi=True):
        yield "file", name
        if file.filename:
            yield "file", file.filename


def _pairs(source: str, given: Any) -> Iterator[tuple[str, str]]:
    for name, value in given.items(multi=True):
        yield source, name
        yield from _one(source, value)


def _one(source: str, value: str) -> Iterator[tuple[str, str]]:
    """The value, and what is in it where it is JSON itself."""
    yield source, value
    if value[:1] in ("{", "[") and len(value) <= LONGEST:
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return
        for text in _texts(inner):
            yield source, text


def _body(current: Any) -> Iterator[str] | None:
    """The texts of the body, if the app has it already: as JSON, or as bytes."""
    for parsed in current._cached_json:
        if parsed is not Ellipsis:
            return _texts(parsed)
    data = getattr(current, "_cached_data", None)
    if not data or ("form" in vars(current) and current.form):
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return iter(())
    return (part for _, part in _one("json", text))


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < _DEEPEST and isinstance(value, Mapping):
        for name, part in value.items():
            yield str(name)
            yield from _texts(part, depth + 1)
    elif depth < _DEEPEST and isinstance(value, list):
        for part in value:
            yield from _texts(part, depth + 1)
