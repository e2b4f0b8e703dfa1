"""What a signal says it brings along is what its sender hands over."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from flask_dbopt.signals import _namespace

PACKAGE = Path(__file__).parents[2] / "flask_dbopt"
SENDERS = {"emit", "_emit", "later"}


def sent() -> list[tuple[str, set[str | None]]]:
    """Every signal sent by its name, with the names of its details; None among them for ``**``."""
    calls = [
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
    ]
    return [
        (call.args[0].value, {keyword.arg for keyword in call.keywords})
        for call in calls
        if (getattr(call.func, "attr", None) or getattr(call.func, "id", None)) in SENDERS
    ]


@pytest.mark.parametrize(("name", "details"), sent())
def test_a_signal_names_every_detail_that_is_sent_with_it(name, details):
    told = (_namespace[name].__doc__ or "").partition(": ")[2].split(", ")
    assert set(told) == details


def test_each_signal_is_sent():
    assert set(_namespace) - {name for name, _ in sent()} == set()
