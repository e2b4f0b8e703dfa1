"""What one setting is: its declaration, and how its values are read from code or text and shown to people."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

HIDDEN = "(hidden)"

T = TypeVar("T")
Check = Callable[[Any], Any]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_NONE = frozenset({"", "none", "null"})
_SECONDS = {"seconds": 1, "hours": 3600, "days": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^@\s]*@")


def setting(
    default: T,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    env: str | None = None,
    secret: bool = False,
    check: Check | None = None,
    later: bool = False,
) -> T:
    """Declare a field of Settings. ``check`` takes a well-formed value, returns it or raises ValueError."""
    about = {
        "meaning": meaning,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "env": env,
        "secret": secret,
        "check": check,
        "later": later,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=about)  # type: ignore[return-value]
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True)
class Setting:
    """One declaration, as docs and ``flask db-opt config`` show it."""

    name: str
    kind: str
    """The type of its values, as annotated: "int", "float | None", …"""
    default: Any
    meaning: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    env: str | None
    """The second environment name it also answers to."""
    secret: bool
    check: Check | None
    later: bool
    """Declared already, so that its name is settled, but without effect in this version."""

    @property
    def key(self) -> str:
        """Its name in ``app.config`` and in the environment."""
        return f"DBOPT_{self.name.upper()}"

    @property
    def room(self) -> str:
        """The part of the package it belongs to: the first word of its name."""
        return self.name.partition("_")[0]

    @property
    def range(self) -> str:
        """What values are allowed, in words; empty where the type says it all."""
        if self.choices:
            return ", ".join(self.choices)
        low, high = (None if bound is None else f"{bound:,}" for bound in (self.low, self.high))
        span = f"{low} to {high}" if low and high else f"at least {low}" if low else ""
        return f"{span} {self.unit}" if span and self.unit else span

    def read(self, given: Any) -> Any:
        """``given`` as a value of this setting; raises ValueError with the end of a sentence about it."""
        kind = self.kind.removesuffix(" | None")
        if kind != self.kind and (given is None or (isinstance(given, str) and given.strip().lower() in _NONE)):
            return None
        if isinstance(given, timedelta) and self.unit in _SECONDS:
            given = given.total_seconds() / _SECONDS[self.unit]
        value = _size(given) if self.unit == "bytes" else _READERS[kind](given)
        if self.choices and value not in self.choices:
            raise ValueError(f"is none of {self.range}")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise ValueError(f"is out of range; {self.range}")
        return self.check(value) if self.check else value

    def shown(self, value: Any) -> Any:
        """``value`` in JSON's types, without secrets and without the passwords inside URLs."""
        if self.secret and value is not None:
            return HIDDEN
        if isinstance(value, str):
            return _PASSWORD.sub(rf"\1:{HIDDEN}@", value)
        if isinstance(value, Mapping):
            return {name: self.shown(part) for name, part in value.items()}
        return [self.shown(part) for part in value] if isinstance(value, tuple) else value


def text(given: Any) -> str:
    """A text that says something; a path is one too."""
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if not isinstance(given, str) or not given.strip():
        raise ValueError("is not a text")
    return given


def _bool(given: Any) -> bool:
    word = given.strip().lower() if isinstance(given, str) else str(given).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("is neither true nor false (true, yes, on, 1; false, no, off, 0)")
    return word in _TRUE


def _int(given: Any) -> int:
    if isinstance(given, str) and re.fullmatch(r"\s*[+-]?\d+\s*", given):
        return int(given)
    if not isinstance(given, int) or isinstance(given, bool):
        raise ValueError("is not a whole number")  # noqa: TRY004 - every bad value is a ValueError here
    return given


def _float(given: Any) -> float:
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("is not a number")
    return number


def _size(given: Any) -> int:
    if not isinstance(given, str):
        return _int(given)
    match = _SIZE.fullmatch(given.strip())
    if match is None:
        raise ValueError('is not a size (a number of bytes, or such as "64 MiB")')
    number, letter, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" kmgt".index(letter.lower()) if letter else 0))


def _texts(given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        listed = given.strip()
        given = _json(listed) if listed.startswith("[") else [part for part in re.split(r"[\s,]+", listed) if part]
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise ValueError("is not a list (with commas, or as JSON)")  # noqa: TRY004
    return tuple(text(part) for part in given)


def _mapping(given: Any) -> dict[str, Any]:
    value = _json(given) if isinstance(given, str) else given
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError('is not a mapping (from text: a JSON object such as {"name": "value"})')
    return dict(value)


def _text_or_mapping(given: Any) -> str | dict[str, Any]:
    return _mapping(given) if isinstance(given, Mapping) or str(given).lstrip().startswith("{") else text(given)


def _json(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": text,
    "tuple[str, ...]": _texts,
    "Mapping[str, str]": _mapping,
    "Mapping[str, Any]": _mapping,
    "str | Mapping[str, Any]": _text_or_mapping,
}
